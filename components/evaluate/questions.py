"""The evaluation set: every question of every task, the same for all models, and its digest.

A question is what lm-eval asks: the strings that it shows and scores. They are built once, and again in each model's
own evaluation; `check_same` checks that they are the same.
"""

import hashlib
import json
import posixpath
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.evaluate.catalogue import FEWSHOT_SEED, EvaluationTask
from matta_core.artifacts import digest_of
from matta_core.artifacts.kinds.evaluation import Question, Task
from matta_core.errors import UserError
from matta_core.recipe import BUILT_IN_TASKS

# A slice of one document has no standard error, and a hundred slices summarise nothing.
_MIN_SOURCE_DOCUMENTS = 2
_MAX_SOURCES = 12
OTHER_SOURCES = "other"
_LENGTHS = ("short", "medium", "long")


@dataclass(frozen=True)
class EvaluationSet:
    """All questions. `descriptions` has each task's entry of results.json.

    `samples` has, by task, the indices that lm-eval is asked for, where it is not asked for all.
    """

    tasks: Sequence[EvaluationTask]
    questions: Sequence[Question]
    descriptions: Mapping[str, Task]
    samples: Mapping[str, list[int]]

    @property
    def digest(self) -> str:
        return digest_of({name: description["digest"] for name, description in self.descriptions.items()})

    def check_same(self) -> None:
        """Check that lm-eval has just asked these very questions. It is an assertion: a difference is a bug."""
        for task in self.tasks:
            digest = _digest(task, list(_requests(task).values()))
            assert digest == self.descriptions[task.name]["digest"], f"{task.name} asked other questions"


def build(tasks: Sequence[EvaluationTask]) -> EvaluationSet:
    """Ask lm-eval for the questions of all tasks, in order of task, then index.

    Raises: UserError where the questions of a task are all about one document.
    """
    questions: list[Question] = []
    descriptions: dict[str, Task] = {}
    samples = {}
    for task in tasks:
        number = len(task.task.eval_docs)
        if task.limit is not None and task.limit < number:
            samples[task.name] = list(range(task.limit))
        task.task.set_fewshot_seed(FEWSHOT_SEED)
        task.task.build_all_requests(samples=samples.get(task.name))
        asked = list(_requests(task).values())
        ours = _questions(task, asked)
        documents = len({question["document"] for question in ours})
        if documents < 2:
            limited = f"its limit of {task.limit} questions" if task.name in samples else f"its {len(ours)} questions"
            raise UserError(
                f"evaluate.tasks.{task.name}: {limited} are about {documents} passage, and a standard error needs 2: "
                f"{'raise the limit' if task.name in samples else 'give it more questions'}, or leave it out"
            )
        questions += ours
        descriptions[task.name] = {
            "metric": task.metric,
            "higher_is_better": task.higher_is_better,
            "unit": task.unit,
            "version": task.version,
            "digest": _digest(task, asked),
            "questions": len(ours),
            "documents": documents,
        }
    return EvaluationSet(tasks, questions, descriptions, samples)


def cut_questions(evaluation_set: EvaluationSet, count_tokens: Callable[[str], int], max_length: int) -> dict[str, int]:
    """By task, how many questions are longer than a model sees. lm-eval cuts off their beginnings without a word.

    The tokens that a model must write count as well. Texts whose likelihood is taken window by window are never cut.
    """
    counts = {}
    for task in evaluation_set.tasks:
        if task.task.OUTPUT_TYPE == "loglikelihood_rolling":
            continue
        room = max_length - task.new_tokens + (task.new_tokens == 0)  # the last token is predicted, not seen
        counts[task.name] = sum(
            any(count_tokens("".join(_texts(request))) > room for request in requests)
            for requests in _requests(task).values()
        )
    return counts


def write_questions(path: Path, evaluation_set: EvaluationSet) -> None:
    path.write_text("".join(json.dumps(question) + "\n" for question in evaluation_set.questions), encoding="utf-8")


