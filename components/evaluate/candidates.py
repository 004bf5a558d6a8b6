"""Which models are evaluated, and where their files are."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple

from components.common.served.versions import content_digest
from components.evaluate.baselines import Baseline
from matta_core.artifacts import Artifact
from matta_core.artifacts.kinds.family import read_family
from matta_core.errors import UserError

TEACHER = "teacher"


class Candidate(NamedTuple):
    """A model to evaluate. `path` is a folder or a hub name. `size` is None for the Teacher. Only a baseline has a
    `version`. `digest` is that of the files' content; it is None for a hub name.
    """

    role: Literal["student", "ta", "teacher", "baseline"]
    path: str
    size: str | None = None
    version: str | None = None
    digest: str | None = None


def family(students: Artifact) -> dict[str, Candidate]:
    """The models of a StudentFamily, in ascending order of size. Raises: UserError where a size is named teacher."""
    members = read_family(students.path)
    if TEACHER in members["students"]:
        raise UserError(f"{students.path} has a size named 'teacher', which is the Teacher's name: rename the size")
    candidates = {}
    for name, member in members["students"].items():
        folder = students.path / member["path"]
        candidates[name] = Candidate(
            "ta" if name == members["ta"] else "student", str(folder), size=name, digest=content_digest(folder)
        )
    return candidates


def teacher_candidate(name_or_path: str) -> Candidate:
    """The Teacher: a folder, or a name on the hub, which has no digest."""
    folder = Path(name_or_path)
    return Candidate("teacher", name_or_path, digest=content_digest(folder) if folder.is_dir() else None)


def baseline_candidates(baselines: Mapping[str, Baseline | None], folders: Mapping[str, Path]) -> dict[str, Candidate]:
    """The baselines that were fetched, by name. A baseline that is a student is left out."""
    return {
        baseline.name: Candidate("baseline", str(folders[size]), size, baseline.version, baseline.digest)
        for size, baseline in baselines.items()
        if baseline is not None and not baseline.is_student
    }
