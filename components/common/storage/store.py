"""Where pushed models lie: what a store must be able to do.

All that push promises (whole versions, a pointer that moves once, a history that loses nothing) is built in
`components.common.served` and `components.push` on these few operations, the same for a directory and for `gs://`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol


class ConflictError(Exception):
    """A conditional write found another generation at the name than the one expected. Nothing was written."""


@dataclass(frozen=True)
class Entry:
    """What lies at a name. `generation` differs for every write to the name; `updated` is in seconds since 1970.

    `checksum` is of the content, where the store keeps one (`gs://`: base64 of the crc32c); None: it keeps none.
    """

    name: str
    bytes: int
    generation: str
    updated: float
    checksum: str | None = None


class Store(Protocol):
    """Files by name (`s/current.json`) below a target. Names are separated by `/`, on any system.

    A write is whole or not there: no reader ever sees half a file. Raises, everywhere: UserError where the store
    cannot be reached, read or written, with the place and the remedy.
    """

    url: str  # the target: an absolute path, or gs://bucket/prefix

    def location(self, name: str) -> str:
        """The name's full path or URL, for people and for serving."""

    def local_path(self, name: str) -> Path | None:
        """Where the name lies on this machine; None: nowhere, it must be downloaded."""

    def read(self, name: str) -> tuple[bytes, str] | None:
        """Content and generation; None: nothing is there."""

    def write(self, name: str, data: bytes, *, expected: str | None) -> str:
        """Compare and swap: replace the generation `expected` (None: nothing is there); return the new generation.

        Raises: ConflictError where another generation is there.
        """

    def folders(self) -> list[str]:
        """The names of the folders right below the target, sorted; what lies in them is not listed."""

    def list(self, prefix: str) -> list[Entry]:
        """All names below the folder `prefix` ("": all), sorted; what was written before the call is in it."""

    def open(self, entry: Entry) -> IO[bytes]:
        """A stream that can seek, of what was listed. Reading raises OSError, or the client's GoogleAPIError, where
        that is gone or cannot be read."""

    def holds(self, file: Path, name: str) -> bool:
        """Whether size and checksum at the name are those of a local file."""

    def upload(self, file: Path, name: str) -> None:
        """Put a local file at the name, over what is there, and compare the checksum of what then lies there.

        Raises: UserError where they differ.
        """

    def download(self, name: str, file: Path) -> None:
        """Write the content at the name to a local file, whole or not at all. Raises: UserError if nothing is there."""

    def delete(self, entry: Entry) -> None:
        """Delete that generation, if it is still there."""
