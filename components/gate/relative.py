"""The checks of a student against what is served now under its size."""

from collections.abc import Iterator, Mapping
from typing import Any

from components.gate.checks import check
from components.gate.evaluation import Report
from components.gate.hypotheses import Hypothesis, Outcome, slices_of
from components.gate.policy import asks_comparison
from matta_core.artifacts.kinds.decision import Check
from matta_core.recipe import GateConfig, GatePolicy

Outcomes = Mapping[Hypothesis, Outcome]


def has_baseline(config: GateConfig, policy: GatePolicy, report: Report, student: str) -> Check:
    """There must be something to compare with, or the recipe must say what holds without it."""
    name = report.baselines.get(student)
    if isinstance(name, str):
        if not isinstance(entry := report.models.get(name), Mapping):
            why = f"{name} is said to be served, but was not evaluated: evaluate again"
            return check("baseline", False, why, value=name)
        expected = ("student", "ta") if name == student else ("baseline",)
        said = tuple(entry.get(key) for key in ("role", "size", "version"))
        if said[0] not in expected or said[1] != student or not isinstance(said[2], str):
            why = f"{name} is no pushed version of {student}, by its role, size, version {said!r:.120}: evaluate again"
            return check("baseline", False, why, value=name)
        if name == student:
            why = f"{student} is what is served, version {said[2]}, by a rollback: nothing to compare with"
            return check("baseline", True, why, value=name)
        return check("baseline", True, f"compared with {name}, version {said[2]}", value=name)
    if student not in report.baselines or name is not None:
        why = f"the evaluation does not say what is served as {student} (got {name!r:.80}): evaluate again"
        return check("baseline", False, why)
    served = f"nothing of the size {student} was served under {report.baseline_target} before it"
    if config.without_baseline == "refuse":
        why = f"{served}, and gate.without_baseline is refuse. For a first push set it to bless_on_thresholds"
        return check("baseline", False, why)
    skipped = [name for name in ("non_inferior", "improve", "slices") if getattr(policy, name)]
    left_out = f"; left out: {', '.join(skipped)}" if asks_comparison(policy) else ""
    why = f"{served}, so it is judged by thresholds alone, as gate.without_baseline says{left_out}"
    return check("baseline", True, why)


def not_inferior(
    policy: GatePolicy, report: Report, student: str, baseline: str, outcomes: Outcomes
) -> Iterator[Check]:
    """The checks of `non_inferior`: the lower end of the simultaneous interval must be above minus the margin.

    Where a policy does not set it, no task may be shown to be worse. The value {} asks for nothing.
    """
    for task in policy.unseen_loss or {}:
        if task not in report.tasks:  # a misspelt name must not switch its policy off
            yield check("unseen_loss", False, _cannot(report, student, baseline, task), task=task)
    if policy.non_inferior is None:
        for task in report.tasks:
            outcome = outcomes.get(Hypothesis(student, baseline, task))
            if outcome is not None and outcome.problem is None:
                passed = outcome.verdict != "worse"
                remedy = "" if passed else ". A margin in gate.policy.non_inferior allows a loss, {} any"
                why = f"{task}: {_interval(outcome)}, {'not ' if passed else ''}shown to be worse{remedy}"
                yield check("not_worse", passed, why, task=task, threshold=0.0, value=outcome.difference)
    for task, margin in (policy.non_inferior or {}).items():
        outcome = outcomes.get(Hypothesis(student, baseline, task))
        if outcome is None or outcome.problem:
            yield check(
                "non_inferior", False, _cannot(report, student, baseline, task, outcome), task=task, threshold=-margin
            )
            continue
        passed, why = _within(task, outcome, margin)
        yield check("non_inferior", passed, why, task=task, threshold=-margin, value=outcome.low)


