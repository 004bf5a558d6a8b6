"""Where `start_from` leads: a folder, a checkpoint that train made, a name on the hub, or the served Student."""

import dataclasses
import os
from pathlib import Path
from typing import Any, NamedTuple

from components.common.served.versions import KIND as PUSHED_MODEL
from components.common.served.versions import fetch, read_pointer
from components.common.step_runner import checkpoint_identity
from components.common.storage.open_storage import open_storage
from components.common.storage.storage import Storage
from matta_core.artifacts import file_digest, is_finished, open_artifact, read_manifest
from matta_core.artifacts.kinds.checkpoint import NESTING
from matta_core.errors import UserError
from matta_core.recipe import PUSHED, PushConfig, TrainConfig


class Start(NamedTuple):
    """What a training begins with. `identity` stands for it in the step's key; None means random weights."""

    identity: Any = None
    folder: str | None = None  # or a hub name; None where it is `version` of `size` in `storage`
    storage: Storage | None = None
    size: str = ""
    version: str = ""

    def located(self, config: TrainConfig, folder: Path) -> TrainConfig:
        """The settings, with `start_from` as a path or name that transformers can load. A version in an object store is
        downloaded below `folder`. Raises: UserError where it is missing or damaged."""
        if self.storage is None:
            return dataclasses.replace(config, start_from=self.folder)
        # Ranks that a person started by torchrun each download a copy of their own.
        place = fetch(self.storage, self.size, self.version, folder.absolute() / f"start-{os.environ.get('RANK', '0')}")
        return dataclasses.replace(config, start_from=str(place))


def start_of(config: TrainConfig, push_config: PushConfig | None, step: str) -> Start:
    """Follow `start_from`. If it is 'pushed', follow the pointer: the key then holds the digest of what is served now.

    Raises: UserError where nothing was pushed yet, or where a named artifact was altered.
    """
    if config.start_from is None:
        return Start()
    if config.start_from == PUSHED:
        return _served(config, push_config, step)
    folder = Path(config.start_from)
    if (folder / "ta" / "config.json").is_file():
        folder = open_artifact(folder, "MattaCheckpoint").path / "ta"
    if _is_pushed(folder):  # it is known by its content, as if the pointer had named it
        return Start(open_artifact(folder, PUSHED_MODEL).key, str(folder))
    identity = checkpoint_identity(str(folder))
    if (nesting := folder.parent / NESTING).is_file():  # a TA's folder: it says where the students' layers are
        identity = {**identity, f"../{NESTING}": file_digest(nesting)}
    return Start(identity, str(folder))


def _served(config: TrainConfig, push_config: PushConfig | None, step: str) -> Start:
    where = f"{step}.start_from = {PUSHED!r}"
    if push_config is None:
        raise UserError(
            f"{where} needs push.target, which this step was not given: it is for a recipe's train, and a pipeline "
            f"must be compiled with it. Or name a folder (./{PUSHED} where it is called so)"
        )
    storage = open_storage(push_config.target)
    pointer = read_pointer(storage, config.student)
    if pointer is None:
        raise UserError(
            f"{where}: nothing of size {config.student!r} (train.student) was pushed to {storage.url} yet. For the "
            f"first run: --set train.start_from=CHECKPOINT, or --set train.start_from=null for random weights"
        )
    return Start(pointer.digest, None, storage, config.student, pointer.version)


def _is_pushed(folder: Path) -> bool:
    try:
        return is_finished(folder) and read_manifest(folder)["kind"] == PUSHED_MODEL
    except UserError:  # another program's file of the same name
        return False
