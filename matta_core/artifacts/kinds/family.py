"""A StudentFamily: a checkpoint per student, references/<size>.safetensors, compact/, family.json."""

import re
from pathlib import Path
from typing import NotRequired, TypedDict

from matta_core.artifacts.json_files import read_json
from matta_core.artifacts.kinds.checkpoint import SIZE_NAME, Size
from matta_core.artifacts.manifest import check_relative_name

FAMILY = "family.json"


class Certificate(TypedDict):
    """How a saved student compares with the live one. `padded_equal` is for widths that differ by layer."""

    bitwise_equal: bool
    padded_equal: NotRequired[bool]
    max_abs_difference: NotRequired[float]
    sequences: NotRequired[int]
    tokens: NotRequired[int]
    weights_sha256: NotRequired[str]


class Compact(TypedDict):
    """A size without padding. If it was written, it has `path`, `bytes` and `certificate`."""

    parameters: int
    flops_per_token: float
    certificate: NotRequired[Certificate]
    path: NotRequired[str]
    bytes: NotRequired[int]


class FoundMix(TypedDict):
    """How a mix was found. Losses are the objective's figure on the search's sample; `cost` is in the budget's unit."""

    budget: dict[str, float]
    loss: float
    cost: float
    evaluated: int
    combinations: int
    ended: str  # exhaustive, local optimum, or evaluations spent
    best_uniform: str
    best_uniform_loss: float


class Member(Size):
    """One student, with its checkpoint at `path`. If widths differ by layer, checkpoint and costs are padded.

    It is a slice of the TA, in which it was nested from step `nested_from` on, or went on from it alone for
    `consolidated_steps`.
    """

    path: str
    reference: NotRequired[str]
    parameters: int
    bytes: int
    flops_per_token: float
    nested_from: NotRequired[int]
    consolidated_steps: NotRequired[int]
    certificate: NotRequired[Certificate]
    compact: NotRequired[Compact]
    mix: NotRequired[FoundMix]


class StudentFamily(TypedDict):
    """A family of students. Where these are served, every text begins with `bos_token`; None means nothing."""

    student: NotRequired[str]
    ta: str
    students: dict[str, Member]
    bos_token: NotRequired[str | None]


def read_family(artifact: Path) -> StudentFamily:
    """Read a family. Raises: UserError where it is none, or a student's files or name would lead out of the folder."""
    return read_json(artifact / FAMILY, StudentFamily, remedy="run extract_students again", check=_check_family)


def _check_family(family: StudentFamily) -> None:
    for size, member in family["students"].items():
        if not re.fullmatch(SIZE_NAME, size):  # it becomes the name of a folder below push.target
            raise ValueError(f"no size is named {size[:60]!r}")
        for name in (member["path"], member.get("reference", member["path"])):
            check_relative_name(name, FAMILY)
