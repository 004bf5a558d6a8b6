"""Train the TA with its nested students, or, with a single size and no scores, a Teacher.

The Teacher's training is for the demo: real recipes name a checkpoint that exists.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.common.disk import disk_errors_explained
from components.common.launching.config import LaunchConfig
from components.common.launching.heartbeat import end_with_the_step
from components.common.launching.launch import run_ranks
from components.common.step_runner import Work, keyed_path, run_step, say, step_key
from components.train.start import Start, start_of
from matta_core.artifacts import IN_PROGRESS, Artifact, is_finished, open_artifact
from matta_core.errors import UserError
from matta_core.recipe import PushConfig, TrainConfig
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
) -> Artifact | None:
    """Make a MattaCheckpoint: `ta/` (a Hugging Face checkpoint), nesting.json, metrics.jsonl, tensorboard/.

    If it is killed and started again with the same output, it goes on from its newest checkpoint. Under torchrun every
    process calls it, and only rank 0 gets the artifact. With a `launch_config` of several processes, this process
    starts them, watches them and opens the artifact. A rank of a TrainJob ends itself when the step that follows the
    job is gone. `push_config` says where the served Student lies, for `start_from: pushed`.

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

        def work(path: Path) -> Mapping[str, Any]:
            from matta_core.train import train as run_training

            located = start.located(config, path / IN_PROGRESS)
            metadata = run_training(located, inputs["dataset"], inputs.get("scores"), path, path / IN_PROGRESS, stop)
            return metadata if start.identity is None else metadata | {"start_from": start.identity}

        if launch_config is not None and launch_config.processes > 1:
            return _launched(launch_config, step, config, inputs, work, output, start)
        if os.environ.get("RANK", "0") != "0":  # set by torchrun
            path = keyed_path(output, step_key(step, config, inputs, work, extra_key=start.identity))
            with disk_errors_explained(path):
                if not is_finished(path):  # else rank 0 has nothing to do either
                    work(path)
            return None
        return run_step(step, "MattaCheckpoint", output, config, inputs, work, extra_key=start.identity)


def train_teacher(
    config: TrainConfig, dataset: str | Path, *, output: str | Path, launch_config: LaunchConfig | None = None
) -> Artifact | None:
    """Make a MattaCheckpoint whose `ta/` is the Teacher, where no Teacher exists: `train` with a single size. Raises
    the same errors."""
    with errors_of_section("train_teacher"):
        return train(config, dataset, None, output=output, step="train_teacher", launch_config=launch_config)


def _launched(
    launch_config: LaunchConfig,
    step: str,
    config: TrainConfig,
    inputs: Mapping[str, Artifact],
    work: Work,
    output: str | Path,
    start: Start,
) -> Artifact:
    """Run the step's own command in every rank. Rank 0 claims, resumes and seals the directory as ever."""
    key = step_key(step, config, inputs, work, extra_key=start.identity)
    path = keyed_path(output, key)
    if not is_finished(path) or open_artifact(path, "MattaCheckpoint").key != key:
        say(step, f"{launch_config.processes} processes on {launch_config.nodes} node(s)")
        with disk_errors_explained(path):
            config = start.located(config, path / IN_PROGRESS)
        command = [f"components.{_COMMANDS[step]}", "--config", config.to_json(), "--output", str(path.absolute())]
        for name, artifact in inputs.items():
            command += [f"--{name}", str(artifact.path.absolute())]
        name = f"matta-{step.replace('_', '-')}-{key[:16]}"
        paths = [path, *(artifact.path for artifact in inputs.values())]
        if config.start_from is not None and Path(config.start_from).exists():
            paths.append(Path(config.start_from))
        run_ranks(launch_config, command, name=name, work=path / IN_PROGRESS, paths=paths)
    else:
        say(step, f"reused {path}")
    artifact = open_artifact(path, "MattaCheckpoint")
    if artifact.key != key:
        raise UserError(
            f"the ranks made {path} with other code than this step's: on several nodes launch_config.image "
            f"({launch_config.image!r}) must be the step's own image; in one pod the code must not change meanwhile"
        )
    return artifact
