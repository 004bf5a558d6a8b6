"""Which store a target names."""

from pathlib import Path

from components.common.storage.local import LocalStore
from components.common.storage.store import Store
from matta_core.errors import UserError


def open_store(target: str) -> Store:
    """The store of `gs://bucket/prefix`, or of a local directory, which need not exist yet."""
    if target.startswith("gs://"):
        from components.common.storage.gcs import GcsStore  # its client takes a second to import

        return GcsStore(target)
    if "://" in target:
        raise UserError(f"push.target must be a local directory or gs://bucket/prefix, got {target!r}")
    return LocalStore(Path(target).resolve())
