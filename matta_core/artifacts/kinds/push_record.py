"""A PushRecord: push.json, and per pushed student serving/<size>.yaml and cards/<size>.md."""

from pathlib import Path
from typing import TypedDict

from matta_core.artifacts.json_files import read_json

PUSH = "push.json"


class Pushed(TypedDict):
    """What push did with a student. If it was not pushed, all but the first two, `before` and `after` are None."""

    pushed: bool
    why: str
    version: str | None
    path: str | None
    digest: str | None
    before: str | None
    after: str | None
    manifest_path: str | None
    model_card: str | None
    registered: str | None
    registry_error: str | None


class PushRecord(TypedDict):
    """What was pushed where."""

    target: str
    students: dict[str, Pushed]


def read_push_record(artifact: Path) -> PushRecord:
    """Read a record. Raises: UserError where it is none."""
    return read_json(artifact / PUSH, PushRecord, remedy="push again")
