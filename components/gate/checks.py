"""The checks that a student must pass to be served. Whatever cannot be checked is a "no", with the reason.

A check is {"check", "threshold", "value", "passed", "why"} in strict JSON: a NaN becomes the string "nan".
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from matta_core.config import GateConfig, Thresholds

Check = dict[str, Any]

# The largest value that each metric can have; a value beyond it is no measurement.
_METRICS = {"bits_per_byte": math.inf, "accuracy": 1.0}


def decide(config: GateConfig, family: Mapping[str, Any], results: Mapping[str, Any]) -> dict[str, Any]:
    """Judge every student of a family (family.json) by its evaluation (results.json), each on its own.

    Returns the content of decision.json; `blessed` names students in ascending order of size.
    """
    members, models = family["students"], results["models"]
    sizes = ascending(family)
    students = {}
    for smaller, name in zip([None, *sizes], sizes, strict=False):
        bounds = thresholds_of(config, name)
        checks = [_measured(models, name, metric) for metric in _METRICS]
        checks.append(_certified(members[name]))
        checks += _within_bounds(bounds, members[name], models, name)
        if smaller is not None and config.monotone_tolerance is not None:
            checks.append(_monotone(models, smaller, name, config.monotone_tolerance))
        students[name] = {"blessed": all(check["passed"] for check in checks), "checks": checks}
    return {
        "students": students,
        "blessed": [name for name in sizes if students[name]["blessed"]],
        "evaluation_set": results["evaluation_set"],
    }


def ascending(family: Mapping[str, Any]) -> list[str]:
    """The names of a family's students by size."""
    members = family["students"]
    return sorted(members, key=lambda name: members[name]["parameters"])


def thresholds_of(config: GateConfig, name: str) -> Thresholds:
    """The general bounds, with the student's own in the place of those that it sets."""
    own = config.per_student.get(name, Thresholds())
    set_here = {key: value for key, value in dataclasses.asdict(own).items() if value is not None}
    return dataclasses.replace(config.thresholds, **set_here)


def _measured(models: Mapping[str, Any], name: str, metric: str) -> Check:
    value, problem = _figure(models, name, metric)
    error, error_problem = _figure(models, name, metric, "standard_error")
    why = problem or error_problem or f"{_words(metric)} is {value:.4g}, standard error {error:.2g}"
    return _check(f"measured_{metric}", None, value, not (problem or error_problem), why)


def _certified(member: Mapping[str, Any]) -> Check:
    equal = (member.get("certificate") or {}).get("bitwise_equal")
    why = (
        "the extracted student's logits equal the live student's bit for bit"
        if equal is True
        else f"the certificate does not say that extracted equals live: bitwise_equal is {equal!r}"
    )
    return _check("certificate", True, equal, equal is True, why)


def _within_bounds(bounds: Thresholds, member: Mapping[str, Any], models: Mapping[str, Any], name: str) -> list[Check]:
    parameters = member["parameters"]
    checks = []
    if (most := bounds.max_bits_per_byte) is not None:
        value, problem = _figure(models, name, "bits_per_byte")
        passed = problem is None and value <= most
        why = problem or f"bits per byte {value:.4g} {'is within' if passed else 'is above'} the bound {most:g}"
        checks.append(_check("max_bits_per_byte", most, value, passed, why))
    if (least := bounds.min_accuracy) is not None:
        value, problem = _figure(models, name, "accuracy")
        passed = problem is None and value >= least
        why = problem or f"accuracy {value:.4g} {'reaches' if passed else 'is below'} the bound {least:g}"
        checks.append(_check("min_accuracy", least, value, passed, why))
    if (most := bounds.max_parameters) is not None:
        passed = parameters <= most
        why = f"{parameters:,} parameters {'are within' if passed else 'are above'} the bound {most:,}"
        checks.append(_check("max_parameters", most, parameters, passed, why))
    return checks


def _monotone(models: Mapping[str, Any], smaller: str, name: str, tolerance: float) -> Check:
    """A larger student must not be worse than the next smaller one; the larger is charged.

    The standard error of the difference is taken as sqrt(se_a^2 + se_b^2), as of independent errors. Both
    read the same documents, so the true one is smaller and the check is lenient: a paired test would be sharper.

    A smaller student without a figure is a "no" for the larger too: the two share their weights.
    """
    figures, problems = [], []
    for model in (smaller, name):
        for part in ("value", "standard_error"):
            figure, problem = _figure(models, model, "bits_per_byte", part)
            figures.append(figure)
            problems += [f"{model}: {problem}"] if problem else []
    if problems:
        why = f"cannot be compared with {smaller}, the next smaller: {'; '.join(problems)}"
        return _check("monotone", None, figures[2], False, why)
    smaller_value, smaller_error, value, error = figures
    error_of_difference = math.hypot(smaller_error, error)
    threshold = smaller_value + tolerance * error_of_difference
    passed = value <= threshold
    why = (
        f"bits per byte {value:.4f} {'is within' if passed else 'is above'} {threshold:.4f}: "
        f"the {smaller_value:.4f} of {smaller}, the next smaller, plus {tolerance:g} standard errors of the "
        f"difference ({error_of_difference:.4f}, errors taken as independent)"
    )
    return _check("monotone", threshold, value, passed, why)


def _figure(models: Mapping[str, Any], name: str, metric: str, part: str = "value") -> tuple[Any, str | None]:
    """A metric of one model, and why it cannot be used (None: it can)."""
    if not isinstance(model := models.get(name), Mapping):
        return None, f"{name} was not evaluated"
    entry = model.get(metric)
    value = entry.get(part) if isinstance(entry, Mapping) else None
    words = _words(metric) + ("" if part == "value" else ", standard error")
    if value is None:
        return None, f"{words}: missing"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value, f"{words}: {value!r} is not a number"
    if not math.isfinite(value):
        return value, f"{words}: {value} is not finite"
    if not 0 <= value <= _METRICS[metric]:
        return value, f"{words}: {value} is out of range"
    return value, None


def _words(metric: str) -> str:
    return metric.replace("_", " ")


def _check(check: str, threshold: Any, value: Any, passed: bool, why: str) -> Check:
    if isinstance(value, float) and not math.isfinite(value):
        value = str(value)
    elif isinstance(value, list | dict):
        value = repr(value)
    return {"check": check, "threshold": threshold, "value": value, "passed": passed, "why": why}
