"""What a student must pass by itself and within its family. What cannot be checked is a "no", with the reason."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from components.gate.evaluation import Report
from components.gate.policy import tasks_asked
from matta_core.artifacts.kinds.decision import Check
from matta_core.recipe import GateConfig, GatePolicy


def check(
    name: str,
    passed: bool,
    why: str,
    *,
    task: str | None = None,
    slice_name: str | None = None,
    threshold: Any = None,
    value: Any = None,
) -> Check:
    return {
        "check": name,
        "task": task,
        "slice": slice_name,
        "threshold": strict(threshold),
        "value": strict(value),
        "passed": passed,
        "why": why,
    }


def strict(value: Any) -> Any:
    """The value in strict JSON: a scalar as it is, NaN, infinities and all else as text."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, str | int | float) else repr(value)[:200]


def measured(report: Report, student: str) -> Iterator[Check]:
    """Each task of the evaluation must give the student a figure that its rows confirm, asked for or not."""
    for task in report.tasks:
        stated = report.stated(student, task) or {}
        if problem := report.problem(student, task):
            yield check("measured", False, problem, task=task, value=stated.get("value"))
            continue
        value = report.value(student, task)
        why = f"{task} is {value:.4g} over {report.tasks[task].num_documents} documents, as its rows give it"
        yield check("measured", True, why, task=task, value=value)


def evaluation_set(config: GateConfig, report: Report) -> Iterator[Check]:
    """Where the recipe names an evaluation set, the questions, metrics and task versions must be those of that set."""
    if (wanted := config.evaluation_set) is not None:
        passed = report.evaluation_set.startswith(wanted)
        why = f"the evaluation set is {report.evaluation_set:.16}, gate.evaluation_set asks for {wanted:.16}"
        if not passed:
            why += ": its questions, metrics or task versions are others. Look at the thresholds, then name it"
        yield check("evaluation_set", passed, why, threshold=wanted, value=report.evaluation_set)


def enough_documents(report: Report, policy: GatePolicy, *, compared: bool) -> Iterator[Check]:
    """Every task that the policy names must have enough documents."""
    for task in tasks_asked(policy, compared=compared):
        yield from _documents(report, policy, task)


def _documents(report: Report, policy: GatePolicy, task: str) -> Iterator[Check]:
    least, asked = policy.min_documents or 0, report.tasks.get(task)
    if asked is None or asked.problem:
        return  # the checks that need the task report it
    number = asked.num_documents
    why = f"{task} has {number} documents, {least} are enough"
    if number < least:
        why = (
            f"{task} has {number} documents, fewer than min_documents = {least}: evaluate more, or lower it where so "
            f"few are meant"
        )
    yield check("documents", number >= least, why, task=task, threshold=least, value=number)


def bounds(report: Report, policy: GatePolicy, student: str) -> Iterator[Check]:
    """The checks of `minimum` and `maximum`. A figure that equals its bound passes."""
    for name, settings in (("minimum", policy.minimum), ("maximum", policy.maximum)):
        for task, bound in (settings or {}).items():
            if problem := report.problem(student, task):
                yield check(name, False, problem, task=task, threshold=bound)
                continue
            value = report.value(student, task)
            passed = value >= bound if name == "minimum" else value <= bound
            kept, broken = ("reaches", "is below") if name == "minimum" else ("is within", "is above")
            why = f"{task} {value:.4g} {kept if passed else broken} the {name} {bound:g}"
            yield check(name, passed, why, task=task, threshold=bound, value=value)


