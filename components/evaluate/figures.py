"""Figures with standard errors, from the values of all questions.

A value is one model's result for a question, or None where that was no finite number. The figure is sum(weight x value)
/ sum(weight).
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence

from components.common.statistics import ratio_estimate
from matta_core.artifacts.kinds.evaluation import Figure, Question, TaskFigure

Answer = tuple[Question, float | None]


def summarise(questions: Sequence[Question], values: Sequence[float | None]) -> dict[str, TaskFigure]:
    """The figures by task, with those of their slices.

    A figure is None where one of its values is, and the gate takes it for a "no". The standard error of a single
    document is None, too.
    """
    by_task: dict[str, list[Answer]] = defaultdict(list)
    by_slice: dict[str, dict[str, dict[str, list[Answer]]]] = defaultdict(
        lambda: defaultdict(lambda: defaultdict(list))
    )
    for question, value in zip(questions, values, strict=True):
        by_task[question["task"]].append((question, value))
        for kind, name in question["slices"].items():
            by_slice[question["task"]][kind][name].append((question, value))
    return {
        task: {
            **figure(answers),
            "slices": {
                kind: {name: figure(part) for name, part in sorted(parts.items())}
                for kind, parts in by_slice[task].items()
            },
        }
        for task, answers in by_task.items()
    }


def figure(answers: Iterable[Answer]) -> Figure:
    """The ratio estimate. Questions of one document are added up first."""
    answers = list(answers)
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for question, value in answers:
        sums[question["document"]][0] += question["weight"] * (math.nan if value is None else value)
        sums[question["document"]][1] += question["weight"]
    value, standard_error = ratio_estimate(*zip(*sums.values(), strict=True))
    return {
        "value": _finite(value),
        "standard_error": _finite(standard_error),
        "questions": len(answers),
        "documents": len(sums),
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
