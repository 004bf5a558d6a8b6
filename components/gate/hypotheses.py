"""The comparisons of every student with what is served, on every task, corrected together.

Students, tasks and policies fix the hypotheses of a decision before any figure is looked at. There is one for each
student with something served and each task; one for each slice that the policy asks for and that has enough documents;
and one for each amount by which the policy asks for improvement. p-values are adjusted by Holm over all of them, and
intervals are widened by Bonferroni over the same number, so that all statements of a decision hold together at its
confidence. A difference is more than noise if both agree: the adjusted p-value is small enough and the interval leaves
the amount out. A comparison that cannot be made counts as one that found nothing.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from components.gate.comparison import RESAMPLES, holm
from components.gate.evaluation import Report
from matta_core.artifacts.kinds.decision import Comparison
from matta_core.recipe import GatePolicy


@dataclass(frozen=True)
class Hypothesis:
    """The claim that a student is better than its baseline by `shift` (in the task's unit), in a task or a slice."""

    student: str
    baseline: str
    task: str
    slice_name: str | None = None
    shift: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """The result for a hypothesis. With a `problem`, the figures are NaN and the p-values 1.

    `enough_for` tells about how many documents like these would put `low` above a number; None where no number would.
    """

    difference: float
    low: float
    high: float
    p_value: float
    p_adjusted: float
    value: float
    baseline_value: float
    documents: int
    enough_for: Callable[[float], int | None]
    verdict: Literal["better", "worse", "noise"]
    problem: str | None = None


def plan(policies: Mapping[str, GatePolicy], report: Report) -> list[Hypothesis]:
    """The hypotheses of a decision, students in the order given."""
    planned = []
    for student, policy in policies.items():
        if (baseline := report.baseline_of(student)) is None:
            continue
        planned += [Hypothesis(student, baseline, task) for task in report.tasks]
        for task, amount in (policy.improve or {}).items():
            if task in report.tasks and amount > 0:
                planned.append(Hypothesis(student, baseline, task, shift=amount))
        for task in policy.slices or {}:
            large, _ = slices_of(report, task, policy.min_documents or 0)
            planned += [Hypothesis(student, baseline, task, name) for name in large]
    return planned


def slices_of(report: Report, task: str, min_documents: int) -> tuple[list[str], dict[str, int]]:
    """The slices of a task with enough documents; and the number of documents of each slice with fewer."""
    if (asked := report.tasks.get(task)) is None:
        return [], {}
    counts = {name: asked.documents_in(name) for name in asked.slices}
    large = [name for name, documents in counts.items() if documents >= min_documents]
    return large, {name: documents for name, documents in counts.items() if documents < min_documents}


def compare(
    planned: Sequence[Hypothesis], policies: Mapping[str, GatePolicy], report: Report, confidence: float
) -> dict[Hypothesis, Outcome]:
    """The outcomes of all hypotheses, corrected for their number."""
    level = (1 - confidence) / max(len(planned), 1)
    # The smallest p-value that resampling can give must stay far below the corrected level.
    resamples = max(RESAMPLES, math.ceil(20 / level))
    found = {}
    for hypothesis in planned:
        unseen_loss = (policies[hypothesis.student].unseen_loss or {}).get(hypothesis.task, 0.0)
        found[hypothesis] = _one(hypothesis, report, 1 - level, unseen_loss, resamples)
    adjusted = holm([figures["p_value"] for figures in found.values()])
    outcomes = {}
    for (hypothesis, figures), p_adjusted in zip(found.items(), adjusted, strict=True):
        # Both must agree: with skewed differences the test alone finds too much, and the interval far less.
        verdict: Literal["better", "worse", "noise"] = "noise"
        if p_adjusted <= 1 - confidence and figures["low"] > hypothesis.shift:
            verdict = "better"
        elif p_adjusted <= 1 - confidence and figures["high"] < hypothesis.shift:
            verdict = "worse"
        outcomes[hypothesis] = Outcome(p_adjusted=p_adjusted, verdict=verdict, **figures)
    return outcomes


def _one(
    hypothesis: Hypothesis, report: Report, confidence: float, unseen_loss: float, resamples: int
) -> dict[str, Any]:
    student, baseline, task, name = hypothesis.student, hypothesis.baseline, hypothesis.task, hypothesis.slice_name
    problem = report.problem(student, task) or report.problem(baseline, task)
    documents = 0
    if problem is None:
        pair = report.pair(student, baseline, task, name)
        documents = pair.num_documents
        if documents < 2:
            problem = f"{task}: one document says nothing of the others"
        elif not pair.spans:
            problem = (
                f"{task}: both have {report.value(student, task):g} in every answer, which does not tell how far two "
                f"answers can be apart: take it out of the policy"
            )
    nothing: dict[str, Any] = dict.fromkeys(("difference", "low", "high", "value", "baseline_value"), math.nan)
    nothing |= {"p_value": 1.0, "documents": documents, "enough_for": lambda above: None}
    if problem is not None:
        return nothing | {"problem": problem}
    low, high = pair.interval(confidence, unseen_loss=unseen_loss)
    if not (math.isfinite(low) and math.isfinite(high)):
        return nothing | {"problem": f"{task}: one document has nearly all the weight, and says nothing of the others"}
    return {
        "difference": pair.difference,
        "low": low,
        "high": high,
        "p_value": pair.p_value(hypothesis.shift, resamples=resamples),
        "value": report.value(student, task, name),
        "baseline_value": report.value(baseline, task, name),
        "documents": documents,
        "enough_for": lambda above: pair.documents_needed(above, confidence, unseen_loss=unseen_loss),
    }


def described(hypothesis: Hypothesis, outcome: Outcome) -> Comparison:
    """The comparison in the form of decision.json."""
    return {
        "task": hypothesis.task,
        "slice": hypothesis.slice_name,
        "difference": outcome.difference,
        "interval": [outcome.low, outcome.high],
        "p_value": outcome.p_value,
        "p_adjusted": outcome.p_adjusted,
        "verdict": outcome.verdict,
        "documents": outcome.documents,
        "baseline_value": outcome.baseline_value,
        "value": outcome.value,
    }
