"""An operator's commands on pushed versions: history, roll back, pin, unpin. Each needs only a target."""

import dataclasses
from collections.abc import Iterator
from functools import partial

from components.common.served.pointer import HISTORY_LENGTH, POINTER, Pointer, change_pointer, read_pointer, withdrawal
from components.common.served.versions import version_digest, versions_there
from components.common.step_runner import say
from components.common.storage.open_storage import open_storage
from components.common.storage.storage import Storage
from components.push.release import roll_back
from components.push.validation import Queries, validate
from matta_core.errors import UserError
from matta_core.recipe import PushConfig


def history(config: PushConfig, size: str) -> Iterator[str]:
    """Lines for a person: every move of the size's pointer, oldest first, and whether its version is still there.

    Raises: UserError where nothing of the size was pushed.
    """
    storage = open_storage(config.target)
    pointer = _pointer(storage, size)
    there = versions_there(storage, size)
    yield f"{size} under {storage.url}, oldest first (the last {HISTORY_LENGTH} moves are kept):"
    for number, move in enumerate(pointer.history, start=1):
        marks = ["current"] if number == len(pointer.history) else []
        marks += ["withdrawn"] if withdrawal(pointer, move.version) else []
        marks += ["pinned"] if move.version in pointer.pinned else []
        marks += [] if move.version in there and move.version not in pointer.retired else ["deleted"]
        decision = f", decision {move.decision[:16]}" if move.decision else ""
        told = f"  {move.moved_at}  {move.version}  {move.why} by {move.moved_by}{decision}"
        yield told + (f"  [{', '.join(marks)}]" if marks else "")
    served = {move.version for move in pointer.history}
    for one in pointer.withdrawn.now:
        if one.version not in served and withdrawal(pointer, one.version):
            yield f"  withdrawn before this history: {one.version} (rolled back at {one.moved_at} by {one.moved_by})"
    if never := sorted(set(there) - served - set(pointer.retired)):
        yield f"  there, but served at no time in this history: {', '.join(never)}"


def rollback(config: PushConfig, size: str, to: str | None = None) -> Pointer:
    """Make the version before the current one, or the version `to`, current again. It is first tried out like a push.

    Where a rollback moved away from the version before, `to` must name the version.

    Raises: UserError as `release.roll_back` and `validation.validate`; the pointer then stays as it was.
    """
    storage = open_storage(config.target)
    before = _pointer(storage, size)
    with Queries() as queries:
        pointer = roll_back(storage, size, to, try_out=partial(validate, queries, config, storage, size))
    if pointer.history[-1].id == before.history[-1].id:
        say("push", f"{size}: {pointer.version} was current already")
    else:
        told = f"{size}: {pointer.version} is current (before: {pointer.previous})"
        withdrawn = withdrawal(pointer, before.version) is not None
        say("push", f"{told}; {before.version} is withdrawn: no run pushes it again" if withdrawn else told)
    return pointer


def pin(config: PushConfig, size: str, version: str) -> Pointer:
    """Keep a version from being deleted, until it is unpinned. What is served stays as it is.

    Raises: UserError where there is no such version, or it is being deleted.
    """
    storage = open_storage(config.target)

    def change(pointer: Pointer) -> Pointer:
        if version in pointer.retired:
            raise UserError(f"{version} of size {size!r} is being deleted: it cannot be pinned any more")
        version_digest(storage, size, version)  # it must exist; read after the pointer, no deletion goes unseen
        return dataclasses.replace(pointer, pinned=tuple(sorted({*pointer.pinned, version})))

    pointer = change_pointer(storage, size, change)
    say("push", f"{size}: {version} is pinned: it is not deleted")
    return pointer


def unpin(config: PushConfig, size: str, version: str) -> Pointer:
    """Let a pinned version be deleted when its time comes. Raises: UserError where it is not pinned."""
    storage = open_storage(config.target)

    def change(pointer: Pointer) -> Pointer:
        if version not in pointer.pinned:
            pinned = ", ".join(pointer.pinned) or "none"
            raise UserError(f"{version} of size {size!r} is not pinned; pinned are: {pinned}")
        return dataclasses.replace(pointer, pinned=tuple(one for one in pointer.pinned if one != version))

    pointer = change_pointer(storage, size, change)
    say("push", f"{size}: {version} is not pinned any more")
    return pointer


def _pointer(storage: Storage, size: str) -> Pointer:
    pointer = read_pointer(storage, size)
    if pointer is None:
        sizes = [folder for folder in storage.folders() if storage.read(f"{folder}/{POINTER}") is not None]
        there = f"sizes there: {', '.join(sizes)}" if sizes else "no pointer of any size is there: is the path right?"
        raise UserError(f"nothing of size {size!r} was pushed to {storage.url} yet; {there}")
    return pointer
