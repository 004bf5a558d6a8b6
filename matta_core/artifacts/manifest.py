"""The content of a manifest, and its checks. Nothing is read or written here.

A manifest may have been altered, in a bucket or in a folder. Then the error is one line and no crash, and no name leads
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
REFERENCE = "stored_at.json"  # it stands in the place of an artifact that lies elsewhere
# The work that a killed step can resume. It is no part of the artifact, and is removed at the end.
IN_PROGRESS = ".in_progress"
# The lock of the process that works in the directory. It is empty, and it stays: deleting it would be a race.
LOCK = ".lock"
_RESERVED = (MANIFEST, REFERENCE, IN_PROGRESS, LOCK)


class FileEntry(TypedDict):
    """A file's size and sha256."""

    bytes: int
    sha256: str


class Manifest(TypedDict):
    """The content of manifest.json. `digest` covers all but itself and the notes `created_at` (UTC) and `seconds`."""

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
    """The one spelling of a JSON value from which digests are made."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def digest_of(value: Any) -> str:
    """sha256, in hexadecimal, of a JSON value's canonical spelling."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def check_relative_name(name: str, where: str) -> None:
    """Check a file's name in a manifest: it must be plain and relative, with `/` between its parts.

    Joined to a folder, such a name stays below that folder on any system. `where` says where the name stands.

    Raises: UserError with the name and `where`, for anything but a text, for an empty part, `.` and `..`, an absolute
    name (it begins with an empty part, or a drive and its colon), a backslash, characters that cannot be printed on one
    line, and a name that is too long for file systems and object stores (255 bytes per part, 1,024 in all).
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
    """The values of a manifest. All must be present and of their types, the names plain and relative, the digest right.

    `where` says where the data came from. For any data, the result is these values or the error.

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
    """The JSON object in the data, of a shape that `json_files` knows. Raises: UserError for anything else."""
    try:
        return parse_json(data, shape)
    except ValueError as error:
        raise UserError(f"{where} is not to be believed: {error}; make the artifact again") from None


def is_sha256(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def told(value: Any) -> str:
    """A foreign value for a message, short and on one line."""
    text = value if isinstance(value, str) and value.isprintable() and value else repr(value)
    return text if len(text) <= 100 else f"{text[:100]}..."
