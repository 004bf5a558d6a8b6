"""What is served now, by size: the version that the pointer below push.target names."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from components.common.served.versions import fetch, read_pointer, version_digest
from components.common.storage.open_storage import open_storage
from matta_core.errors import UserError


class Baseline(NamedTuple):
    """The pushed version that a size's student is compared with. `digest` is that of its files' content. `is_student`
    tells that it is the evaluated student itself."""

    size: str
    version: str
    digest: str
    is_student: bool = False

    @property
    def name(self) -> str:
        """The model's name in the evaluation."""
        return self.size if self.is_student else f"baseline-{self.size}"


def resolve(target: str | None, students: Mapping[str, str | None]) -> dict[str, Baseline | None]:
    """The baseline of every size; None where nothing is served, or no target is given. `students` has digests by size.

    If the student itself is served because it was pushed, it is compared with the version before it; so a repeated run
    finds its first evaluation. If a rollback put it there, it is its own baseline.

    Raises: UserError where a size's name is that of another one's baseline, or a pointer cannot be read.
    """
    for size in students:
        if f"baseline-{size}" in students:
            raise UserError(f"the size {f'baseline-{size}'!r} has the name of the baseline of {size!r}: rename it")
    if target is None:
        return dict.fromkeys(students)
    storage = open_storage(target)
    baselines: dict[str, Baseline | None] = {}
    for size, digest in students.items():
        pointer = read_pointer(storage, size)
        if pointer is not None and pointer.digest != digest:
            baselines[size] = Baseline(size, pointer.version, pointer.digest)
        elif pointer is not None and pointer.history[-1].why == "rollback":
            baselines[size] = Baseline(size, pointer.version, pointer.digest, is_student=True)
        elif pointer is not None and pointer.previous is not None:
            baselines[size] = Baseline(size, pointer.previous, version_digest(storage, size, pointer.previous))
        else:
            baselines[size] = None
    return baselines


def fetch_all(target: str | None, baselines: Mapping[str, Baseline | None], folder: Path) -> dict[str, Path]:
    """By size, a folder with the files of every baseline that is not the student itself. Files in an object store are
    downloaded below `folder`."""
    if target is None:
        return {}
    storage = open_storage(target)
    return {
        size: fetch(storage, size, baseline.version, folder)
        for size, baseline in baselines.items()
        if baseline is not None and not baseline.is_student
    }
