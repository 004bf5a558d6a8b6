"""The checks of a recipe that need no step to run: `run`, `compile`, `submit` and `schedule` all make them first."""

import argparse
import contextlib
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from components.common.command_line import located
from matta_core.errors import UserError
from matta_core.recipe import Recipe, ScoreTeacherConfig, TrainConfig
from matta_core.recipe.settings import Section
from pipelines.cluster import ClusterProfile
from pipelines.steps import STEPS_IN_RANKS


def check(recipe: Recipe, cluster: ClusterProfile | None = None) -> None:
    """Check that the families take the shapes, that sizes nest, that budgets of mixes can be kept, that the Teacher's
    top k is within the vocabulary, that checkpoints on this disk fit, that lm-eval knows tasks and metrics, and that
    batches divide over the profile's processes.

    It takes seconds, in a process of its own (`pipelines.checks.models`): there transformers' config classes do without
    torch, whose import would take longer than all the rest. Raises: UserError that begins with the setting.
    """
    if cluster is not None:
        _check_ranks(recipe, cluster)
    command = [sys.executable, "-m", "pipelines.checks.models"]
    checked = subprocess.run(command, input=recipe.to_json(), capture_output=True, text=True)
    told = checked.stderr.strip().rpartition("\n")[2]  # the last line; libraries print theirs before it
    if checked.returncode == 2 and told.startswith("error: "):
        raise UserError(told.removeprefix("error: "))
    if checked.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} ended with status {checked.returncode}:\n{checked.stderr}")


@contextlib.contextmanager
def checked(args: argparse.Namespace, recipe: Recipe, cluster: ClusterProfile | None = None) -> Iterator[None]:
    """Run `check` in the background while the body imports and compiles. An error that it finds is raised at the end,
    with the setting's place in `--recipe` or `--set`."""
    with ThreadPoolExecutor(1) as pool, located(args.recipe, args.set, "--set"):
        found = pool.submit(check, recipe, cluster)
        yield
        found.result()


def _check_ranks(recipe: Recipe, cluster: ClusterProfile) -> None:
    for step in STEPS_IN_RANKS:
        config: Section | None = getattr(recipe, step)  # its section bears its name
        placement = cluster.placement(step)
        ranks = placement.nodes * placement.processes
        if isinstance(config, TrainConfig) and config.batch_size % ranks:
            raise UserError(
                f"{step}.batch_size must be divisible by the number of processes, {ranks}, that profile {cluster.name} "
                f"gives {step}, got {config.batch_size}"
            )
        if isinstance(config, ScoreTeacherConfig) and ranks > (shards := recipe.prepare_data.num_shards):
            raise UserError(
                f"prepare_data.num_shards must be at least the number of processes, {ranks}, that profile "
                f"{cluster.name} gives {step}, which divide the shards among them, got {shards}"
            )
