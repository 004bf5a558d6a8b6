"""A GateDecision: decision.json."""

from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

from matta_core.artifacts.json_files import read_json

DECISION = "decision.json"


class Check(TypedDict):
    """One check of the gate. A NaN among its numbers is the text "nan"."""

    check: str
    task: NotRequired[str | None]
    slice: NotRequired[str | None]
    threshold: NotRequired[Any]
    value: NotRequired[Any]
    passed: bool
    why: str


class Comparison(TypedDict):
    """A comparison of a student with what is served. A positive difference means that the student is better."""

    task: str
    slice: str | None
    difference: float
    interval: list[float]  # its two ends
    p_value: float
    p_adjusted: float
    verdict: Literal["better", "worse", "noise"]
    documents: int
    baseline_value: float
    value: float


class Verdict(TypedDict):
    """The gate's verdict on a student."""

    blessed: bool
    baseline: str | None
    checks: list[Check]
    comparisons: list[Comparison]


class Decision(TypedDict):
    """The gate's decision. `config` holds the gate's settings, and `policies` what they ask of each size. `hypotheses`
    is how many comparisons were corrected for. `left_on`: the setting for a first push is on, but something is served.
    """

    evaluation_set: str
    config: dict[str, Any]
    policies: NotRequired[dict[str, dict[str, Any]]]
    confidence: float
    hypotheses: int
    students: dict[str, Verdict]
    blessed: list[str]  # in ascending order of size
    left_on: NotRequired[bool]
    warnings: list[str]


def read_decision(artifact: Path) -> Decision:
    """Read a decision. Raises: UserError where it is none. `contradiction` tells whether it may be followed."""
    return read_json(artifact / DECISION, Decision, remedy="run the gate again", check=_check_intervals)


def _check_intervals(decision: Decision) -> None:
    for name, verdict in decision["students"].items():
        if any(len(comparison["interval"]) != 2 for comparison in verdict["comparisons"]):
            raise ValueError(f"an interval of {name} has not two ends")


def contradiction(decision: Decision) -> str | None:
    """Where a decision does not follow from its own checks; None where it does."""
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
