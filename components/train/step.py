"""Train the TA with its nested students, or, with a single size and no scores, a Teacher.

The Teacher's training is for the demo: real recipes name a checkpoint that exists.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from components.common.launching.config import LaunchConfig
from components.common.launching.heartbeat import end_with_the_step
from components.common.launching.step import run_step_in_ranks
from components.common.teacher import teacher_of
from components.train.start import start_of
from matta_core.artifacts import IN_PROGRESS, Artifact, open_artifact
from matta_core.errors import UserError
from matta_core.recipe import PushConfig, ScoreTeacherConfig, TrainConfig
from matta_core.recipe.settings import errors_of_section
from matta_core.training.stopping import on_sigterm

_COMMANDS = {"train": "train", "train_teacher": "train.teacher"}  # by step: its module below components


def train(
    config: TrainConfig,
    dataset: str | Path,
    scores: str | Path | None,
    *,
    output: str | Path,
    step: str = "train",
    launch_config: LaunchConfig | None = None,
    push_config: PushConfig | None = None,
    teacher_config: ScoreTeacherConfig | None = None,
    teacher_checkpoint: str | Path | None = None,
) -> Artifact | None:
    """Make a MattaCheckpoint: `ta/` (a Hugging Face checkpoint), nesting.json, metrics.jsonl, tensorboard/.

    If it is killed and started again with the same output, it goes on from its newest checkpoint. `run_step_in_ranks`
    says how several processes train. A rank of a TrainJob ends itself when the step that follows the job is gone.
    `push_config` says where the served Student lies, for `start_from: pushed`. With `teacher_config`, the Teacher (its
    `teacher`, or what train_teacher made) scores each batch in training, in place of `scores`.

    Raises: UserError where settings do not fit the inputs; TrainingDivergedError where the loss is not finite;
    RuntimeError with the end of its log where a rank failed otherwise; ToldToEndError after SIGTERM, once a checkpoint
    is written.
    """
    with on_sigterm() as stop:
        end_with_the_step()
        inputs = {"dataset": open_artifact(dataset, "TokenizedDataset")}
        if scores is not None:
            inputs["scores"] = open_artifact(scores, "TeacherScores")
        start = start_of(config, push_config, step)
        teacher = _online(teacher_config, teacher_checkpoint, inputs)
        # What is known by no input's digest.
        outside = start.identity if teacher is None else {"start": start.identity, "teacher": teacher.identity}

        def work(path: Path) -> Mapping[str, Any]:
            from matta_core.teacher import OnlineTeacher
            from matta_core.train import train as run_training

            located = start.located(config, path / IN_PROGRESS)
            online = teacher and OnlineTeacher(teacher.config, teacher.checkpoint)
            metadata = run_training(
                located, inputs["dataset"], inputs.get("scores"), path, path / IN_PROGRESS, stop, online=online
            )
            return metadata if start.identity is None else metadata | {"start_from": start.identity}

        def command(path: Path) -> tuple[list[str], list[str | Path]]:
            located = start.located(config, path / IN_PROGRESS)
            words = [f"components.{_COMMANDS[step]}", "--config", located.to_json()]
            further: list[str | Path] = [located.start_from] if located.start_from else []
            if teacher is not None:
                words += ["--teacher-config", teacher.config.to_json()]
                further.append(teacher.checkpoint)
            return words, further

        return run_step_in_ranks(
            *(step, "MattaCheckpoint", output, config, inputs, work),
            launch_config=launch_config,
            command=command,
            extra_key=outside,
        )


class _Online(NamedTuple):
    config: ScoreTeacherConfig
    checkpoint: str | Path
    identity: Any


def _online(
    config: ScoreTeacherConfig | None, checkpoint: str | Path | None, inputs: dict[str, Artifact]
) -> _Online | None:
    """The Teacher that scores in training, if there is one. One that a step made becomes an input."""
    if config is None:
        return None
    if "scores" in inputs:
        raise UserError("give train either teacher scores or score_teacher.online, which makes them in training")
    found = teacher_of(config, checkpoint)
    if found.made is not None:
        inputs["teacher"] = found.made
    return _Online(config, found.path, [config.what_changes_the_result(), found.identity])


def train_teacher(
    config: TrainConfig, dataset: str | Path, *, output: str | Path, launch_config: LaunchConfig | None = None
) -> Artifact | None:
    """Make a MattaCheckpoint whose `ta/` is the Teacher, where no Teacher exists: `train` with a single size. Raises
    the same errors."""
    with errors_of_section("train_teacher"):
        return train(config, dataset, None, output=output, step="train_teacher", launch_config=launch_config)
