"""What a manifest says, and what of it is believed: nothing is read or written here.

Whoever altered a manifest, a bucket's as well as a folder's, gets one line: no error of ours, and no name that leads
out of the artifact's folder.
"""

import hashlib
import json
import re
from typing import Any, TypedDict

from matta_core.artifacts.json_files import parse_json
from matta_core.errors import UserError

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
REFERENCE = "stored_at.json"  # in the place of an artifact that lies elsewhere
# Work that a killed step can go on with. It is no part of the artifact, and removed when it is finished.
IN_PROGRESS = ".in_progress"
# Held by the process that works in the directory, always empty; it stays, as deleting a lock's file would be a race.
LOCK = ".lock"
_RESERVED = (MANIFEST, REFERENCE, IN_PROGRESS, LOCK)


class FileEntry(TypedDict):
    """A file's size and sha256."""

    bytes: int
    sha256: str


class Manifest(TypedDict):
    """What manifest.json holds. `digest` covers all but itself and the notes `created_at` (UTC) and `seconds`."""

    kind: str
    schema_version: int
    key: str
    files: dict[str, FileEntry]
    inputs: dict[str, str]
    metadata: dict[str, Any]
    digest: str
    created_at: str
    seconds: float


def canonical_json(value: Any) -> str:
    """The one spelling of a JSON value that digests are taken of."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def digest_of(value: Any) -> str:
    """sha256, in hexadecimal, of a JSON value's canonical spelling."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def check_relative_name(name: str, where: str) -> None:
    """A file's name below an artifact's folder, as a manifest says it: plain, relative, `/` between its parts.

    Joined to a folder it stays below that folder, on any system. `where` says who holds the name.

    Raises: UserError that names both, for anything else than a text, an empty part, `.` and `..`, an absolute name
    (which begins with an empty part, or a drive and its colon), a backslash, what cannot be printed on one line, and
    what is longer than file systems and object stores take (255 bytes a part, 1,024 in all).
    """
    if (
        not isinstance(name, str)
        or not name.isprintable()
        or "\\" in name
        or any(part in ("", ".", "..") or len(part.encode()) > 255 for part in name.split("/"))
        or len(name.encode()) > 1024
        or re.match("[A-Za-z]:", name)
    ):
        raise UserError(
            f"{where} names the file {told(name)}, which is no plain relative name: somebody altered it; make the "
            f"artifact again"
        )


def parse_manifest(data: bytes, where: str) -> Manifest:
    """A manifest's values: each there and of its type, its names plain and relative, its digest that of the others.

    `where` says where the data lay. Whatever the data are, the answer is this or the error.

    Raises: UserError, one line that begins with `where`.
    """
    again = "make the artifact again"
    manifest = json_object(data, where)
    if (schema := manifest.get("schema_version")) != SCHEMA_VERSION or type(schema) is not int:
        raise UserError(
            f"{where} has schema version {told(schema)}, this program reads {SCHEMA_VERSION}: make it again with the "
            f"step that made it"
        )
    manifest = json_object(data, where, Manifest)
    for name, file in manifest["files"].items():
        check_relative_name(name, where)
        first, *rest = folders = name.split("/")
        if first in _RESERVED or any("/".join(folders[: 1 + place]) in manifest["files"] for place in range(len(rest))):
            raise UserError(f"{where} lists {name}, which no artifact can hold as a file: {again}")
        if file["bytes"] < 0 or not is_sha256(file["sha256"]):
            raise UserError(f"{where}: {name} must have its bytes and its sha256, got {told(file)}: {again}")
    body = {name: value for name, value in manifest.items() if name not in ("digest", "created_at", "seconds")}
    if manifest["digest"] != digest_of(body):
        raise UserError(f"{where} was altered (its digest does not match): {again}")
    return manifest


def json_object(data: bytes, where: str, shape: Any = dict[str, Any]) -> Any:
    """The JSON object that the data are, of a shape that `json_files` knows. Raises: UserError for anything else."""
    try:
        return parse_json(data, shape)
    except ValueError as error:
        raise UserError(f"{where} is not to be believed: {error}; make the artifact again") from None


def is_sha256(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def told(value: Any) -> str:
    """A value that somebody else wrote, short and on one line."""
    text = value if isinstance(value, str) and value.isprintable() and value else repr(value)
    return text if len(text) <= 100 else f"{text[:100]}..."
