"""What the steps' Kubeflow wrappers share: where a step reads and writes, and what Kubeflow learns of it."""

import atexit
import shutil
import tempfile
from pathlib import Path
from typing import Any

from components.common.step_runner import say
from matta_core.artifacts import MANIFEST, REFERENCE, Artifact, files_of, is_finished, point_to, read_manifest


def received(kfp_artifact: Any) -> str:
    """The folder of an input, for a step to open. Of a folder in Kubeflow's own place it holds what the manifest lists.

    A pod may die while Kubeflow uploads its outputs. It then leaves files that the next attempt does not write again,
    such as a log that is named by the time, and the next step is given both. If so, this folder is one of links to the
    files of the manifest, for the time of this process. Whoever opens it checks these files as ever.
    """
    place = Path(kfp_artifact.path)
    if (place / REFERENCE).exists() or not is_finished(place):
        return str(place)
    present, listed = files_of(place), read_manifest(place)["files"]
    if not (left := sorted(present.keys() - listed.keys())) or listed.keys() - present.keys():
        return str(place)
    view = Path(tempfile.mkdtemp(prefix="matta-"))
    atexit.register(shutil.rmtree, view, ignore_errors=True)
    for name in (MANIFEST, *listed):
        (view / name).parent.mkdir(parents=True, exist_ok=True)
        (view / name).symlink_to(place.resolve() / name)
    say("input", f"{place}: left out {len(left)} file(s) of an earlier attempt, {left[0]} first")
    return str(view)


def output_path(store: str, step: str, kfp_path: str) -> str:
    """Where a wrapper's step writes: a directory named by its key below the folder `store`. If that is "", it is
    Kubeflow's own place."""
    return f"{store}/{step}-{{key}}" if store else kfp_path


def publish(kfp_artifact: Any, artifact: Artifact) -> None:
    """Tell Kubeflow an artifact's digest. If it lies in a folder of ours, write a pointer to it into Kubeflow's place.

    The URI stays that of Kubeflow's own place: its launcher refuses an input whose URI is no object store's
    (ParseBucketConfigForArtifactURI in kubeflow/pipelines, backend/src/v2/objectstore).
    """
    place = Path(kfp_artifact.path)
    if place.resolve() != artifact.path.resolve():
        point_to(artifact, place)
    kfp_artifact.metadata.update({"kind": artifact.kind, "digest": artifact.digest})
