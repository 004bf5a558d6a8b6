"""A local directory of pushed models: immutable versions, and per size one pointer that moves atomically.

<target>/<size>/versions/<version>/   a Hugging Face checkpoint with a manifest (kind PushedModel), never changed
<target>/<size>/current.json          the version that is served: {"version", "path", "digest", "previous",
                                      "moved_at", "moved_by"}; `path` is relative to <target>/<size>
<target>/<size>/.lock                 held while a version is copied, and while the pointer moves

A pointer is a file and no symbolic link, so that it can hold what it replaced, and lie in an object store.
"""

import contextlib
import fcntl
import json
import os
import shutil
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from matta_core.artifacts import digest_of, file_digest, finish_artifact, open_artifact, write_json_atomically
from matta_core.errors import UserError
from matta_core.progress import progress

POINTER = "current.json"
KIND = "PushedModel"

Pointer = Mapping[str, Any]


def content_digest(model: Path) -> str:
    """sha256 over the names and sha256 of a model's files: the same files have the same digest anywhere."""
    files = sorted(file for file in model.rglob("*") if file.is_file())
    return digest_of({str(file.relative_to(model)): file_digest(file) for file in files})


def version_path(folder: Path, digest: str) -> Path:
    return folder / "versions" / digest[:16]


def read_pointer(folder: Path) -> Pointer | None:
    """What a size's pointer says; None: nothing was pushed yet. Raises: UserError if it is unreadable."""
    path = folder / POINTER
    try:
        pointer = json.loads(path.read_text(encoding="utf-8"))
        return {name: pointer[name] for name in ("version", "path", "digest", "previous", "moved_at", "moved_by")}
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is no pointer ({error!r}): see which versions lie in {folder / 'versions'}, "
            f"delete the file, and push again"
        ) from None


def install(model: Path, folder: Path, digest: str, *, inputs: Mapping[str, str], metadata: Mapping[str, Any]) -> bool:
    """Put a model's files into their version directory; False: they lay there already, whole.

    They are copied beside it, read back and compared, flushed to disk, and only then renamed into place: at any
    moment the version is either whole or not there.

    Raises: UserError that names the file where the version is there and damaged, or a copy differs.
    """
    version = version_path(folder, digest)
    with _locked(folder):
        if version.exists():
            _check(version, digest)
            return False
        temporary = version.with_name(f".{version.name}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)  # of a push that was killed: the lock is ours
        _copy(model, temporary)
        if content_digest(temporary) != digest:
            raise UserError(f"the copy of {model} in {temporary} differs from it: check the disk, and push again")
        finish_artifact(temporary, KIND, key=digest, inputs=inputs, metadata=metadata)
        for place in (temporary, *(path for path in temporary.rglob("*") if path.is_dir())):
            _flush(place)
        temporary.rename(version)
        _flush(version.parent)
    return True


def move_pointer(folder: Path, expected: Pointer | None, digest: str) -> Pointer:
    """Compare and swap: point at the version `digest` if the pointer still says `expected`; return the pointer.

    A pointer that names this version already stays as it is, so that pushing again changes nothing.

    Raises: UserError that says who moved the pointer meanwhile.
    """
    version = version_path(folder, digest)
    with _locked(folder):
        now = read_pointer(folder)
        if now is not None and now["digest"] == digest:
            return now
        if now != expected:
            raise UserError(
                f"{folder / POINTER} was moved while {version.name} was being pushed: "
                f"{_words(expected)} was expected, {_words(now)} won. "
                f"Nothing is lost, {version} stays: push again if it is to take the place"
            )
        pointer = {
            "version": version.name,
            "path": str(version.relative_to(folder)),
            "digest": digest,
            "previous": None if now is None else now["version"],
            "moved_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "moved_by": f"process {os.getpid()} on {socket.gethostname()}",
        }
        write_json_atomically(folder / POINTER, pointer)
        _flush(folder)
    return pointer


def _words(pointer: Pointer | None) -> str:
    if pointer is None:
        return "no version"
    return f"{pointer['version']} (moved at {pointer['moved_at']} by {pointer['moved_by']})"


def _check(version: Path, digest: str) -> None:
    try:
        pushed = open_artifact(version, KIND)
    except UserError as error:
        raise UserError(
            f"pushed version {version} is damaged: {error}. Serve another one, delete its directory, and push again"
        ) from None
    if pushed.key != digest:
        raise UserError(f"{version} holds the content {pushed.key}, not {digest}: delete it, and push again")


def _copy(model: Path, target: Path) -> None:
    files = sorted(file for file in model.rglob("*") if file.is_file())
    with progress(len(files), f"copy {model.name}", "files") as bar:
        for file in files:
            copy = target / file.relative_to(model)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)
            _flush(copy)
            bar.update()


def _flush(path: Path) -> None:
    """Flush a file or the entries of a directory to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process at a time; the system lets go of the lock when its holder dies."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
