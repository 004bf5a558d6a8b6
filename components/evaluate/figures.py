"""Figures with standard errors, from what every question gave.

A value is what one model gave for a question, or None where it gave no finite number. The figure is sum(weight x value)
/ sum(weight).
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from matta_core.artifacts.kinds.evaluation import Figure, Question, TaskFigure

Answer = tuple[Question, float | None]


def summarise(questions: Sequence[Question], values: Sequence[float | None]) -> dict[str, TaskFigure]:
    """By task.

    A figure with a value that is None is None, which is JSON's way to say so; the gate takes it for a "no". So is
    the standard error of a single document.
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
    """The ratio estimate, questions of the same document added up first."""
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


def ratio_estimate(numerators: Sequence[float], denominators: Sequence[float]) -> tuple[float, float]:
    """sum(numerators) / sum(denominators), and its standard error, NaN where there is one entry only.

    One entry per document. Documents are drawn, not the bytes or lines in them, so they are what varies: the
    linearised variance of a ratio, n / (n - 1) sum (y - r x)^2 / (sum x)^2 (Cochran, Sampling Techniques,
    chapter 6). With all denominators 1 it is the usual standard error of a mean.
    """
    n, total = len(numerators), math.fsum(denominators)
    ratio = math.fsum(numerators) / total
    if n == 1:
        return ratio, math.nan
    squares = math.fsum((y - ratio * x) ** 2 for y, x in zip(numerators, denominators, strict=True))
    return ratio, math.sqrt(n / (n - 1) * squares) / total


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def interval_95(entry: Mapping[str, Any], unit: str) -> tuple[float, float] | None:
    """The 95% interval of one figure, from its standard error over documents; None where that is not known.

    Student's t with one degree of freedom less than there are documents. An accuracy's is cut at 0 and 1; where all
    values are 0, or all 1, nothing varied, and it is the exact one of as many questions, right or wrong, as there are
    documents (Clopper and Pearson 1934). This is the interval of one figure; whether two models differ is told by the
    gate's paired comparison, which is sharper.
    """
    from scipy.special import stdtrit

    value, error, documents = (entry.get(name) for name in ("value", "standard_error", "documents"))
    if value is None or error is None or documents is None or documents < 2:
        return None
    reach = float(stdtrit(documents - 1, 0.975)) * error
    if error == 0 and value in (0, 1):  # of whatever name: no other metric is a whole number by chance
        reach = 1 - 0.025 ** (1 / documents)
    low, high = value - reach, value + reach
    return (max(0.0, low), min(1.0, high)) if unit == "accuracy" else (low, high)
