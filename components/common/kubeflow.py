"""What the steps' Kubeflow wrappers share: where a step reads and writes, and what Kubeflow learns of it."""

import atexit
import shutil
import tempfile
from pathlib import Path
from typing import Any

from components.common.step_runner import say
from matta_core.artifacts import MANIFEST, REFERENCE, Artifact, files_of, is_finished, point_to, read_manifest


def received(kfp_artifact: Any) -> str:
    """The folder of an input, for a step to open. In Kubeflow's own place, it has what its manifest lists and no more.

    A pod that dies while Kubeflow uploads its outputs leaves files that the next attempt does not write again (a log
    named by the time), and later steps would get both. So the folder is one of links to the manifest's files alone,
    which lasts as long as this process. Whoever opens it checks these files as usual.
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


def output_path(artifacts: str, step: str, kfp_path: str) -> str:
    """Where a wrapper's step writes: a directory named by its key below the folder `artifacts`; where that is "", it is
    Kubeflow's own place. (The pipeline calls this folder its `store`; a `Store` in the code holds pushed models.)"""
    return f"{artifacts}/{step}-{{key}}" if artifacts else kfp_path


def publish(kfp_artifact: Any, artifact: Artifact) -> None:
    """Tell Kubeflow what a step's artifact is, and its digest. If it lies in a folder of ours, Kubeflow's place gets a
    file that points to it.

    The URI stays that of Kubeflow's own place: its launcher refuses an input whose URI is no object store's
    (ParseBucketConfigForArtifactURI in kubeflow/pipelines, backend/src/v2/objectstore).
    """
    place = Path(kfp_artifact.path)
    if place.resolve() != artifact.path.resolve():
        point_to(artifact, place)
    kfp_artifact.metadata.update({"kind": artifact.kind, "digest": artifact.digest})
