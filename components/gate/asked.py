"""A task of a report: what was asked, and what of a model's answers to it can be a figure.

Nothing raises here. A problem is described, and the checks turn it into a "no".
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeGuard

import numpy as np

from components.gate.comparison import PairedDocuments, figure_of

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


def asked_task(name: str, entry: Any, questions: Sequence[Mapping[str, Any]], problem: str | None) -> AskedTask:
    rows = [row for row, question in enumerate(questions) if question["task"] == name]
    asked = [questions[row] for row in rows]
    if problem := problem or _problem_of(entry, asked):
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


def _problem_of(entry: Any, questions: Sequence[Mapping[str, Any]]) -> str | None:
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


def checked_values(values: Sequence[Any], task: AskedTask) -> tuple[np.ndarray | None, str | None]:
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


def spans_of(unit: str, values: np.ndarray) -> tuple[float | None, ...]:
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


def unlike_its_rows(stated: Mapping[str, Any] | None, task: AskedTask, values: np.ndarray) -> str | None:
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
