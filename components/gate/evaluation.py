"""An EvaluationReport, read strictly: what cannot be trusted becomes a problem of its model and task.

A bad figure, row or file of one model raises nothing here: `Report.problem` describes it, and the checks turn it into a
"no". Only a report that cannot be read at all raises UserError.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from components.gate.comparison import PairedDocuments, figure_of
from matta_core.artifacts import Artifact, digest_of
from matta_core.artifacts.kinds.evaluation import QUESTIONS, RESULTS
from matta_core.errors import UserError

# The range of values by a task's unit; a value outside is no measurement.
_RANGES = {"accuracy": (0.0, 1.0), "bits per byte": (0.0, math.inf)}
# Bits per byte have no upper end, and two models never agree in them by chance.
_SPANS = {"accuracy": (1.0,), "bits per byte": (None,)}
_HIGHER_IS_BETTER = {"accuracy": True, "bits per byte": False}


@dataclass(frozen=True, eq=False)
class AskedTask:
    """A task's questions. `rows` are their places in questions.jsonl; `documents`, `weights` and `slices` have the same
    order.

    `slices` are masks by "kind=name". `problem` says why the task cannot be used for any model.
    """

    name: str
    unit: str = ""
    higher_is_better: bool = True
    rows: tuple[int, ...] = ()
    documents: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    weights: np.ndarray = field(default_factory=lambda: np.zeros(0))
    slices: Mapping[str, np.ndarray] = field(default_factory=dict)
    problem: str | None = None

    @property
    def num_documents(self) -> int:
        return len(np.unique(self.documents))

    def documents_in(self, kind_and_name: str) -> int:
        """The number of documents of a slice."""
        return len(np.unique(self.documents[self.slices[kind_and_name]]))


class Report:
    """A report's tasks, and every model's figures where these can be trusted.

    All figures are computed anew from the rows. Those of results.json must agree for whole tasks; its figures of slices
    are not read.
    """

    def __init__(
        self,
        path: Path,
        results: Mapping[str, Any],
        questions: Sequence[Mapping[str, Any]],
        problem: str | None = None,
    ) -> None:
        """`problem` says why nothing in the report can be trusted."""
        self.path = path
        self.evaluation_set: str = results["evaluation_set"]
        self.models: Mapping[str, Any] = results["models"]
        self.baselines: Mapping[str, Any] = results["baselines"]
        self.baseline_target = results.get("baseline_target")
        self._questions = questions
        self.tasks = {name: _task(name, entry, questions, problem) for name, entry in results["tasks"].items()}
        self._rows: dict[str, tuple[list[Any], str | None]] = {}
        self._values: dict[tuple[str, str], tuple[np.ndarray | None, str | None]] = {}

    def baseline_of(self, student: str) -> str | None:
        """The model that a student is compared with; None where nothing else is served, or the report does not say."""
        name = self.baselines.get(student)
        return name if isinstance(name, str) and name != student else None

    def problem(self, model: str, task: str) -> str | None:
        """Why a model's figure in a task cannot be used; None where it can."""
        return self._read(model, task)[1]

    def value(self, model: str, task: str, slice_name: str | None = None) -> float:
        """The model's figure, computed from its rows. There must be no problem with it."""
        values, asked = self._read(model, task)[0], self.tasks[task]
        assert values is not None, (model, task)
        chosen = slice(None) if slice_name is None else asked.slices[slice_name]
        return figure_of(asked.weights[chosen], values[chosen])

    def pair(self, model: str, other: str, task: str, slice_name: str | None = None) -> PairedDocuments:
        """Two models on the same questions of a task, or of one of its slices. Neither may have a problem there."""
        asked = self.tasks[task]
        candidate, baseline = self._read(model, task)[0], self._read(other, task)[0]
        assert candidate is not None, (model, task)
        assert baseline is not None, (other, task)
        chosen = slice(None) if slice_name is None else asked.slices[slice_name]
        return PairedDocuments.of(
            asked.documents[chosen],
            asked.weights[chosen],
            candidate[chosen],
            baseline[chosen],
            higher_is_better=asked.higher_is_better,
            spans=_spans(asked.unit, np.append(candidate, baseline)),
        )

    def stated(self, model: str, task: str) -> Mapping[str, Any] | None:
        """The figure of results.json for a model in a task."""
        entry = self.models.get(model)
        tasks = entry.get("tasks") if isinstance(entry, Mapping) else None
        figure = tasks.get(task) if isinstance(tasks, Mapping) else None
        return figure if isinstance(figure, Mapping) else None

    def _read(self, model: str, task: str) -> tuple[np.ndarray | None, str | None]:
        if (model, task) not in self._values:
            values, problem = self._checked(model, task)
            self._values[model, task] = (None, problem) if problem else (values, None)
        return self._values[model, task]

    def _checked(self, model: str, task: str) -> tuple[np.ndarray | None, str | None]:
        if not isinstance(self.models.get(model), Mapping):
            return None, f"{model} was not evaluated"
        if (asked := self.tasks.get(task)) is None:
            return None, f"{task} was not evaluated: add it to evaluate.tasks, or take it out of the policy"
        if asked.problem:
            return None, f"{task}: {asked.problem}"
        rows, problem = self._model_rows(model)
        if problem:
            return None, problem
        values, problem = _values([rows[row] for row in asked.rows], asked)
        if problem or values is None:
            return None, f"{model}, {task}: {problem}"
        problem = _against_rows(self.stated(model, task), asked, values)
        return values, f"{model}, {task}: {problem}" if problem else None

    def _model_rows(self, model: str) -> tuple[list[Any], str | None]:
        """A model's values, in the order of questions.jsonl, and why its file cannot be used."""
        if model not in self._rows:
            self._rows[model] = _lined_up(self.path / "documents" / f"{model}.jsonl", self._questions)
        return self._rows[model]


