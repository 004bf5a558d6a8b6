"""The content of decision.json: every student is judged by itself, and every reason is written down."""

from collections.abc import Mapping
from typing import Any

from components.gate import checks, relative
from components.gate.evaluation import Report
from components.gate.hypotheses import compare, described, plan, slices_of
from components.gate.policy import asks_quality, check_directions, effective_policy
from matta_core.artifacts.kinds.decision import Check, Decision, Verdict
from matta_core.errors import UserError
from matta_core.recipe import GateConfig, GatePolicy


def decide(config: GateConfig, family: Mapping[str, Any], report: Report) -> Decision:
    """Judge every student of a family (family.json) by an evaluation.

    Returns the content of decision.json, with students and `blessed` in ascending order of size.
    Raises: UserError where a policy sets a `minimum` for a task in which lower is better, or a `maximum` for another.
    """
    names = ascending(family)
    check_directions(config, names, report)
    policies = {name: effective_policy(config, name) for name in names}
    planned = plan(policies, report)
    outcomes = compare(planned, policies, report, config.confidence)
    served = [size for size, name in report.baselines.items() if isinstance(name, str)]
    left_on = config.without_baseline == "bless_on_thresholds" and bool(served)
    students: dict[str, Verdict] = {}
    warnings: list[str] = []
    if left_on:
        warnings.append(
            f"gate.without_baseline is left on bless_on_thresholds, though something is served under "
            f"{', '.join(served)}: a size that is new, or whose pointer was lost, is blessed without a comparison. "
            f"Take the setting out"
        )
    for place, name in enumerate(names):
        baseline = report.baseline_of(name)
        # A mix is not nested in the sizes above it, so it may be better than they are.
        smaller = [other for other in names[:place] if "mix" not in family["students"][other]]
        found = list(_checks(config, policies[name], report, family["students"][name], [*smaller, name], outcomes))
        mine = {hypothesis: outcome for hypothesis, outcome in outcomes.items() if hypothesis.student == name}
        students[name] = {
            "blessed": all(check["passed"] for check in found),
            "baseline": baseline,
            "checks": found,
            "comparisons": [
                described(hypothesis, outcome)
                for hypothesis, outcome in mine.items()
                if hypothesis.shift == 0 and outcome.problem is None
            ],
        }
        warnings += _warnings(name, policies[name], report, found, compared=baseline is not None)
        # The student's own problems are failed checks already.
        unasked = {
            outcome.problem: None
            for hypothesis, outcome in mine.items()
            if outcome.problem and report.problem(name, hypothesis.task) is None
        }
        warnings += [f"{name} is not compared with {baseline}: {problem}" for problem in unasked]
    return {
        "evaluation_set": report.evaluation_set,
        "config": config.to_dict(),
        "policies": {name: policy.to_dict() for name, policy in policies.items()},
        "confidence": config.confidence,
        "hypotheses": len(planned),
        "students": students,
        "blessed": [name for name in names if students[name]["blessed"]],
        "left_on": left_on,
        "warnings": warnings,
    }


def ascending(family: Mapping[str, Any]) -> list[str]:
    """The names of a family's students by size. Raises: UserError where family.json does not give their sizes."""
    members = family.get("students")
    if not isinstance(members, Mapping) or not members:
        raise UserError("family.json names no students: extract them again")
    for name, member in members.items():
        if not isinstance(member, Mapping) or not isinstance(member.get("parameters"), int):
            raise UserError(f"family.json does not give the parameters of {name}: extract the students again")
    # Padding is not counted: it makes a student larger and no better.
    return sorted(members, key=lambda name: members[name].get("compact", members[name])["parameters"])


def _checks(
    config: GateConfig,
    policy: GatePolicy,
    report: Report,
    member: Mapping[str, Any],
    up_to_this: list[str],
    outcomes: relative.Outcomes,
) -> list[Check]:
    *smaller, name = up_to_this
    baseline = report.baseline_of(name)
    found = [*checks.measured(report, name), relative.has_baseline(config, policy, report, name)]
    found += checks.evaluation_set(config, report)
    found += checks.enough_documents(report, policy, compared=baseline is not None)
    found += checks.bounds(report, policy, name)
    if baseline is not None:
        found += relative.not_inferior(policy, report, name, baseline, outcomes)
        found += relative.improves(policy, report, name, baseline, outcomes)
        found += relative.not_inferior_in_slices(policy, report, name, baseline, outcomes)
    found += checks.ceilings(policy, member, report.models.get(name))
    found.append(checks.certified(member))
    found += checks.monotone(config, report, policy, name, smaller)
    # Both the policy and the order of sizes may ask for a task's documents: the check is reported once.
    return list({(one["check"], one["task"], one["slice"]): one for one in found}.values())


def _warnings(name: str, policy: GatePolicy, report: Report, found: list[Check], *, compared: bool) -> list[str]:
    warnings = []
    for task in policy.slices or {}:
        large, small = slices_of(report, task, policy.min_documents or 0)
        if compared and small and not large:
            warnings.append(
                f"no slice of {task} has min_documents = {policy.min_documents}: none is looked at for {name}"
            )
    if not asks_quality(policy, compared=compared):
        asked = ", ".join(dict.fromkeys(check["check"] for check in found))
        why = "gate.policy sets no minimum, maximum, non_inferior, improve or slices"
        if asks_quality(policy, compared=True):
            why = "its comparisons are left out without a baseline"
        warnings.append(f"nothing but {asked} is asked of {name}, whatever its quality: {why}")
    return warnings
