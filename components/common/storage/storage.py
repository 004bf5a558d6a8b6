"""A storage: a directory or a bucket that holds what is pushed, and the ledger of scheduled runs.

A cluster profile's `store` is another thing: the folder in which a run's steps leave their artifacts.

Push promises whole versions, a pointer that moves once, and a history that loses nothing. `components.common.served`
and `components.push` build all of this on these few operations, alike for a directory and for `gs://`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol


class ConflictError(Exception):
    """A conditional write found another generation at the name than the one expected. Nothing was written."""


@dataclass(frozen=True)
class StoredFile:
    """A file of the storage. `generation` differs for every write to the name; `updated` is in seconds since 1970.

    `checksum` is that of the content (for `gs://`, base64 of the crc32c); it is None where the storage keeps none.
    """

    name: str
    bytes: int
    generation: str
    updated: float
    checksum: str | None = None


class Storage(Protocol):
    """Files by name (`s/current.json`) below a target. Names are separated by `/`, on any system.

    A write is whole or absent: no reader ever sees half a file. Every method raises UserError, with the place and the
    remedy, where the storage cannot be reached, read or written.
    """

    url: str  # the target: an absolute path, or gs://bucket/prefix

    def location(self, name: str) -> str:
        """The name's full path or URL, for people and for serving."""

    def local_path(self, name: str) -> Path | None:
        """The name's path on this machine; None where it must be downloaded."""

    def read(self, name: str) -> tuple[bytes, str] | None:
        """Content and generation; None where there is no such file."""

    def write(self, name: str, data: bytes, *, expected: str | None) -> str:
        """Compare and swap: replace the generation `expected` (None means no file). Returns the new generation.

        Raises: ConflictError where the file has another generation.
        """

    def folders(self) -> list[str]:
        """The names of the folders right below the target, sorted. Their content is not listed."""

    def list(self, prefix: str) -> list[StoredFile]:
        """All files below the folder `prefix` ("" for all), sorted by name, with everything written before the call."""

    def open(self, entry: StoredFile) -> IO[bytes]:
        """A stream of the listed content that can seek. Reading raises OSError, or the client's GoogleAPIError, where
        that content is gone or cannot be read."""

    def holds(self, file: Path, name: str) -> bool:
        """Whether the file at the name has the size and checksum of a local file."""

    def upload(self, file: Path, name: str) -> None:
        """Write a local file to the name, over what is there, and check the checksum of the result.

        Raises: UserError where it differs.
        """

    def download(self, name: str, file: Path) -> None:
        """Copy the content to a local file, whole or not at all. Raises: UserError if there is no such name."""

    def delete(self, entry: StoredFile) -> None:
        """Delete that generation, if it is still there."""
