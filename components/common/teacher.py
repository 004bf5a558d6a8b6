"""The Teacher that a recipe names, or that its train_teacher made."""

from pathlib import Path
from typing import Any, NamedTuple

from components.common.step_runner import checkpoint_identity
from matta_core.artifacts import Artifact, open_artifact
from matta_core.errors import UserError
from matta_core.recipe import ScoreTeacherConfig


class TeacherSource(NamedTuple):
    """Where a Teacher lies. `made` is the artifact whose part it is; without one, `identity` stands for its files in a
    step's key."""

    path: str | Path
    made: Artifact | None
    identity: Any


def teacher_of(config: ScoreTeacherConfig, checkpoint: str | Path | None) -> TeacherSource:
    """Raises: UserError where both or neither of `config.teacher` and a checkpoint of train_teacher are given."""
    if (config.teacher is None) == (checkpoint is None):
        raise UserError(
            f"give either score_teacher.teacher (a Hugging Face checkpoint) or a checkpoint of train_teacher; "
            f"got {config.teacher!r} and {checkpoint!r}"
        )
    if checkpoint is None:
        assert config.teacher is not None
        return TeacherSource(config.teacher, None, checkpoint_identity(config.teacher))
    made = open_artifact(checkpoint, "MattaCheckpoint")
    return TeacherSource(made.path / "ta", made, None)
