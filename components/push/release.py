"""The two ways in which a pointer moves: to a version that is pushed, and back to one that was served before."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from components.common.served.moves import PUSH, ROLLBACK
from components.common.served.pointer import (
    POINTER,
    Pointer,
    describe,
    move_pointer,
    read_pointer,
    same_move,
    withdrawal,
)
from components.common.served.versions import content_digest, install, version_digest, version_name
from components.common.storage.storage import ConflictError, Storage
from components.push.retention import finish_deletion
from matta_core.errors import UserError


def push_version(
    storage: Storage,
    size: str,
    model: Path,
    reference: Path,
    *,
    may_replace: Callable[[Pointer | None], None],
    try_out: Callable[[str], None],
    inputs: Mapping[str, str],
    metadata: Mapping[str, Any],
    decision: str | None,
) -> Pointer:
    """Install a model's version, try it out, make it current; return the pointer that names it.

    `may_replace(pointer)` raises UserError where what is served must not be replaced by this model. It is asked of the
    very pointer that the move then compares with.

    A version that is current already, and whole, is left as it is: pushing again changes nothing. The pointer is read
    before anything is installed and moved only if it is still the same, to the letter, so nothing that happened to
    the version in between (see `retention`) goes unseen.

    Raises: UserError that says who moved the pointer meanwhile, or what `may_replace`, `try_out(version)` or the
    storage raised.
    """
    digest = content_digest(model)
    version = digest[:16]
    before = read_pointer(storage, size)
    tried = False
    while True:
        if before is not None and version in before.retired:
            finish_deletion(storage, size, version)
            before = read_pointer(storage, size)
            continue
        current = before is not None and before.digest == digest
        installed = install(storage, size, model, digest, reference=reference, inputs=inputs, metadata=metadata)
        if not current:
            may_replace(before)  # after installing: a refused version can still be chosen by a rollback
        if installed or not (tried or current):
            try_out(version)
            tried = True
        if before is not None and current:
            return before
        try:
            return move_pointer(storage, size, before, digest, why=PUSH, decision=decision)
        except ConflictError:
            now = read_pointer(storage, size)
            if not same_move(before, now) and (now is None or now.digest != digest):
                raise UserError(
                    f"{storage.location(f'{size}/{POINTER}')} was moved while {version} was being pushed: "
                    f"{describe(before)} was expected, {describe(now)} won. Nothing is lost, "
                    f"{storage.location(version_name(size, version))} stays: push again if it is to take the place"
                ) from None
            before = now


def roll_back(storage: Storage, size: str, to: str | None, *, try_out: Callable[[str], None]) -> Pointer:
    """Make a version current again that lies in the storage: `to`, or the one before the current.

    A rollback is a move like any other: the version that it replaces becomes the previous one. A second one without
    `to` would serve again what the first took away, so it is refused: two people who come to the rescue at once, or
    one who tries again, do no harm. `to` undoes a rollback, and can be repeated.

    Raises: UserError where there is no such version, the one before was itself rolled back, it does not pass
    `try_out(version)`, or another process moved the pointer meanwhile.
    """
    before = read_pointer(storage, size)
    while True:
        if before is None:
            raise UserError(f"nothing of size {size!r} was pushed to {storage.url} yet: there is nothing to roll back")
        version = before.previous if to is None else to
        if version is None:
            raise UserError(f"{before.version} is the first version of size {size!r}: there is none before it")
        if version == before.version:
            return before
        if to is None and (move := withdrawal(before, version)):
            raise UserError(
                f"{before.version} is served, and the one before it, {version}, was rolled back at {move.moved_at} by "
                f"{move.moved_by}: nothing was moved. To serve it again, or another one: --rollback {size} --to "
                f"VERSION (see --history {size})"
            )
        if version in before.retired:
            raise UserError(f"{version} of size {size!r} is being deleted: roll back to another one, or push it again")
        digest = version_digest(storage, size, version)
        try_out(version)
        try:
            return move_pointer(storage, size, before, digest, why=ROLLBACK)
        except ConflictError:
            now = read_pointer(storage, size)
            if not same_move(before, now):
                raise UserError(
                    f"{storage.location(f'{size}/{POINTER}')} was moved during the rollback: {describe(before)} was "
                    f"expected, {describe(now)} won. Look at --history {size}, and decide again"
                ) from None
            before = now
