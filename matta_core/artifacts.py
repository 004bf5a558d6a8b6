"""Artifacts: directories that are either whole, or refused.

`manifest.json` is written last, through a rename. It holds the kind, the schema version, the size and sha256
of every file, and the digests of the artifacts that this one was made from. So a half-written artifact is
never read, lineage can be checked offline, and a cache key is a digest.
"""

import hashlib
import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matta_core.errors import UserError

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
REFERENCE = "stored_at.json"  # in the place of an artifact that lies elsewhere
# Work that a killed step can go on with. It is no part of the artifact, and removed when it is finished.
IN_PROGRESS = ".in_progress"


@dataclass(frozen=True)
class Artifact:
    """A finished artifact on disk.

    `digest` covers kind, schema version, key, files, inputs and metadata; `created_at` (UTC) and `seconds` are
    notes beside it, so that making the same thing twice gives the same digest.
    """

    path: Path
    kind: str
    key: str
    digest: str
    inputs: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0


def canonical_json(value: Any) -> str:
    """The one spelling of a JSON value that digests are taken of."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def digest_of(value: Any) -> str:
    """sha256, in hexadecimal, of a JSON value's canonical spelling."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def source_digest(*folders: Path) -> str:
    """sha256 over the Python sources and templates below the given folders: a step's key changes with its code."""
    files = sorted((str(file.relative_to(folder)), file) for folder in folders for file in folder.rglob("*"))
    return digest_of([[name, file_digest(file)] for name, file in files if file.suffix in (".py", ".jinja")])


def check_relative_name(name: str, where: str) -> None:
    """A file's name below an artifact's folder, as a manifest says it: plain, relative, `/` between its parts.

    Joined to a folder it stays below that folder, on any system. `where` says who holds the name.

    Raises: UserError that names both, for anything else than a text, an empty part, `.` and `..`, an absolute name
    (which begins with an empty part, or a drive and its colon), a backslash, and what cannot be printed on one line.
    """
    if (
        not isinstance(name, str)
        or not name.isprintable()
        or "\\" in name
        or any(part in ("", ".", "..") for part in name.split("/"))
        or re.match("[A-Za-z]:", name)
    ):
        told = repr(name)
        raise UserError(
            f"{where} names the file {told if len(told) <= 100 else told[:100] + '...'}, which is no plain relative "
            f"name: somebody altered it; make the artifact again"
        )


def write_json_atomically(path: Path, value: Any) -> None:
    """Write JSON beside `path`, flush it to disk, and rename it into place: readers see the old or the new."""
    temporary = path.with_name(f".{path.name}.tmp")  # one name: who tries again overwrites what a kill left
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(value, file, indent=2, allow_nan=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def flush_to_disk(path: Path) -> None:
    """A file's content, or the entries of a directory."""
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
    """Seal a directory: digest every file in it and write the manifest, last."""
    files = {
        str(file.relative_to(path)): {"bytes": file.stat().st_size, "sha256": file_digest(file)}
        for file in _files(path)
    }
    body = {
        "kind": kind,
        "schema_version": SCHEMA_VERSION,
        "key": key,
        "files": files,
        "inputs": dict(inputs or {}),
        "metadata": dict(metadata or {}),
    }
    notes = {
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
    """Read a manifest and check the directory against it: every file there, none more, each with its sha256.

    A directory that `point_to` made is followed to where the artifact lies.

    Raises: UserError that names the file, where the artifact is missing, unfinished, of another kind or schema
    version, altered, or no longer the one that was pointed to.
    """
    path = Path(path)
    if (reference := path / REFERENCE).is_file():
        there = json.loads(reference.read_text(encoding="utf-8"))
        artifact = open_artifact(there["path"], kind)
        if artifact.digest != there["digest"]:
            raise UserError(
                f"{reference} points to {artifact.path} with digest {there['digest']}, which now has "
                f"{artifact.digest}: run the step that made it again"
            )
        return artifact
    manifest = _read_manifest(path)
    if manifest.get("kind") != kind:
        raise UserError(f"{path} is a {manifest.get('kind')}, not a {kind}: give the path of a {kind}")
    if manifest.get("schema_version") != SCHEMA_VERSION:
        raise UserError(
            f"{path} has schema version {manifest.get('schema_version')}, this program reads {SCHEMA_VERSION}: "
            f"make it again with the step that made it"
        )
    again = f"delete {path} and run the step that made it again"
    notes = {name: manifest.pop(name, None) for name in ("digest", "created_at", "seconds")}
    if notes["digest"] != digest_of(manifest):
        raise UserError(f"{path / MANIFEST} was altered (its digest does not match): {again}")
    present = {str(file.relative_to(path)) for file in _files(path)}
    for name, expected in manifest["files"].items():
        file = path / name
        if name not in present:
            raise UserError(f"{file} is missing: {again}")
        size = file.stat().st_size
        if size != expected["bytes"]:
            raise UserError(f"{file} has {size} bytes, its manifest says {expected['bytes']}: {again}")
        if file_digest(file) != expected["sha256"]:
            raise UserError(f"{file} was altered (its sha256 does not match the manifest): {again}")
    if extra := sorted(present - manifest["files"].keys()):
        raise UserError(f"{path / extra[0]} is not in the manifest: remove it, or {again}")
    return Artifact(
        path,
        kind,
        manifest["key"],
        notes["digest"],
        manifest["inputs"],
        manifest["metadata"],
        notes["seconds"],
    )


def is_finished(path: Path) -> bool:
    """Whether a manifest is there. `open_artifact` says whether it is to be believed."""
    return (path / MANIFEST).is_file()


def _read_manifest(path: Path) -> dict[str, Any]:
    if not path.is_dir():
        raise UserError(f"there is no artifact at {path}: run the step that makes it, or correct the path")
    try:
        text = (path / MANIFEST).read_bytes()
    except FileNotFoundError:
        whole = path.absolute().parent
        remedy = f"give {whole}, whose part it is" if is_finished(whole) else "run the step that makes it to its end"
        raise UserError(f"{path / MANIFEST} is missing, so {path} is no finished artifact: {remedy}") from None
    try:
        manifest = json.loads(text)
    except ValueError as error:
        raise UserError(f"{path / MANIFEST} is not JSON ({error}): make the artifact again") from None
    if not isinstance(manifest, dict):
        raise UserError(f"{path / MANIFEST} does not hold a JSON object: make the artifact again")
    return manifest


def _files(path: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(path):
        folders[:] = sorted(name for name in folders if name != IN_PROGRESS)
        for name in sorted(names):
            file = Path(folder) / name
            if not (file.parent == path and (name == MANIFEST or name.startswith(f".{MANIFEST}"))):
                yield file
