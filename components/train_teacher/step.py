"""Train a Teacher, for the demo: real recipes name a checkpoint that exists. It is `train` with a single size."""

from pathlib import Path

from components.common.launching.config import LaunchConfig
from components.train.step import train
from matta_core.artifacts import Artifact
from matta_core.recipe import TrainConfig
from matta_core.recipe.settings import errors_of_section


def train_teacher(
    config: TrainConfig, dataset: str | Path, *, output: str | Path, launch_config: LaunchConfig | None = None
) -> Artifact | None:
    """Make a MattaCheckpoint whose `ta/` is the Teacher. Raises as `train` does."""
    with errors_of_section("train_teacher"):
        return train(config, dataset, None, output=output, step="train_teacher", launch_config=launch_config)
