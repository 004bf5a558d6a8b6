"""Train the TA with its nested students, or, with a single size and no scores, a Teacher."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.step import run_step
from matta_core.artifacts import IN_PROGRESS, Artifact, open_artifact
from matta_core.config import TrainConfig


def train(
    config: TrainConfig,
    dataset: str | Path,
    scores: str | Path | None,
    *,
    output: str | Path,
    step: str = "train",
) -> Artifact | None:
    """Make a MattaCheckpoint: `ta/` (a Hugging Face checkpoint), nesting.json, metrics.jsonl, tensorboard/.

    Killed and started again with the same output, it goes on from its newest checkpoint. Under torchrun every
    process calls it; only rank 0 gets the artifact.

    Raises: UserError on settings that do not fit the inputs; TrainingDivergedError where the loss is not finite.
    """
    inputs = {"dataset": open_artifact(dataset, "TokenizedDataset")}
    if scores is not None:
        inputs["scores"] = open_artifact(scores, "TeacherScores")

    def work(path: Path) -> Mapping[str, Any]:
        from matta_core.train import train as run_training

        return run_training(config, inputs["dataset"], inputs.get("scores"), path, path / IN_PROGRESS)

    follows = os.environ.get("RANK", "0") != "0"  # set by torchrun
    return run_step(step, "MattaCheckpoint", output, config, inputs, work, follows=follows)