def improves(policy: GatePolicy, report: Report, student: str, baseline: str, outcomes: Outcomes) -> Iterator[Check]:
    """The checks of `improve`: the student must be better by more than the amount, and not by chance."""
    for task, amount in (policy.improve or {}).items():
        outcome = outcomes.get(Hypothesis(student, baseline, task, shift=amount))
        if outcome is None or outcome.problem:
            yield check(
                "improve", False, _cannot(report, student, baseline, task, outcome), task=task, threshold=amount
            )
            continue
        passed = outcome.verdict == "better"
        by = f"by more than {amount:g}" if amount else "at all"
        why = (
            f"{task}: {_signed(outcome.difference)}; {'better' if passed else 'not shown to be better'} {by} "
            f"(p = {outcome.p_adjusted:.2g} after correction)"
        ) + _too_few(outcome, amount)
        yield check("improve", passed, why, task=task, threshold=amount, value=outcome.difference)


def not_inferior_in_slices(
    policy: GatePolicy, report: Report, student: str, baseline: str, outcomes: Outcomes
) -> Iterator[Check]:
    """The checks of `slices`: the student must not be inferior in any slice of the task's documents."""
    for task, margin in (policy.slices or {}).items():
        if report.problem(student, task) or report.problem(baseline, task):
            yield check("slices", False, _cannot(report, student, baseline, task), task=task, threshold=-margin)
            continue
        if not report.tasks[task].slices:
            why = f"{task} has no slices: take it out of the policy's slices"
            yield check("slices", False, why, task=task, threshold=-margin)
            continue
        large, small = slices_of(report, task, policy.min_documents or 0)
        for name in large:
            outcome = outcomes[Hypothesis(student, baseline, task, name)]
            at: dict[str, Any] = {"task": task, "slice_name": name, "threshold": -margin}
            if outcome.problem:
                yield check("slices", False, f"{name}: {outcome.problem}", **at)
                continue
            passed, why = _within(f"{task}, {name}", outcome, margin)
            yield check("slices", passed, why, value=outcome.low, **at)
        for name, documents in small.items():
            skip = policy.small_slices == "skip"
            why = f"{task}, {name}: {documents} documents, fewer than min_documents = {policy.min_documents}: " + (
                "skipped, as small_slices says" if skip else "too few to decide (small_slices: skip passes over such)"
            )
            yield check("slices", skip, why, task=task, slice_name=name, threshold=-margin)


def _cannot(report: Report, student: str, baseline: str, task: str, outcome: Outcome | None = None) -> str:
    """Why a comparison is a "no"; if the served model is the broken one, also the way out."""
    if problem := report.problem(student, task):
        return f"cannot be compared: {problem}"
    if problem := report.problem(baseline, task):
        return (
            f"what is served cannot be compared with: {problem}. To replace a broken model, take the comparison out of "
            f"gate.per_student.{student} for one run ({{}})"
        )
    return f"cannot be compared: {outcome.problem if outcome else task}"


def _within(where: str, outcome: Outcome, margin: float) -> tuple[bool, str]:
    """Whether the interval's lower end is within a margin, and why."""
    if outcome.low > -margin:
        return True, f"{where}: {_interval(outcome)}, within the margin {margin:g}"
    return False, f"{where}: {_interval(outcome)}, beyond the margin {margin:g}{_too_few(outcome, -margin)}"


def _too_few(outcome: Outcome, above: float) -> str:
    """How many documents would be enough, where these are too few to tell whether the difference is above a number."""
    if not outcome.low <= above < outcome.difference:
        return ""
    enough = outcome.enough_for(above)
    would = (
        "no number of documents like these would" if enough is None else f"about {_rounded(enough):,} like these would"
    )
    return f", which {outcome.documents} documents cannot tell: {would}"


def _rounded(number: int) -> int:
    """The number, rounded up to two digits."""
    step = 10 ** max(len(str(number)) - 2, 0)
    return -(-number // step) * step


def _interval(outcome: Outcome) -> str:
    return f"{_signed(outcome.difference)} ({outcome.low:+.4g} to {outcome.high:+.4g}, positive is better)"


def _signed(difference: float) -> str:
    if difference == 0:
        return "no difference"
    return f"{abs(difference):.4g} {'better' if difference > 0 else 'worse'} than what is served"
