"""Which settings of a recipe are paths, and which of these paths the pods of a cluster do not see."""

import os.path
from collections.abc import Iterator
from pathlib import Path

from matta_core.recipe import PrepareDataConfig, Recipe
from pipelines.cluster import ClusterProfile


def models_named(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """(setting, value) for every model and tokenizer: a name on the hub, or a path."""
    for where, name in (
        ("prepare_data.tokenizer", recipe.prepare_data.tokenizer),
        ("train_teacher.start_from", recipe.train_teacher.start_from if recipe.train_teacher else None),
        ("score_teacher.teacher", recipe.score_teacher.teacher),
        ("train.start_from", recipe.train.start_from),
    ):
        if name is not None:
            yield where, name


def is_path(name: str) -> bool:
    """Whether a model's name is a path. The hub's names are NAME or OWNER/NAME."""
    return name.startswith(("/", ".")) or name.count("/") > 1


def out_of_reach(recipe: Recipe, cluster: ClusterProfile) -> list[str]:
    """A problem for each setting whose path lies in the file system of a step's own pod; none where all is well.

    Nothing can be read there, and what is pushed there is lost.
    """
    volumes = [volume.mount_path for volume in cluster.volumes]
    # Vertex AI mounts every bucket, so that its objects can be read as files.
    mounts = [*volumes, "/gcs"] if cluster.platform == "vertex" else volumes
    below = f"a path below {' or '.join(mounts)}" if mounts else "a path on a volume (the profile has no volumes)"
    reasons = []
    if not (recipe.push.target.startswith("gs://") or _is_below(recipe.push.target, volumes)):
        reasons.append(
            f"push.target is {recipe.push.target}, in the file system of push's own pod: what is pushed there is lost "
            f"when the pod ends, and no later run is compared with it. Give gs://bucket/prefix"
            + "".join(f", or a directory below {mount}" for mount in volumes)
        )
    for where, value, instead in _read_by_pods(recipe):
        if not _is_below(value, mounts):
            reasons.append(f"{where} is {value}, a path of this machine, which no pod sees. Give {below}, or {instead}")
    return reasons


def _read_by_pods(recipe: Recipe) -> Iterator[tuple[str, str, str]]:
    """(setting, path, what else the setting takes) for every path that steps read."""
    if recipe.retrain is not None and not recipe.retrain.prefix.startswith("gs://"):
        yield "retrain.prefix", recipe.retrain.prefix, "gs://bucket/prefix"
    source = recipe.prepare_data.source
    if source != PrepareDataConfig().source and not source.startswith("gs://"):
        yield "prepare_data.source", source, "gs://bucket/glob"
    for where, name in models_named(recipe):
        if is_path(name):
            yield where, name, "a name on the hub"
    for task, config in recipe.evaluate.tasks.items():
        if config.data_files is not None:
            yield f"evaluate.tasks.{task}.data_files", config.data_files, "nothing: the task's data on the hub"


def _is_below(path: str, mounts: list[str]) -> bool:
    return any(Path(os.path.normpath(path)).is_relative_to(mount) for mount in mounts)
