"""Two lm-eval tasks made from held-out documents. They are part of the artifact.

`matta_last_token` asks for the last token of a line after a long context, in the manner of LAMBADA.
`matta_bits_per_byte` is the log-likelihood of whole documents, in bits, per byte of their UTF-8 text.

Each is a YAML file and a JSON Lines file. The documents' digests alone decide what is drawn, so the same documents in
other shards, or in another order, give the same questions.
"""

import hashlib
import heapq
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq
import yaml
from lm_eval.tasks import TaskManager
from transformers import PreTrainedTokenizerBase

from components.evaluate.catalogue import EvaluationTask
from matta_core.artifacts import digest_of
from matta_core.errors import UserError
from matta_core.objectives import OBJECTIVE
from matta_core.recipe import BUILT_IN_TASKS, EvaluateConfig

BITS_PER_BYTE, LAST_TOKEN = BUILT_IN_TASKS

# Lines of one document are much alike: a few lines of every document are worth more than many lines of some.
LINES_PER_DOCUMENT = 8
# Where a question's token may end. The patterns are tried in order, and the first that gives a document a question is
# used: a line's last letter or digit; the same before punctuation; the end of any word.
_ENDS = (
    re.compile(r"[^\W_](?=\s*$)", re.MULTILINE),
    re.compile(r"[^\W_](?=[^\w\n]*$)", re.MULTILINE),
    re.compile(r"[^\W_](?!\w)"),
)
# Short documents have no line with a long context, so this many times the wanted documents are looked at.
DOCUMENTS_LOOKED_AT = 4

_TASKS: dict[str, dict[str, Any]] = {
    LAST_TOKEN: {
        "output_type": "loglikelihood",
        "doc_to_text": "context",
        "doc_to_target": "target",
        "metric_list": [{"metric": "acc"}],
    },
    BITS_PER_BYTE: {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "text",
        "metric_list": [{"metric": "bits_per_byte"}],
    },
}
_USAGE = "# Run it from this folder: lm_eval run --model hf --model_args pretrained=... --include_path . --tasks {}\n"


class HeldOutDocument(NamedTuple):
    """A held-out document; `digest` is the sha256 of its text."""

    digest: str
    source: str
    text: str


