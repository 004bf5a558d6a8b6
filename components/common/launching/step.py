"""A step whose work may be done by several processes: the ranks run its own command."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from components.common.disk import disk_errors_explained
from components.common.launching.config import LaunchConfig
from components.common.launching.launch import run_ranks
from components.common.step_runner import Work, keyed_path, run_step, say, step_key
from matta_core.artifacts import IN_PROGRESS, Artifact, is_finished, open_artifact
from matta_core.errors import UserError
from matta_core.recipe.settings import Section

_OPTIONS = {"teacher": "teacher-checkpoint"}  # of inputs whose option has another name


def run_step_in_ranks(
    step: str,
    kind: str,
    output: str | Path,
    config: Section,
    inputs: Mapping[str, Artifact],
    work: Work,
    *,
    launch_config: LaunchConfig | None,
    command: Callable[[Path], tuple[list[str], list[str | Path]]],
    extra_key: Any = None,
) -> Artifact | None:
    """`run_step`, or its work in every rank: rank 0 claims, resumes and seals the directory as ever.

    With a `launch_config` of several processes, this process starts them, watches them and opens the artifact. Under
    torchrun every process calls this, and only rank 0 gets the artifact. `command(path)` gives the command of a rank,
    from its module on, without inputs and output, and further paths that the ranks read.
    """
    key = step_key(step, config, inputs, work, extra_key=extra_key)
    path = keyed_path(output, key)
    if launch_config is not None and launch_config.processes > 1:
        return _launched(launch_config, step, kind, key, path, inputs, command)
    if os.environ.get("RANK", "0") != "0":  # set by torchrun
        with disk_errors_explained(path):
            if not is_finished(path):  # else rank 0 has nothing to do either
                work(path)
        return None
    return run_step(step, kind, output, config, inputs, work, extra_key=extra_key)


def _launched(
    launch_config: LaunchConfig,
    step: str,
    kind: str,
    key: str,
    path: Path,
    inputs: Mapping[str, Artifact],
    command: Callable[[Path], tuple[list[str], list[str | Path]]],
) -> Artifact:
    if not is_finished(path) or open_artifact(path, kind).key != key:
        say(step, f"{launch_config.processes} processes on {launch_config.nodes} node(s)")
        with disk_errors_explained(path):
            words, further = command(path)
        words = [*words, "--output", str(path.absolute())]
        for name, artifact in inputs.items():
            words += [f"--{_OPTIONS.get(name, name)}", str(artifact.path.absolute())]
        name = f"matta-{step.replace('_', '-')}-{key[:16]}"
        paths = [path, *(artifact.path for artifact in inputs.values()), *(p for p in further if Path(p).exists())]
        run_ranks(launch_config, words, name=name, work=path / IN_PROGRESS, paths=paths)
    else:
        say(step, f"reused {path}")
    artifact = open_artifact(path, kind)
    if artifact.key != key:
        raise UserError(
            f"the ranks made {path} with other code than this step's: on several nodes launch_config.image "
            f"({launch_config.image!r}) must be the step's own image; in one pod the code must not change meanwhile"
        )
    return artifact
