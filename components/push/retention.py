"""Which versions are kept, and how the others are deleted: safely beside pushes, rollbacks and other deletions.

Kept are the newest `keep` versions of the history, and always the current one, the one before it and the pinned ones.
Versions that no move ever named (a push that failed its validation or lost) go a day after their last file came.
Whatever is not named as a version, or as its reference, is other people's and left alone; so is a version in whose
folder somebody put a file, and a folder named as a version that neither a move nor a reference, a push's first file,
tells of.

The order of a deletion, in which a kill at any point does no harm:

1. Mark: the version joins the pointer's `retired`, by compare-and-swap. A version becomes current only by a
   compare-and-swap as well, from a pointer that does not have it in `retired`. So it is one or the other, never both.
2. List the version's files with their generations, and read the pointer once more: still retired?
3. Delete these generations, and no later ones: the manifest first, so that what is left is never taken for whole,
   then the model's files, then the recorded reference.
4. Unmark, by compare-and-swap.

A push of a version that is marked finishes its deletion and installs it anew; generations keep a slow deleter from
deleting the new files. (fake-gcs-server deletes any generation; the real service and local directories do not.)
A push that read the pointer before the mark fails its own compare-and-swap, and looks again at all it installed.
What no order of these steps rules out: a deleter that is stopped between 2 and 3 while one process finishes the same
deletion, another one uploads a file of the version in that moment, and a third pushes the version with that file.
"""

import dataclasses
import time

from components.common.served.pointer import Pointer, change_pointer, read_pointer
from components.common.served.versions import reference_name, stranger, version_name, versions_there
from components.common.step_runner import say
from components.common.storage.storage import Storage
from matta_core.artifacts import MANIFEST

_STRAY_AFTER_SECONDS = 24 * 3600


def retire(storage: Storage, size: str, keep: int) -> list[str]:
    """Delete what need not be kept, and finish deletions that were interrupted; return the versions deleted."""
    there = versions_there(storage, size)
    references = {entry.name for entry in storage.list(f"{size}/references")}
    begun = {version for version in there if reference_name(size, version) in references}

    def mark(pointer: Pointer) -> Pointer:
        doomed = {version for version in _expendable(pointer, there, begun, keep) if version not in pointer.retired}
        for version in sorted(doomed):
            if why := stranger(storage, size, version):
                say("push", f"{size}: {version} need not be kept, but is not deleted: {why}")
                doomed.remove(version)
        return dataclasses.replace(pointer, retired=tuple(sorted({*pointer.retired, *doomed})))

    pointer = change_pointer(storage, size, mark)
    for version in pointer.retired:
        finish_deletion(storage, size, version)
    return list(pointer.retired)


def finish_deletion(storage: Storage, size: str, version: str) -> None:
    """Do steps 2 to 4 for a marked version. A version that is not marked is left alone."""
    name = version_name(size, version)
    entries = storage.list(name)
    reference = reference_name(size, version)
    entries += [entry for entry in storage.list(f"{size}/references") if entry.name == reference]
    pointer = read_pointer(storage, size)
    if pointer is None or version not in pointer.retired:
        return
    order = {f"{name}/{MANIFEST}": 0, reference: 2}
    for entry in sorted(entries, key=lambda entry: order.get(entry.name, 1)):
        storage.delete(entry)

    def unmark(pointer: Pointer) -> Pointer:
        return dataclasses.replace(pointer, retired=tuple(one for one in pointer.retired if one != version))

    change_pointer(storage, size, unmark)


def _expendable(pointer: Pointer, there: dict[str, float], begun: set[str], keep: int) -> set[str]:
    """The versions of `there` (with the time of their last file) that need not be kept. `begun`: by a push."""
    newest_first = dict.fromkeys(move.version for move in reversed(pointer.history))
    newest = [version for version in newest_first if version in there][:keep]
    kept = {pointer.version, pointer.previous, *pointer.pinned, *newest}
    now = time.time()
    return {
        version
        for version, updated in there.items()
        if version not in kept
        and (version in newest_first or (version in begun and now - updated > _STRAY_AFTER_SECONDS))
    }