def write_tasks(
    dataset: Path, folder: Path, config: EvaluateConfig, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> None:
    """Write the objective's tasks to `folder`.

    `max_length` is the number of tokens that the model with the shortest context sees at once.
    Raises: UserError where the held-out documents give too few questions.
    """
    if config.last_token_context > max_length:
        raise UserError(
            f"evaluate.last_token_context must be <= {max_length}, the tokens that all models can see at once, "
            f"got {config.last_token_context}"
        )
    wanted = max(config.last_token_questions, config.bits_per_byte_documents)
    documents = heapq.nsmallest(DOCUMENTS_LOOKED_AT * wanted, read_documents(dataset))
    whole = [
        {"document": item.digest, "source": item.source, "text": cut(item.text, config.bits_per_byte_characters)}
        for item in documents[: config.bits_per_byte_documents]
    ]
    lines = last_tokens(documents, config, tokenizer, max_length)
    if len({line["document"] for line in lines}) < 2:
        lines = last_tokens(sorted(read_documents(dataset)), config, tokenizer, max_length)
    more = "raise prepare_data.validation_fraction, or give more text"
    shorter = (
        f"a question is the end of a word after at least evaluate.last_token_context = "
        f"{config.last_token_context} tokens of its document: lower that"
    )
    made = {BITS_PER_BYTE: (whole, more), LAST_TOKEN: (lines, f"{shorter}, {more}")}
    for name in OBJECTIVE.tasks:
        questions, remedy = made[name]
        found = len({question["document"] for question in questions})
        if found < 2:
            raise UserError(
                f"{dataset / 'validation_documents'} has {found} documents for the task {name}, and a standard error "
                f"needs 2: {remedy}"
            )
        _write_task(folder, name, questions)


def load_tasks(folder: Path, cache: Path) -> list[EvaluationTask]:
    """Both tasks. The datasets library may write to `cache`."""
    specifications = []
    for file in sorted(folder.glob("*.yaml")):
        specification = yaml.safe_load(file.read_text(encoding="utf-8"))
        # The files name one another without a folder, so that the artifact can be moved.
        data_files = {"test": str(folder / specification["dataset_kwargs"]["data_files"]["test"])}
        specifications.append(specification | {"dataset_kwargs": {"data_files": data_files, "cache_dir": str(cache)}})
    loaded = TaskManager(include_defaults=False).load(specifications)["tasks"]
    return [EvaluationTask(name, loaded[name], _TASKS[name]["metric_list"][0]["metric"]) for name in OBJECTIVE.tasks]


def read_documents(dataset: Path) -> Iterator[HeldOutDocument]:
    """The held-out documents that hold more than white space."""
    for shard in sorted((dataset / "validation_documents").glob("*.parquet")):
        for batch in pq.ParquetFile(shard).iter_batches(columns=["source", "text"]):
            for row in batch.to_pylist():
                if row["text"].strip():
                    digest = hashlib.sha256(row["text"].encode()).hexdigest()
                    yield HeldOutDocument(digest, row["source"], row["text"])


def cut(text: str, characters: int) -> str:
    """The beginning of a text: at most `characters`, at least half of them, and up to the end of a line if possible."""
    if len(text) <= characters:
        return text
    return text[: text.rfind("\n", characters // 2, characters) + 1 or characters]


def last_tokens(
    documents: list[HeldOutDocument], config: EvaluateConfig, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> list[dict[str, str]]:
    """One line of every document, then a second of each, and so on, until there are enough."""

    def of_document(document: HeldOutDocument) -> Iterator[dict[str, str]]:
        for kind in _ENDS:
            ends = [match.end() for match in kind.finditer(document.text)]
            ends.sort(key=lambda end: digest_of([document.digest, end]))
            found = False
            for end in ends:
                split = split_last_token(document.text[:end], config.last_token_context, tokenizer, max_length)
                if split:
                    found = True
                    context, target = split
                    yield {
                        "document": document.digest,
                        "source": document.source,
                        "context": context,
                        "target": target,
                    }
            if found:
                return

    rounds = itertools.zip_longest(*(itertools.islice(of_document(item), LINES_PER_DOCUMENT) for item in documents))
    lines = (line for round_of_lines in rounds for line in round_of_lines if line)
    return list(itertools.islice(lines, config.last_token_questions))


def split_last_token(
    text: str, minimum: int, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> tuple[str, str] | None:
    """(context, target): the text up to its last token, and that token. A long text loses its beginning.

    lm-eval gets strings, moves white space at the context's end to the target, tokenizes the context and the whole,
    and scores the tokens by which the whole is longer. So a pair is good only if this is exactly the last token: the
    context must have the whole's tokens without the last. None is returned where it does not (the token's bytes are no
    text of their own, or only white space stands before it), or where the context has fewer than `minimum` tokens.
    """
    # One token more than the model sees at once: it predicts the last one and does not see it.
    room = max_length + 1 - tokenizer.num_special_tokens_to_add()
    # Eight characters per token are plenty. Where they are not, the context gets shorter, but never wrong.
    ids = tokenizer.encode(text[-8 * room :], add_special_tokens=False)
    whole = _decoded(tokenizer, ids[-room:])
    ids = tokenizer.encode(whole)
    last_token = _decoded(tokenizer, ids[-1:])
    if not text.endswith(whole) or not whole.endswith(last_token) or not minimum < len(ids) <= max_length + 1:
        return None
    context = whole.removesuffix(last_token).rstrip()
    if not context or tokenizer.encode(context) != ids[:-1]:
        return None
    return context, whole.removeprefix(context)


def _decoded(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    text = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    assert isinstance(text, str), "of one sequence"
    return text


def _write_task(folder: Path, name: str, questions: Sequence[Mapping[str, str]]) -> None:
    task = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": f"{name}.jsonl"}},
        "test_split": "test",
        "num_fewshot": 0,
        **_TASKS[name],
        "metadata": {"version": 1.0},
    }
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(question) + "\n" for question in questions))
    (folder / f"{name}.yaml").write_text(_USAGE.format(name) + yaml.safe_dump(task, sort_keys=False))
