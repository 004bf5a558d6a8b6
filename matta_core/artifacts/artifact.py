"""Artifacts: directories that are either whole, or refused.

`manifest.json` is written last, through a rename. It holds the kind, the schema version, the size and sha256 of every
file, and the digests of the artifacts that this one was made from. So a half-written artifact is never read, lineage
can be checked offline, and a cache key is a digest.
"""

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

from matta_core.artifacts.manifest import (
    IN_PROGRESS,
    LOCK,
    MANIFEST,
    REFERENCE,
    SCHEMA_VERSION,
    Manifest,
    digest_of,
    is_sha256,
    json_object,
    parse_manifest,
    told,
)
from matta_core.errors import UserError

_LARGEST_BYTES = 64 * 2**20  # of a manifest; enough for some 400,000 files


@final
@dataclass(frozen=True)
class Artifact:
    """A finished artifact on disk.

    `digest` covers kind, schema version, key, files, inputs and metadata. `created_at` (UTC) and `seconds` are notes
    beside it, so that making the same thing twice gives the same digest.
    """

    path: Path
    kind: str
    key: str
    digest: str
    inputs: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0


def file_digest(path: Path) -> str:
    """sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json_atomically(path: Path, value: Any) -> None:
    """Write JSON beside `path`, flush it to disk, and rename it into place. Readers see the old file or the new one."""
    temporary = path.with_name(f".{path.name}.tmp")  # always the same name: another try overwrites what a kill left
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(value, file, indent=2, allow_nan=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def flush_to_disk(path: Path) -> None:
    """Flush a file's content, or a directory's entries, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def finish_artifact(
    path: Path,
    kind: str,
    *,
    key: str,
    inputs: Mapping[str, str] | None = None,
    metadata: Mapping[str, Any] | None = None,
    seconds: float = 0.0,
) -> Artifact:
    """Seal a directory: digest every file in it, then write the manifest.

    Raises: UserError where it holds something that a manifest cannot cover: a link to a folder, a pipe.
    """
    (path / f".{MANIFEST}.tmp").unlink(missing_ok=True)  # left by a process that was killed while it sealed
    files = {name: {"bytes": file.stat().st_size, "sha256": file_digest(file)} for name, file in files_of(path).items()}
    body: dict[str, Any] = {
        "kind": kind,
        "schema_version": SCHEMA_VERSION,
        "key": key,
        "files": files,
        "inputs": dict(inputs or {}),
        "metadata": dict(metadata or {}),
    }
    notes: dict[str, Any] = {
        "digest": digest_of(body),
        "created_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "seconds": round(seconds, 3),
    }
    write_json_atomically(path / MANIFEST, body | notes)
    return Artifact(path, kind, key, notes["digest"], body["inputs"], body["metadata"], notes["seconds"])


def point_to(artifact: Artifact, path: Path) -> None:
    """Make `path` a directory that stands for an artifact elsewhere: `open_artifact` follows it."""
    path.mkdir(parents=True, exist_ok=True)
    write_json_atomically(path / REFERENCE, {"path": str(artifact.path.resolve()), "digest": artifact.digest})


def open_artifact(path: str | Path, kind: str) -> Artifact:
    """Read a manifest and check the directory against it: it must have these files, no others, each with its sha256.

    Beside them, only a process that makes the artifact anew may keep its work in progress and its empty lock. If
    `point_to` made the directory, the artifact to which it points is opened.

    Raises: UserError that names the file, where the artifact is missing, unfinished, of another kind or schema version,
    altered, or no longer the one to which the directory points.
    """
    path = Path(path)
    with _reading_explained(path):
        if (path / REFERENCE).is_file() and not is_finished(path):
            return _follow(path / REFERENCE, kind)
        return _open(path, kind)


