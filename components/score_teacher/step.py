"""Score the training data with the Teacher, once, so that training need not run it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.common.step_runner import checkpoint_identity, run_step
from matta_core.artifacts import Artifact, open_artifact
from matta_core.errors import UserError
from matta_core.recipe import ScoreTeacherConfig


def score_teacher(
    config: ScoreTeacherConfig, dataset: str | Path, teacher_checkpoint: str | Path | None, *, output: str | Path
) -> Artifact:
    """Make TeacherScores: train/part-*.parquet, one to one with the dataset's shards and rows.

    The Teacher is `config.teacher`, a Hugging Face checkpoint, or the one in `teacher_checkpoint`, a
    MattaCheckpoint. If it is killed and started again, it goes on with the shards that are not done.

    Raises: UserError where both or neither are given, or the Teacher's vocabulary is not the dataset's.
    """
    inputs = {"dataset": open_artifact(dataset, "TokenizedDataset")}
    if (config.teacher is None) == (teacher_checkpoint is None):
        raise UserError(
            f"give either score_teacher.teacher (a Hugging Face checkpoint) or a checkpoint of train_teacher; "
            f"got {config.teacher!r} and {teacher_checkpoint!r}"
        )
    if teacher_checkpoint is not None:
        inputs["teacher"] = open_artifact(teacher_checkpoint, "MattaCheckpoint")
    teacher = config.teacher or inputs["teacher"].path / "ta"

    def work(path: Path) -> Mapping[str, Any]:
        from matta_core.teacher import score_teacher as run_scoring

        return run_scoring(config, teacher, inputs["dataset"], path)

    identity = checkpoint_identity(config.teacher) if config.teacher else None
    return run_step("score_teacher", "TeacherScores", output, config, inputs, work, extra_key=identity)
