"""Which storage a target names."""

from pathlib import Path

from components.common.storage.local import LocalStorage
from components.common.storage.storage import Storage
from matta_core.errors import UserError


def open_storage(target: str) -> Storage:
    """The storage of `gs://bucket/prefix`, or of a local directory, which need not exist yet."""
    if target.startswith("gs://"):
        from components.common.storage.gcs import GcsStorage  # its client takes a second to import

        return GcsStorage(target)
    if "://" in target:
        raise UserError(f"push.target must be a local directory or gs://bucket/prefix, got {target!r}")
    return LocalStorage(Path(target).resolve())
