"""Which files of ours a piece of work is made of, so that its key changes with them and with no others.

From the work's module on, Python's `import` statements are followed wherever they stand. So are modules that a string
names (`python -m components.evaluate.memory`), and files beside a module that a string names (`query.py`, a template).
Nothing is imported for it.
"""

import ast
import re
from collections.abc import Collection, Iterator
from functools import cache
from pathlib import Path

from matta_core.artifacts import digest_of, file_digest

_ROOT = Path(__file__).resolve().parents[2]  # of a checkout, an installation or an image
_PACKAGES = ("matta_core", "components", "pipelines")
_NAME = re.compile(r"[\w-]{1,60}(\.\w{1,60}){1,9}")  # a module's or a file's


def source_digest(*folders: Path) -> str:
    """sha256 over all Python sources and templates below the given folders."""
    files = sorted((str(file.relative_to(folder)), file) for folder in folders for file in folder.rglob("*"))
    return digest_of([[name, file_digest(file)] for name, file in files if file.suffix in (".py", ".jinja")])


@cache
def closure_digest(module: Path) -> str:
    """sha256 over the names and contents of a module's file and of the files that `closure` gives for it."""
    files = {str(file.relative_to(_ROOT)): file_digest(file) for file in closure(module)}
    return digest_of({"module": file_digest(module), "uses": files})


def closure(module: Path, root: Path = _ROOT, packages: Collection[str] = _PACKAGES) -> list[Path]:
    """The files below `root` that a module's file uses, sorted. The file itself is among them if it lies there.

    A module's packages count with their `__init__.py`. Only modules of the top-level `packages` count. Names that are
    put together while the program runs are not found.
    """
    found: set[Path] = set()
    module, root = module.resolve(), root.resolve()
    packages_around = (folder / "__init__.py" for folder in module.parents if folder.is_relative_to(root))
    waiting = [module, *(file for file in packages_around if file.is_file())]
    while waiting:
        file = waiting.pop()
        if file in found:
            continue
        found.add(file)
        if file.suffix == ".py":
            waiting += _used_by(file, root, packages)
    return sorted(file for file in found if file.is_relative_to(root))


def _used_by(file: Path, root: Path, packages: Collection[str]) -> Iterator[Path]:
    """The files that one module's source names."""
    for level, module, names in _named(file.read_bytes()):
        if level:
            folder = file.parents[level - 1]
            if not folder.is_relative_to(root):
                continue
            module = ".".join([*folder.relative_to(root).parts, *([module] if module else [])])
        elif not names:
            yield from _beside(file, module)
        # A name that is imported from a package may be a module of it, or stand in its __init__.py.
        for name in (module, *(f"{module}.{name}" for name in names)):
            if name.split(".")[0] in packages:
                yield from _files_of(name, root)


@cache
def _named(source: bytes) -> list[tuple[int, str, tuple[str, ...]]]:
    """The modules that a source names: (leading dots, module, names imported from it). A string counts as a module."""
    found: list[tuple[int, str, tuple[str, ...]]] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [(0, alias.name, ()) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append((node.level, node.module or "", tuple(alias.name for alias in node.names)))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and _NAME.fullmatch(node.value):
            found.append((0, node.value, ()))
    return found


def _files_of(name: str, root: Path) -> Iterator[Path]:
    """A module's file and its packages' `__init__.py`; nothing where there is no such module."""
    place = root
    for part in name.split("."):
        place /= part
        file = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
        if file.is_file():
            yield file


def _beside(file: Path, text: str) -> Iterator[Path]:
    """The file beside a module that a string names. For a template, all templates there: they include one another."""
    if (file.parent / text).is_file():
        yield from file.parent.glob("*.jinja") if text.endswith(".jinja") else [file.parent / text]