def source_slices(sources: Sequence[str], documents: Sequence[str]) -> list[str]:
    """The slice of every question, by where its document comes from.

    A source is a row of a file (`news.jsonl:17`) or a whole file. The slice of a row is its file. That of a file is the
    first folder below the one that holds them all, or "." for a file right there. Slices of fewer than two documents,
    and those beyond the twelve largest, become one slice, "other".
    """
    rows = [re.match(r"(.*):\d+$", source) for source in sources]
    files = [row.group(1) if row else source for row, source in zip(rows, sources, strict=True)]
    root = posixpath.commonpath({posixpath.dirname(file) for file in files})
    below = [posixpath.relpath(file, root) if root else file for file in files]
    names = below if any(rows) else [path.split("/")[0] if "/" in path else "." for path in below]
    members = defaultdict(set)
    for name, document in zip(names, documents, strict=True):
        members[name].add(document)
    large = [name for name in members if len(members[name]) >= _MIN_SOURCE_DOCUMENTS]
    kept = set(sorted(large, key=lambda name: (-len(members[name]), name))[:_MAX_SOURCES])
    return [name if name in kept else OTHER_SOURCES for name in names]


def length_slices(lengths: Sequence[int]) -> list[str]:
    """The slice of every question by length: short, medium and long are thirds of all."""
    ordered = sorted(lengths)
    first, second = ordered[len(ordered) // 3], ordered[2 * len(ordered) // 3]
    return [_LENGTHS[(length >= first) + (length >= second)] for length in lengths]


def _requests(task: EvaluationTask) -> dict[int, list[Any]]:
    """The requests of lm-eval, by question, in order."""
    requests: dict[int, list[Any]] = defaultdict(list)
    for instance in task.task.instances:
        requests[instance.doc_id].append(instance)
    return dict(sorted(requests.items()))


def _digest(task: EvaluationTask, asked: Sequence[Sequence[Any]]) -> str:
    """The digest of what a model sees and what counts as right: strings, targets, metric, version."""
    seen = [
        [[list(request.arguments) for request in requests], str(task.task.doc_to_target(requests[0].doc))]
        for requests in asked
    ]
    return digest_of({"metric": task.metric, "version": task.version, "questions": seen})


def _questions(task: EvaluationTask, asked: Sequence[Sequence[Any]]) -> list[Question]:
    documents = [_document(task, requests) for requests in asked]
    return [
        {
            "task": task.name,
            "question": index,
            "document": document,
            "weight": _weight(task, requests[0].doc),
            "slices": slices,
        }
        for index, (requests, document, slices) in enumerate(
            zip(asked, documents, _slices(documents, asked), strict=True)
        )
    ]


def _weight(task: EvaluationTask, row: Any) -> float:
    if task.metric != "bits_per_byte":
        return 1.0
    _, num_bytes = task.task.process_results(row, [0.0])["bits_per_byte"]
    return float(num_bytes)


def _document(task: EvaluationTask, requests: Sequence[Any]) -> str:
    """The unit of random sampling: the held-out document, the passage that questions share, or the question itself."""
    row = requests[0].doc
    if task.name in BUILT_IN_TASKS:
        return row["document"]
    for field in ("document", "passage"):
        if isinstance(row.get(field), str) and row[field].strip():
            return hashlib.sha256(row[field].encode()).hexdigest()
    return digest_of([list(request.arguments) for request in requests])


def _slices(documents: Sequence[str], asked: Sequence[Sequence[Any]]) -> Iterator[dict[str, str]]:
    """Each question's slice by kind. A kind that puts all questions into one slice says nothing, and is left out."""
    kinds = {
        "length": length_slices([max(sum(map(len, _texts(request))) for request in requests) for requests in asked])
    }
    sources = [requests[0].doc.get("source") for requests in asked]
    if all(isinstance(source, str) and source for source in sources):
        kinds["source"] = source_slices(sources, documents)
    kept = {kind: names for kind, names in kinds.items() if len(set(names)) > 1}
    for place in range(len(asked)):
        yield {kind: names[place] for kind, names in kept.items()}


def _texts(request: Any) -> list[str]:
    return [argument for argument in request.arguments if isinstance(argument, str)]