def read_report(artifact: Artifact) -> Report:
    """Read a report. Raises: UserError where results.json or questions.jsonl cannot be used at all."""
    path = artifact.path
    results, again = _json(path / RESULTS), f"make {path} again with evaluate"
    if not isinstance(results, Mapping):
        raise UserError(f"{path / RESULTS} does not hold a JSON object: {again}")
    for key, kind in (("evaluation_set", str), ("tasks", Mapping), ("models", Mapping), ("baselines", Mapping)):
        if not isinstance(results.get(key), kind):
            raise UserError(f"{path / RESULTS} has no usable {key!r}, got {results.get(key)!r:.80}: {again}")
    questions = _lines(path / QUESTIONS)
    for number, question in enumerate(questions, start=1):
        task = question.get("task") if isinstance(question, Mapping) else None
        if not isinstance(task, str) or task not in results["tasks"]:
            raise UserError(f"{path / QUESTIONS} line {number} is no question of a task in results.json: {again}")
    return Report(path, results, questions, _set_problem(artifact, results))


def _set_problem(artifact: Artifact, results: Mapping[str, Any]) -> str | None:
    """Why the tasks are not those of the evaluation set that the report names; None where they are."""
    stated = results["evaluation_set"]
    if (sealed := artifact.metadata.get("evaluation_set")) != stated:
        return f"results.json is of the evaluation set {stated:.16}, the manifest says {sealed!r:.18}"
    entries = {name: entry if isinstance(entry, Mapping) else {} for name, entry in results["tasks"].items()}
    if (computed := digest_of({name: str(entry.get("digest")) for name, entry in entries.items()})) != stated:
        return f"the tasks' digests make the evaluation set {computed:.16}, results.json says {stated:.16}"
    return None


def _task(name: str, entry: Any, questions: Sequence[Mapping[str, Any]], problem: str | None) -> AskedTask:
    rows = [row for row, question in enumerate(questions) if question["task"] == name]
    asked = [questions[row] for row in rows]
    if problem := problem or _task_problem(entry, asked):
        return AskedTask(name, problem=problem)
    _, documents = np.unique([question["document"] for question in asked], return_inverse=True)
    names = sorted({f"{kind}={part}" for question in asked for kind, part in question["slices"].items()})
    slices = {
        name: np.array([f"{kind}={question['slices'].get(kind)}" == name for question in asked])
        for name in names
        for kind in [name.partition("=")[0]]
    }
    weights = np.array([question["weight"] for question in asked], dtype=np.float64)
    return AskedTask(name, entry["unit"], entry["higher_is_better"], tuple(rows), documents, weights, slices)


