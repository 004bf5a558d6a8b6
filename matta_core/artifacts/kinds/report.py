"""A Report: summary.json, summary.md, report.html."""

from pathlib import Path
from typing import NotRequired, TypedDict

from matta_core.artifacts.json_files import read_json
from matta_core.artifacts.kinds.decision import Comparison
from matta_core.artifacts.kinds.evaluation import Decode, Place, Prefill, Task
from matta_core.artifacts.kinds.family import Compact, FoundMix

SUMMARY = "summary.json"
Numbers = dict[str, float | None]


class MeasuredSummary(TypedDict):
    """What evaluate measured of a model. `tasks` has {"value", "standard_error", "questions", "documents"} of each."""

    tasks: dict[str, Numbers]
    prefill: dict[str, Prefill] | None
    decode: dict[str, Decode] | None
    peak_memory_bytes: float | None


class BaselineSummary(MeasuredSummary):
    """What was served."""

    name: str
    version: str | None
    parameters: int | None
    bytes: int | None


class ModelSummary(MeasuredSummary):
    """A student, or the Teacher."""

    path: str | None
    parameters: int | None
    bytes: int | None
    flops_per_token: float | None
    intermediate_sizes: tuple[int, ...] | None
    compact: Compact | None
    mix: FoundMix | None
    blessed: bool | None
    held_because: list[str] | None
    pushed_to: str | None
    not_pushed_because: str | None
    baseline: BaselineSummary | None
    comparisons: list[Comparison]


class TaSummary(ModelSummary):
    """The TA, with the name of its size: it is also a student."""

    size: str


class Summary(TypedDict):
    """See `components.report.summary.summarise` for each figure. `wall_seconds` is the time that a local run took."""

    name: str
    student: str
    evaluation_set: str
    left_on: bool
    tasks: dict[str, Task]
    students: dict[str, ModelSummary]
    ta: TaSummary | None
    teacher: ModelSummary
    baseline_target: str | None
    measured_on: Place
    seconds: dict[str, float]
    total_seconds: float
    wall_seconds: NotRequired[float]


def read_summary(report: Path) -> Summary:
    """Read a summary. Raises: UserError where it is none."""
    return read_json(report / SUMMARY, Summary, remedy="make the report again")
