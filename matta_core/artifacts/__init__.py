"""Artifacts: directories that are either whole, or refused."""

from matta_core.artifacts.artifact import (
    Artifact,
    file_digest,
    files_of,
    finish_artifact,
    flush_to_disk,
    is_finished,
    open_artifact,
    point_to,
    read_manifest,
    write_json_atomically,
)
from matta_core.artifacts.manifest import (
    IN_PROGRESS,
    LOCK,
    MANIFEST,
    REFERENCE,
    canonical_json,
    check_relative_name,
    digest_of,
    parse_manifest,
)

__all__ = [
    "IN_PROGRESS",
    "LOCK",
    "MANIFEST",
    "REFERENCE",
    "Artifact",
    "canonical_json",
    "check_relative_name",
    "digest_of",
    "file_digest",
    "files_of",
    "finish_artifact",
    "flush_to_disk",
    "is_finished",
    "open_artifact",
    "parse_manifest",
    "point_to",
    "read_manifest",
    "write_json_atomically",
]