def ceilings(policy: GatePolicy, member: Mapping[str, Any], model: Any) -> Iterator[Check]:
    """The checks of costs. They are read from family.json and, where measured, from results.json (batch 1)."""
    model = model if isinstance(model, Mapping) else {}
    costs = {
        "max_parameters": (policy.max_parameters, member.get("parameters"), "parameters"),
        "max_bytes": (policy.max_bytes, member.get("bytes"), "bytes of weights"),
        "max_flops_per_token": (policy.max_flops_per_token, member.get("flops_per_token"), "FLOPs per token"),
        "max_prefill_seconds": (policy.max_prefill_seconds, _timed(model, "prefill", "seconds"), "seconds of prefill"),
        "max_decode_seconds": (
            policy.max_decode_seconds,
            _timed(model, "decode", "seconds_per_token"),
            "seconds per generated token",
        ),
        "max_memory_bytes": (policy.max_memory_bytes, model.get("peak_memory_bytes"), "bytes of memory at the peak"),
    }
    for name, (most, value, words) in costs.items():
        if most is None:
            continue
        if not is_number(value) or not math.isfinite(value) or value <= 0:
            why = f"{words}: not measured, got {value!r:.80}. Evaluate it, or set gate's {name} to null"
            yield check(name, False, why, threshold=most, value=value)
            continue
        passed = value <= most
        why = f"{_amount(value)} {words}, {'within' if passed else 'above'} the ceiling {_amount(most)}"
        yield check(name, passed, why, threshold=most, value=value)


def certified(member: Mapping[str, Any]) -> Check:
    certificate = member.get("certificate")
    certificate = certificate if isinstance(certificate, Mapping) else {}
    equal, padded = certificate.get("bitwise_equal"), certificate.get("padded_equal")
    why = f"the certificate does not say that extracted equals live: bitwise_equal is {equal!r:.80}"
    if equal is True:
        why = "the extracted student's logits equal the live student's bit for bit"
    elif padded is True:
        why = "the extracted student's weights equal the live student's bit for bit, with zeros beyond its widths"
    return check("certificate", equal is True or padded is True, why, threshold=True, value=equal or padded)


def monotone(
    config: GateConfig, report: Report, policy: GatePolicy, student: str, smaller: Sequence[str]
) -> Iterator[Check]:
    """A larger student must not be worse than the next smaller one, beyond noise. The larger one fails the check.

    Both answer the same documents, so the standard error is that of the paired difference. `smaller` lists the smaller
    students, ascending. Where the next one's figures cannot be used, this check names it and takes the one below; the
    unusable student fails checks of its own.
    """
    task, tolerance = config.monotone_task, config.monotone_tolerance
    if tolerance is None or not smaller:
        return
    if problem := report.problem(student, task):
        remedy = "" if task in report.tasks else " (gate.monotone_task; gate.monotone_tolerance: null switches it off)"
        yield check("monotone", False, problem + remedy, task=task)
        return
    yield from _documents(report, policy, task)
    usable = [name for name in smaller if report.problem(name, task) is None]
    if not usable:
        why = f"no smaller student has a usable figure in {task}: nothing to be worse than"
        yield check("monotone", True, why, task=task)
        return
    pair = report.pair(student, usable[-1], task)
    if pair.num_documents < 2:
        yield check("monotone", False, f"{task} has one document, which gives no standard error", task=task)
        return
    between = smaller[smaller.index(usable[-1]) + 1 :]
    passed_over = f" with a usable figure (not {', '.join(between)})" if between else ""
    lowest = -tolerance * pair.standard_error
    passed = pair.difference >= lowest
    direction = "better" if pair.difference >= 0 else "worse"
    why = (
        f"{task}: {abs(pair.difference):.4g} {direction} than {usable[-1]}, the next smaller{passed_over}; up to "
        f"{-lowest:.4g} worse is allowed, {tolerance:g} standard errors of the paired difference"
    )
    yield check("monotone", passed, why, task=task, threshold=lowest, value=pair.difference)


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _amount(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def _timed(model: Mapping[str, Any], phase: str, figure: str) -> Any:
    batches = model.get(phase)
    batch = batches.get("1") if isinstance(batches, Mapping) else None
    return batch.get(figure) if isinstance(batch, Mapping) else None
