"""Start the ranks of a training where its LaunchConfig says, and wait for them."""

from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from components.common.launching.config import LaunchConfig
from components.common.launching.torchrun import run_torchrun
from matta_core.errors import UserError


def run_ranks(
    config: LaunchConfig, command: list[str], *, name: str, work: str | Path, paths: Iterable[str | Path]
) -> None:
    """Run `python -m` + `command` in every rank and wait for the ranks. If this process is told to end, it ends them.

    `name` is the TrainJob's, made from the step's key, by which a step that is started again finds its own job. `paths`
    are the artifacts that `command` reads and writes; with several nodes they must lie on a volume that all nodes
    mount. `work` is the folder of the unfinished work there: a heartbeat in it tells the nodes that this process lives.

    Raises: UserError and TrainingDivergedError as the ranks do; RuntimeError with the failing rank and the end of its
    log; SystemExit(128 + signal) after SIGTERM or SIGINT, with all ranks ended.
    """
    if config.nodes == 1:
        run_torchrun(command, config.processes_per_node, timeout_seconds=config.timeout_seconds)
        return
    _check_shared(config, paths)
    from components.common.launching.trainjob import run_trainjob  # Kubernetes' clients take a second to import

    run_trainjob(config, command, name=name, heartbeat_file=Path(work).absolute() / "heartbeat")


def _check_shared(config: LaunchConfig, paths: Iterable[str | Path]) -> None:
    if not config.claims:
        raise UserError(
            f"launch_config.claims is empty, but nodes = {config.nodes}: several nodes need a volume that all of them "
            f"mount (ReadWriteMany). Name it under `volumes` in the cluster profile, and set `store` to a directory "
            f"on it"
        )
    mounts = [PurePosixPath(volume.mount_path) for volume in config.claims]
    for path in paths:
        absolute = PurePosixPath(Path(path).absolute())
        if not any(absolute.is_relative_to(mount) for mount in mounts):
            raise UserError(
                f"{path} is on none of the volumes that the {config.nodes} nodes share "
                f"({', '.join(str(mount) for mount in mounts)}): set `store` in the cluster profile to a folder there"
            )