def _task_problem(entry: Any, questions: Sequence[Mapping[str, Any]]) -> str | None:
    """Why a task's questions cannot be used: its entry in results.json or a line of questions.jsonl is wrong."""
    if not isinstance(entry, Mapping):
        return "results.json does not describe it"
    for key, kind in (("higher_is_better", bool), ("unit", str), ("metric", str), ("digest", str)):
        if not isinstance(entry.get(key), kind):
            return f"results.json has no usable {key!r} of it, got {entry.get(key)!r:.80}"
    if _HIGHER_IS_BETTER.get(entry["unit"], entry["higher_is_better"]) is not entry["higher_is_better"]:
        return f"results.json says higher_is_better: {entry['higher_is_better']} of {entry['unit']}"
    if entry.get("version") is None:
        return "results.json does not say its version"
    for index, question in enumerate(questions):
        if question.get("question") != index:
            return f"questions.jsonl has question {question.get('question')!r:.80} in the place of question {index}"
        if not isinstance(question.get("document"), str):
            return f"questions.jsonl names no document of question {index}"
        weight = question.get("weight")
        if not _is_number(weight) or not math.isfinite(weight) or weight <= 0:
            return f"questions.jsonl gives question {index} the weight {weight!r:.80}, which must be above 0"
        if not isinstance(question.get("slices"), Mapping):
            return f"questions.jsonl gives no slices of question {index}"
    counts = {"questions": len(questions), "documents": len({question["document"] for question in questions})}
    for key, count in counts.items():
        if entry.get(key) != count:
            return f"results.json counts {entry.get(key)!r:.80} {key}, questions.jsonl has {count}"
    return None if questions else "questions.jsonl has no question of it"


def _lined_up(path: Path, questions: Sequence[Mapping[str, Any]]) -> tuple[list[Any], str | None]:
    """The values of documents/<model>.jsonl, and why they are not those of the questions."""
    try:
        rows = _lines(path)
    except UserError as error:
        return [], str(error)
    for number, (row, question) in enumerate(zip(rows, questions, strict=False), start=1):
        if not isinstance(row, Mapping) or "value" not in row:
            return [], f"{path} line {number} holds no value"
        if (row.get("task"), row.get("question")) != (question["task"], question.get("question")):
            return [], (
                f"{path} line {number} is question {row.get('question')!r:.80} of {row.get('task')!r:.80}, "
                f"questions.jsonl has question {question.get('question')!r:.80} of {question['task']} there"
            )
    if len(rows) != len(questions):
        return [], f"{path} has {len(rows)} rows for {len(questions)} questions"
    return [row["value"] for row in rows], None


def _values(values: Sequence[Any], task: AskedTask) -> tuple[np.ndarray | None, str | None]:
    low, high = _RANGES.get(task.unit, (-math.inf, math.inf))
    for index, value in enumerate(values):
        if value is None:
            return None, f"question {index} has no finite value (null)"
        if not _is_number(value):
            return None, f"question {index} has the value {value!r:.80}, which is not a number"
        if not math.isfinite(value):
            return None, f"question {index} has the value {value}, which is not finite"
        if not low <= value <= high:
            return None, f"question {index} has the value {value:g}, which is out of range for {task.unit}"
    return np.array(values, dtype=np.float64), None


def _spans(unit: str, values: np.ndarray) -> tuple[float | None, ...]:
    """The spans of `PairedDocuments`: how far two values of a question can be apart. None are given where all are
    equal.

    A metric's name does not always tell its range, so it is read from the values of both models over all questions. If
    all are 0 or 1, that is the range. If they lie within it, as an F1's do, or beyond it, as percentages do, the range
    is a guess, which can only widen an interval.
    """
    if unit in _SPANS:
        return _SPANS[unit]
    low, high = float(values.min()), float(values.max())
    if low == high:
        return ()
    if np.isin(values, (0.0, 1.0)).all():
        return (1.0,)
    return (None, 1.0 if low >= 0 and high <= 1 else high - low)


def _against_rows(stated: Mapping[str, Any] | None, task: AskedTask, values: np.ndarray) -> str | None:
    """How a figure of results.json differs from the one computed from the rows; None where it does not."""
    if stated is None:
        return "results.json has no figure of it"
    pair = PairedDocuments.of(task.documents, task.weights, values, np.zeros_like(values), higher_is_better=True)
    expected = {
        "value": figure_of(task.weights, values),
        "standard_error": pair.standard_error if pair.num_documents > 1 else None,
        "questions": len(values),
        "documents": task.num_documents,
    }
    for key, computed in expected.items():
        given = stated.get(key)
        if computed is None:
            continue
        if not _is_number(given):
            return f"{key} is missing in results.json" if given is None else f"{key} {given!r:.80} is not a number"
        if not math.isclose(given, computed, rel_tol=1e-9, abs_tol=1e-12):  # false for NaN, too
            return f"{key} is {given:.6g} in results.json, but its rows give {computed:.6g}"
    return None


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"cannot read {path}: {error}") from None


def _lines(path: Path) -> list[Any]:
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"cannot read {path}: {error}") from None
