"""One pointer per size, `<target>/<size>/current.json`: what is served, and the history of how it came to be.

It only ever changes by compare-and-swap. It holds all that must change together: the current version, the one before,
the pinned ones, those being deleted, and every move. So two processes in a race can neither lose an entry nor disagree.
A pointer is a file and no symbolic link, so that it can lie in an object store.
"""

import dataclasses
import getpass
import json
import os
import random
import socket
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, final

from components.common.served.moves import Move, Withdrawal, Withdrawn, is_version, replay
from components.common.storage.storage import ConflictError, Storage
from matta_core.artifacts.json_files import parse_json
from matta_core.errors import UserError

POINTER = "current.json"
# Moves kept in the pointer; older ones are dropped. 1,000 are about 350 kB, read at every push.
HISTORY_LENGTH = 1000
_ATTEMPTS = 100


# Stands for the withdrawals that an older program's file does not have; its moves are replayed instead.
_NOT_KEPT = Withdrawn()


@final
@dataclass(frozen=True)
class Pointer:
    """What is served of a size.

    `digest` is the content digest of the version's files, `version` its first 16 digits, `previous` what the pointer
    named before (None: nothing), `path` the version's folder relative to <target>/<size>. `pinned` versions are never
    deleted; `retired` ones are being deleted and may be half gone. `history` holds the last HISTORY_LENGTH moves,
    oldest first; `withdrawn` holds what these and all earlier moves withdrew. `generation` is that of the file from
    which the pointer was read.
    """

    size: str
    version: str
    path: str
    digest: str
    previous: str | None
    moved_at: str
    moved_by: str
    pinned: tuple[str, ...]
    retired: tuple[str, ...]
    history: tuple[Move, ...]
    withdrawn: Withdrawn = _NOT_KEPT
    generation: str = ""

    def __post_init__(self) -> None:
        if self.withdrawn is _NOT_KEPT:
            object.__setattr__(self, "withdrawn", replay(self.history))


def read_pointer(storage: Storage, size: str) -> Pointer | None:
    """A size's pointer; None where nothing was pushed yet. Raises: UserError if it is unreadable."""
    found = storage.read(f"{size}/{POINTER}")
    if found is None:
        return None
    data, generation = found
    try:
        pointer = parse_json(data, Pointer)
        _check(pointer, size)
    except ValueError as error:
        raise UserError(
            f"{storage.location(f'{size}/{POINTER}')} is no pointer ({error}): put back an older state of the file, or "
            f"delete it, which forgets what was withdrawn, and push again"
        ) from None
    return dataclasses.replace(pointer, generation=generation)


def move_pointer(
    storage: Storage,
    size: str,
    before: Pointer | None,
    digest: str,
    *,
    why: Literal["push", "rollback"],
    decision: str | None = None,
) -> Pointer:
    """Compare and swap: point to the version with content `digest` if the pointer is still exactly `before`.

    Raises: ConflictError where it is not.
    """
    version = digest[:16]
    assert before is None or version not in before.retired, f"{version} is being deleted"
    move = Move(
        uuid.uuid4().hex, version, digest, why, time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), who(), decision
    )
    history = () if before is None else before.history
    withdrawn = Withdrawn() if before is None else before.withdrawn
    pointer = Pointer(
        size=size,
        version=version,
        path=f"versions/{version}",
        digest=digest,
        previous=None if before is None else before.version,
        moved_at=move.moved_at,
        moved_by=move.moved_by,
        pinned=() if before is None else before.pinned,
        retired=() if before is None else before.retired,
        history=(*history, move)[-HISTORY_LENGTH:],
        withdrawn=withdrawn.after(move, history[-1] if history else None, before and before.previous),
    )
    return _swap(storage, pointer, None if before is None else before.generation)


def change_pointer(storage: Storage, size: str, change: Callable[[Pointer], Pointer]) -> Pointer:
    """Apply `change` to the pointer, anew where another process was faster. The change must not alter what is served.

    Raises: UserError where nothing was pushed yet, or others were faster a hundred times.
    """
    for attempt in range(_ATTEMPTS):
        before = read_pointer(storage, size)
        if before is None:
            raise UserError(f"nothing of size {size!r} was pushed to {storage.url} yet")
        after = change(before)
        assert after.history == before.history, "this is what move_pointer is for"
        if after == before:
            return before
        try:
            return _swap(storage, after, before.generation)
        except ConflictError:
            time.sleep(random.uniform(0, 0.01 * (attempt + 1)))
    raise UserError(f"{storage.location(f'{size}/{POINTER}')} changed {_ATTEMPTS} times meanwhile: try again later")


def same_move(one: Pointer | None, other: Pointer | None) -> bool:
    """Whether two readings have the same last move. Only pins and deletions may then lie between them."""
    return (one and one.history[-1].id) == (other and other.history[-1].id)


def withdrawal(pointer: Pointer | None, version: str) -> Withdrawal | None:
    """The rollback by which a person took a version out of service; None if the version is or may be served."""
    if pointer is None or pointer.version == version:
        return None
    return next((one for one in pointer.withdrawn.now if one.version == version), None)


def describe(pointer: Pointer | None) -> str:
    """The pointer for a message: version, time and who moved it."""
    if pointer is None:
        return "no version"
    return f"{pointer.version} (moved at {pointer.moved_at} by {pointer.moved_by})"


def _check(pointer: Pointer, size: str) -> None:
    """Check a pointer. Raises: ValueError where its parts contradict one another, or do not name versions."""
    versions: list[str | None] = [pointer.version, pointer.previous, *pointer.pinned, *pointer.retired]
    versions += [move.version for move in pointer.history]
    versions += [one.version for one in (*pointer.withdrawn.now, *pointer.withdrawn.before)]
    if wrong := [version for version in versions if version is not None and not is_version(version)]:
        raise ValueError(f"a version is named by 16 hexadecimal digits, got {wrong[0][:60]!r}")
    if not pointer.history:
        raise ValueError("its history is empty")
    last = pointer.history[-1]
    if (pointer.size, pointer.version, pointer.digest) != (size, last.version, last.digest):
        raise ValueError(
            f"it says {pointer.version} of {pointer.size!r}, its last move {last.version}, its folder {size!r}"
        )
    if pointer.path != f"versions/{pointer.version}" or not pointer.digest.startswith(pointer.version):
        raise ValueError(f"path and digest are not those of {pointer.version}")


def _swap(storage: Storage, pointer: Pointer, generation: str | None) -> Pointer:
    values: dict[str, Any] = dataclasses.asdict(pointer)
    del values["generation"]
    data = json.dumps(values, indent=1, allow_nan=False).encode() + b"\n"
    written = storage.write(f"{pointer.size}/{POINTER}", data, expected=generation)
    return dataclasses.replace(pointer, generation=written)


def who() -> str:
    """The user, machine and process of this program, for a message."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = f"user {os.getuid()}"
    return f"{user} on {socket.gethostname()}, process {os.getpid()}"
