"""JSON that one step writes and another reads: its shape, as far as anything relies on it, and what must hold in it."""

import re
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

from matta_core.artifacts import check_relative_name
from matta_core.artifacts.json_files import read_json
from matta_core.recipe.sizes import SIZE_NAME


class Check(TypedDict):
    check: str
    passed: bool
    why: str


class Comparison(TypedDict):
    task: str
    slice: str | None
    difference: float
    interval: list[float]  # its ends
    p_value: float
    p_adjusted: float
    verdict: Literal["better", "worse", "noise"]
    documents: int
    baseline_value: float
    value: float


class Verdict(TypedDict):
    blessed: bool
    baseline: str | None
    checks: list[Check]
    comparisons: list[Comparison]


class Decision(TypedDict):
    """decision.json of a GateDecision."""

    evaluation_set: str
    config: dict[str, Any]
    confidence: float
    hypotheses: int
    students: dict[str, Verdict]
    blessed: list[str]
    warnings: list[str]


class Member(TypedDict):
    path: str
    reference: NotRequired[str]
    parameters: int
    bytes: int
    flops_per_token: float


class Family(TypedDict):
    """family.json of a StudentFamily."""

    ta: str
    students: dict[str, Member]


class Results(TypedDict):
    """results.json of an EvaluationReport; what it says of a model is read by who needs it."""

    evaluation_set: str
    tasks: dict[str, dict[str, Any]]
    models: dict[str, dict[str, Any]]


def read_decision(artifact: Path) -> Decision:
    """Raises: UserError where it is none. `contradiction` says whether it may be followed."""
    return read_json(artifact / "decision.json", Decision, remedy="run the gate again", check=_check_intervals)


def contradiction(decision: Decision) -> str | None:
    """Where a decision does not follow from its own checks; None: nowhere."""
    blessed = [name for name, verdict in decision["students"].items() if verdict["blessed"]]
    if sorted(decision["blessed"]) != sorted(blessed):
        return f"blessed names {', '.join(decision['blessed'])}, but students bless {', '.join(blessed)}"
    for name in blessed:
        checks = decision["students"][name]["checks"]
        if failed := [check["check"] for check in checks if not check["passed"]]:
            return f"{name} is blessed, though its check {failed[0]} failed"
        if not checks:
            return f"{name} is blessed without a check"
    return None


def read_family(artifact: Path) -> Family:
    """Raises: UserError where it is none, a student's files would lie outside of it, or its name makes no folder."""
    return read_json(artifact / "family.json", Family, remedy="run extract_students again", check=_check_family)


def read_results(artifact: Path) -> Results:
    """Raises: UserError where it is none."""
    return read_json(artifact / "results.json", Results, remedy="evaluate again")


def _check_intervals(decision: Decision) -> None:
    for name, verdict in decision["students"].items():
        if any(len(comparison["interval"]) != 2 for comparison in verdict["comparisons"]):
            raise ValueError(f"an interval of {name} has not two ends")


def _check_family(family: Family) -> None:
    for size, member in family["students"].items():
        if not re.fullmatch(SIZE_NAME, size):  # folders below push.target are named by it
            raise ValueError(f"no size is named {size[:60]!r}")
        for name in (member["path"], member.get("reference", member["path"])):
            check_relative_name(name, "family.json")
