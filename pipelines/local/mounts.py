"""Which of this machine's paths the containers of a run see. Each keeps its name.

Steps therefore read a recipe's paths as they are written, and the digests of its settings are the same with and without
containers. Every string of a recipe that is a path here is mounted, so that a new setting needs no entry.
"""

import glob
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docker.types import Mount

from components.common.disk import make_directory
from matta_core.errors import UserError
from matta_core.recipe import Recipe

IMAGE_ROOT = "/opt/matta"
# A mount at one of these would hide what the container itself runs from. Folders below some of them may be mounted.
_HIDES_THE_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc", "/tmp", "/var", IMAGE_ROOT)
_CLOSED = ("/proc", "/sys", "/dev", IMAGE_ROOT)
_MOST_FILES_LOOKED_AT = 100_000
_LONGEST_PATH = 4096


class Mounts:
    """Paths by name, each read-only or not. A path below one that is mounted already is not added."""

    def __init__(self) -> None:
        self._paths: dict[str, bool] = {}  # path -> whether it is read-only

    def add(self, path: str | Path, *, read_only: bool, why: str) -> None:
        """Mount the path, and the folders to which links in a read-only folder lead, as in the Hugging Face cache.

        Raises: UserError that names `why`, where the path would hide the container's own system.
        """
        name = os.path.abspath(path)  # noqa: PTH100 - a link keeps its name: the step will use it
        above = any(system == name or Path(system).is_relative_to(name) for system in _HIDES_THE_SYSTEM)
        if above or any(Path(name).is_relative_to(closed) for closed in _CLOSED):
            raise UserError(
                f"{why}: {name} cannot be mounted in a container without hiding the container's own files; "
                f"move it to a folder of its own"
            )
        if self._covers(name, read_only):
            return
        self._paths[name] = read_only
        if read_only and Path(name).is_dir():
            for folder in _led_to(name):
                self.add(folder, read_only=True, why=f"{why}: a link in {name} leads to {folder}")

    def as_docker_mounts(self) -> list[Mount]:
        """The mounts for docker, which needs parents before children."""
        return [
            Mount(target=name, source=os.path.realpath(name), type="bind", read_only=read_only)
            for name, read_only in sorted(self._paths.items(), key=lambda item: (item[0].count("/"), item[0]))
        ]

    def _covers(self, name: str, read_only: bool) -> bool:
        """Whether the nearest mount at or above the path allows as much. Links are not followed."""
        for parent in (name, *map(str, Path(name).parents)):
            if parent in self._paths:
                return read_only or not self._paths[parent]
        return False

    def holds(self, name: str) -> bool:
        """Whether a container sees this path, itself or below a mount."""
        return any(parent in self._paths for parent in (name, *map(str, Path(name).parents)))


def mounts_of(recipe: Recipe, output: Path) -> Mounts:
    """The mounts of a run. It writes to its output, push's target and the hub's cache, and reads all else that the
    recipe names.

    Raises: UserError where one of them cannot be mounted.
    """
    mounts = Mounts()
    for name in {os.path.abspath(output), os.path.realpath(output)}:  # noqa: PTH100
        mounts.add(name, read_only=False, why=f"--output {output}")
    if "://" not in recipe.push.target:
        make_directory(Path(recipe.push.target))
        mounts.add(recipe.push.target, read_only=False, why=f"push.target = {recipe.push.target!r}")
    for setting, path in local_paths(recipe.to_dict()):
        mounts.add(path, read_only=True, why=setting)
    return mounts


def local_paths(value: Any, setting: str = "") -> Iterator[tuple[str, str]]:
    """(setting, path) for every string that is a path on this machine; a glob's path is the folder where it begins."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from local_paths(item, f"{setting}.{key}" if setting else key)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from local_paths(item, setting)
    elif isinstance(value, str) and value and "://" not in value and "\0" not in value and len(value) < _LONGEST_PATH:
        path = _fixed_part(value) if glob.has_magic(value) else value
        # A word such as gpt2 may be a hub name or a folder: it counts as a folder where one exists.
        if os.path.lexists(path):
            yield f"{setting} = {value!r}", path


def _fixed_part(pattern: str) -> str:
    """The folder in which a glob begins to match."""
    parts = Path(pattern).parts
    fixed = next(number for number, part in enumerate(parts) if glob.has_magic(part))
    return str(Path(*parts[:fixed]))


def _led_to(folder: str) -> set[str]:
    """The folders outside of `folder` to which links in it lead."""
    outside = set()
    seen = 0
    for place, folders, files in os.walk(folder):
        seen += len(files)
        if seen > _MOST_FILES_LOOKED_AT:
            break  # a folder with so many files is data, not a cache of links
        for entry in (*folders, *files):
            path = os.path.join(place, entry)  # noqa: PTH118 - fast, for folders of many files
            if os.path.islink(path):  # noqa: PTH114
                target = os.path.normpath(os.path.join(place, os.readlink(path)))  # noqa: PTH115, PTH118
                if not Path(target).is_relative_to(folder) and os.path.exists(target):  # noqa: PTH110
                    outside.add(target if os.path.isdir(target) else os.path.dirname(target))  # noqa: PTH112, PTH120
    return outside
