"""A local directory as a storage: every write goes to a file aside, is flushed, and is renamed into place.

<target>/.lock   held while a conditional write or a deletion compares and acts; never deleted
<target>/.tmp/   files being written; what a killed process left there is removed after a day

A file's generation is its time of modification in nanoseconds and its size. We set the time ourselves, later than that
of the file that is replaced. If a file was read or written whole, the digest of its content is part of the generation,
too: some file systems (FUSE's) give the time of the file that has the name by now, and not of the one that was opened.

On NFS several machines may share a target. A machine caches names and attributes for up to a minute, and `stat` answers
from this cache. Compare-and-swap holds there all the same, for three reasons. The lock (flock) is the server's and
counts for all machines (NFS 4, or 3 with lockd). The holder of the lock reads the generation from a descriptor that it
opened under the lock, folder by folder from the target down: opening a folder asks the server for its names, and
opening a file for its state (close-to-open consistency; the mount option `nocto` gives it up). A rename has happened on
the server before the lock is given back.
"""

import contextlib
import errno
import hashlib
import io
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TypeVar

from components.common.locks import locked
from components.common.storage.storage import ConflictError, StoredFile
from matta_core.artifacts import file_digest, flush_to_disk
from matta_core.errors import UserError

_TEMPORARY = ".tmp"
_OURS = "matta-"
_LOCK = ".lock"
_LEFT_AFTER_SECONDS = 24 * 3600
_ATTEMPTS = 100

T = TypeVar("T")


class LocalStorage:
    """The storage below an absolute path. The folder is made by the first write."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.url = str(root)

    def location(self, name: str) -> str:
        return str(self.root / name)

    def local_path(self, name: str) -> Path | None:
        return self.root / name

    def read(self, name: str) -> tuple[bytes, str] | None:
        def look(file: io.BufferedReader) -> tuple[bytes, str]:
            data = file.read()
            return data, _generation(os.fstat(file.fileno()), data)

        return self._at(name, look)

    def write(self, name: str, data: bytes, *, expected: str | None) -> str:
        with self._temporary() as temporary:
            temporary.write_bytes(data)
            flush_to_disk(temporary)
            with self._locked():
                found = self.read(name)
                if (found and found[1]) != expected:
                    raise ConflictError(name)
                return _generation(self._put(temporary, name), data)

    def folders(self) -> list[str]:
        try:
            return sorted(path.name for path in self.root.iterdir() if path.is_dir() and path.name != _TEMPORARY)
        except FileNotFoundError:
            return []

    def list(self, prefix: str) -> list[StoredFile]:
        entries = []
        for folder, folders, names in os.walk(self.root / prefix):
            folders[:] = [child for child in folders if child != _TEMPORARY]
            for path in (Path(folder) / child for child in names if child != _LOCK):
                with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                    found = path.stat()
                    name = path.relative_to(self.root).as_posix()
                    entries.append(StoredFile(name, found.st_size, _stamp(found), found.st_mtime))
        return sorted(entries, key=lambda entry: entry.name)

    def open(self, entry: StoredFile) -> IO[bytes]:
        return (self.root / entry.name).open("rb")

    def holds(self, file: Path, name: str) -> bool:
        def same(there: io.BufferedReader) -> bool:
            if os.fstat(there.fileno()).st_size != file.stat().st_size:
                return False
            return hashlib.file_digest(there, "sha256").hexdigest() == file_digest(file)

        return bool(self._at(name, same))

    def upload(self, file: Path, name: str) -> None:
        with self._temporary() as temporary:
            shutil.copyfile(file, temporary)
            if file_digest(temporary) != file_digest(file):
                raise UserError(f"the copy of {file} in {temporary.parent} differs from it: check the disk, push again")
            flush_to_disk(temporary)
            with self._locked():
                self._put(temporary, name)

    def download(self, name: str, file: Path) -> None:
        part = file.with_name(f".{file.name}.part")

        def copy(there: io.BufferedReader) -> bool:
            with part.open("wb") as to:
                shutil.copyfileobj(there, to)
            return True

        if not self._at(name, copy):
            raise UserError(f"{self.location(name)} is not there")
        part.replace(file)

    def delete(self, entry: StoredFile) -> None:
        path = self.root / entry.name
        with self._locked():
            found = self._found(entry.name)
            if found is not None and _stamp(found) == entry.generation:
                path.unlink()
            for folder in path.relative_to(self.root).parents:
                if not folder.name or not _remove_if_empty(self.root / folder):
                    break

    def _put(self, temporary: Path, name: str) -> os.stat_result:
        """Rename a flushed file into place, with a later time than what it replaces. The caller holds the lock."""
        place = self.root / name
        found = _make_newer(temporary, self._found(name))
        place.parent.mkdir(parents=True, exist_ok=True)
        temporary.rename(place)
        for folder in place.relative_to(self.root).parents:  # up to the root: new folders' names are flushed, too
            flush_to_disk(self.root / folder)
        return found

    def _at(self, name: str, use: Callable[[io.BufferedReader], T]) -> T | None:
        """The result of `use` on the file that has the name now; None where there is none."""
        for _ in range(_ATTEMPTS):
            try:
                folder = self.root
                for part in Path(name).parts:
                    os.close(os.open(folder, os.O_RDONLY | os.O_DIRECTORY))  # NFS then asks the server for its names
                    folder /= part
                with folder.open("rb") as file:
                    return use(file)
            except (FileNotFoundError, NotADirectoryError):
                return None
            except OSError as error:
                if error.errno != errno.ESTALE:  # on NFS: another machine has replaced the file since it was opened
                    raise
        raise UserError(f"{self.location(name)} was replaced {_ATTEMPTS} times while it was read: try again later")

    def _found(self, name: str) -> os.stat_result | None:
        return self._at(name, lambda file: os.fstat(file.fileno()))

    @contextlib.contextmanager
    def _temporary(self) -> Iterator[Path]:
        folder = self.root / _TEMPORARY
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.glob(f"{_OURS}*"):  # other people's files there stay
            with contextlib.suppress(FileNotFoundError):  # another process tidies up, too, or has renamed it
                if time.time() - path.stat().st_mtime > _LEFT_AFTER_SECONDS:
                    path.unlink()
        descriptor, name = tempfile.mkstemp(dir=folder, prefix=_OURS)
        os.fchmod(descriptor, 0o666 & ~_umask())  # with mkstemp's 0600 another user could not serve it
        os.close(descriptor)
        try:
            yield Path(name)
        finally:
            Path(name).unlink(missing_ok=True)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Let one process in at a time."""
        self.root.mkdir(parents=True, exist_ok=True)
        with locked(self.root / _LOCK, wait=True):
            yield


def _stamp(found: os.stat_result) -> str:
    return f"{found.st_mtime_ns}.{found.st_size}"


def _generation(found: os.stat_result, data: bytes) -> str:
    return f"{_stamp(found)}.{hashlib.sha256(data).hexdigest()[:16]}"


def _make_newer(file: Path, than: os.stat_result | None) -> os.stat_result:
    """Set a file's time of modification to now, or to later than the other's.

    The second attempt is for a file system that keeps times to one or two seconds.
    """
    earlier = 0 if than is None else than.st_mtime_ns
    for step in (1, 2 * 10**9):
        modified = max(time.time_ns(), earlier + step)
        os.utime(file, ns=(modified, modified))
        if (found := file.stat()).st_mtime_ns > earlier:
            break
    return found


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def _remove_if_empty(folder: Path) -> bool:
    try:
        folder.rmdir()
    except OSError:
        return False
    return True