def _open(path: Path, kind: str) -> Artifact:
    manifest = read_manifest(path)
    if manifest["kind"] != kind:
        raise UserError(f"{path} is a {told(manifest['kind'])}, not a {kind}: give the path of a {kind}")
    again = f"delete {path} and run the step that made it again"
    present = files_of(path)
    for name, expected in manifest["files"].items():
        file = path / name
        if name not in present:
            raise UserError(f"{file} is missing: {again}")
        size = file.stat().st_size
        if size != expected["bytes"]:
            raise UserError(f"{file} has {size} bytes, its manifest says {expected['bytes']}: {again}")
        if file_digest(file) != expected["sha256"]:
            raise UserError(f"{file} was altered (its sha256 does not match the manifest): {again}")
    if extra := sorted(present.keys() - manifest["files"].keys()):
        raise UserError(f"{path / extra[0]} is not in the manifest: remove it, or {again}")
    return Artifact(
        path,
        kind,
        manifest["key"],
        manifest["digest"],
        manifest["inputs"],
        manifest["metadata"],
        manifest["seconds"],
    )


def _follow(reference: Path, kind: str) -> Artifact:
    """The artifact to which a reference points. It must not be a reference itself."""
    remedy = "run the step that made it again"
    there = json_object(_bounded(reference), str(reference))
    if not is_sha256(there.get("digest")):
        raise UserError(f"{reference}: digest must be a sha256, got {told(there.get('digest'))}: {remedy}")
    place = there.get("path")
    if not isinstance(place, str) or not place.isprintable() or not Path(place).is_absolute():
        raise UserError(f"{reference}: path must be an absolute path, got {told(place)}: {remedy}")
    artifact = _open(Path(place), kind)
    if artifact.digest != there["digest"]:
        raise UserError(
            f"{reference} points to {artifact.path} with digest {there['digest']}, which now has "
            f"{artifact.digest}: {remedy}"
        )
    return artifact


def is_finished(path: Path) -> bool:
    """Whether there is a manifest. `open_artifact` tells whether it can be trusted."""
    return (path / MANIFEST).is_file()


def read_manifest(path: Path) -> Manifest:
    """The manifest of a directory, by `parse_manifest`. The files are not checked.

    Raises: UserError where it is missing or cannot be trusted.
    """
    file = path / MANIFEST
    with _reading_explained(file):
        if not path.is_dir():
            raise UserError(f"there is no artifact at {path}: run the step that makes it, or correct the path")
        if not file.exists():
            whole = path.absolute().parent
            part = is_finished(whole)
            remedy = f"give {whole}, whose part it is" if part else "run the step that makes it to its end"
            raise UserError(f"{file} is missing, so {path} is no finished artifact: {remedy}")
        return parse_manifest(_bounded(file), str(file))


def files_of(path: Path) -> dict[str, Path]:
    """The files of an artifact's directory by their names in a manifest, sorted, without the reserved names at its top.

    Raises: UserError for something that a manifest cannot cover: a link to a folder, a pipe, a link to nothing.
    """
    files = {}

    def unreadable(error: OSError) -> None:
        raise error

    for folder, folders, names in os.walk(path, onerror=unreadable):
        top = Path(folder) == path
        for name in folders:
            if (Path(folder) / name).is_symlink():
                raise UserError(
                    f"{Path(folder) / name} is a link to a folder, which no manifest covers: put the folder there"
                )
        folders[:] = sorted(name for name in folders if not (top and name == IN_PROGRESS))
        for name in sorted(names):
            file = Path(folder) / name
            if not file.is_file():
                raise UserError(f"{file} is neither a file nor a folder: remove it")
            if not (top and (name == MANIFEST or (name == LOCK and file.stat().st_size == 0))):
                files[file.relative_to(path).as_posix()] = file
    return files


def _bounded(file: Path) -> bytes:
    with file.open("rb") as opened:
        data = opened.read(_LARGEST_BYTES + 1)
    if len(data) > _LARGEST_BYTES:
        raise UserError(f"{file} has more than {_LARGEST_BYTES:,} bytes, which we never wrote: make the artifact again")
    return data


@contextlib.contextmanager
def _reading_explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot read {error.filename or path}: {error.strerror}. Correct the path, or its rights"
        ) from error
