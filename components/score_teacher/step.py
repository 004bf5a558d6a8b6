"""Score the training data with the Teacher, once, so that training need not run it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.common.launching.config import LaunchConfig
from components.common.launching.heartbeat import end_with_the_step
from components.common.launching.step import run_step_in_ranks
from components.common.teacher import teacher_of
from matta_core.artifacts import Artifact, open_artifact
from matta_core.recipe import ScoreTeacherConfig


def score_teacher(
    config: ScoreTeacherConfig,
    dataset: str | Path,
    teacher_checkpoint: str | Path | None,
    *,
    output: str | Path,
    launch_config: LaunchConfig | None = None,
) -> Artifact | None:
    """Make TeacherScores: train/part-*.parquet, one to one with the dataset's shards and rows.

    The Teacher is `config.teacher`, a Hugging Face checkpoint, or the one in `teacher_checkpoint`, a
    MattaCheckpoint. If it is killed and started again, it goes on with the shards that are not done. Several processes
    (`run_step_in_ranks`) divide the shards among them.

    Raises: UserError where both or neither are given, or the Teacher's vocabulary is not the dataset's.
    """
    end_with_the_step()
    inputs = {"dataset": open_artifact(dataset, "TokenizedDataset")}
    teacher = teacher_of(config, teacher_checkpoint)
    if teacher.made is not None:
        inputs["teacher"] = teacher.made

    def work(path: Path) -> Mapping[str, Any]:
        from matta_core.teacher import score_teacher as run_scoring

        return run_scoring(config, teacher.path, inputs["dataset"], path)

    def command(_: Path) -> tuple[list[str], list[str | Path]]:
        return ["components.score_teacher", "--config", config.to_json()], [teacher.path]

    return run_step_in_ranks(
        *("score_teacher", "TeacherScores", output, config, inputs, work),
        launch_config=launch_config,
        command=command,
        extra_key=teacher.identity,
    )
