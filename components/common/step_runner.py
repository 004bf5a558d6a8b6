"""What all steps share: their key, reuse of finished work, and how they report a mistake.

A step's key is the digest of its settings, its input artifacts and its code. If its output directory holds a finished
artifact with the same key, the step has nothing to do. If it was killed, it finds its own unfinished work there and
goes on with it.
"""

import atexit
import contextlib
import dataclasses
import gc
import inspect
import logging
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from components.common.disk import disk_errors_explained, make_directory
from components.common.locks import locked
from components.common.source import closure_digest
from matta_core.artifacts import (
    IN_PROGRESS,
    LOCK,
    MANIFEST,
    Artifact,
    digest_of,
    file_digest,
    finish_artifact,
    is_finished,
    open_artifact,
    read_manifest,
    write_json_atomically,
)
from matta_core.errors import ToldToEndError, TrainingDivergedError, UserError
from matta_core.recipe.settings import Section

# Torch and transformers make a million objects. At its end, a process would spend a second to look for cycles among
# them, although the system takes all memory back at once.
atexit.register(gc.freeze)


Work = Callable[[Path], Mapping[str, Any] | None]


class Made(Protocol):
    """An input of a step, known by its digest."""

    @property
    def digest(self) -> str: ...


def run_step(
    step: str,
    kind: str,
    output: str | Path,
    config: Section,
    inputs: Mapping[str, Made],
    work: Work,
    *,
    extra_key: Any = None,
    reuse: bool = True,
) -> Artifact:
    """Run `work(directory)` unless its result is already there. Seal the directory and return the artifact.

    `output` may hold `{key}`, which becomes the first 16 digits of the step's key, so that every piece of work has a
    directory of its own. `work` writes the artifact's files and returns its metadata; files that it only needs to
    resume go below `IN_PROGRESS`. With `reuse=False` the work runs every time, because no digest knows what it does
    outside of its directory (a push). The same outcome gives the same artifact again, and a finished one stays until
    its successor is whole.

    Raises: UserError where the directory holds something else or cannot be written or locked, where another process is
    at work in it, or where the disk is full.
    """
    key = step_key(step, config, inputs, work, extra_key=extra_key)
    path = keyed_path(output, key)
    with disk_errors_explained(path):
        earlier = _finished(path, kind, key)
        if reuse and earlier is not None:
            return _reused(step, earlier)
        with _claimed(path, key):
            if reuse and (earlier := _finished(path, kind, key)) is not None:  # another process has finished it
                return _reused(step, earlier)
            say(step, "started")
            started = time.monotonic()
            with _place_of_work(path, reuse) as place:
                metadata = work(place)
                seconds = time.monotonic() - started
                artifact = finish_artifact(
                    place,
                    kind,
                    key=key,
                    inputs={name: item.digest for name, item in inputs.items()},
                    metadata=metadata,
                    seconds=seconds,
                )
            _clear_up(path)
    say(step, f"finished in {seconds:.1f} s")
    return dataclasses.replace(artifact, path=path)


def step_key(
    step: str,
    config: Section,
    inputs: Mapping[str, Made],
    work: Work,
    *,
    extra_key: Any = None,
) -> str:
    """The digest that names a piece of work: its settings, its inputs, and the code that `work` uses."""
    return digest_of(
        {
            "step": step,
            "config": config.what_changes_the_result(),
            "inputs": {name: artifact.digest for name, artifact in inputs.items()},
            "code": closure_digest(Path(inspect.getfile(getattr(work, "func", work)))),
            "extra": extra_key,
        }
    )


def keyed_path(output: str | Path, key: str) -> Path:
    """`output` with `{key}` replaced by the key's first 16 digits."""
    return Path(str(output).replace("{key}", key[:16]))


def say(step: str, message: str) -> None:
    """Print a line for the person who watches, in the form that `pipelines.local.console` recognises."""
    print(f"[{step}] {message}", flush=True)


@contextlib.contextmanager
def exit_on_user_error() -> Iterator[None]:
    """End the process with one line and status 2 for a user's mistake, 3 for a diverged training, 143 after SIGTERM.
    Our own bugs keep their traceback."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("matta_core").setLevel(logging.INFO)
    try:
        yield
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        raise SystemExit(2) from None
    except TrainingDivergedError as error:
        print(f"diverged: {error}", file=sys.stderr, flush=True)
        raise SystemExit(3) from None
    except ToldToEndError as error:
        print(f"ended: {error}", file=sys.stderr, flush=True)
        raise


def checkpoint_identity(name_or_path: str) -> Any:
    """What a step's key holds of a checkpoint without a manifest: the digests of its files, or its hub name."""
    folder = Path(name_or_path)
    if not folder.is_dir():
        return name_or_path
    return {file.name: file_digest(file) for file in sorted(folder.iterdir()) if file.is_file()}


def _finished(path: Path, kind: str, key: str) -> Artifact | None:
    """The artifact in the directory, if it is finished. Raises: UserError where its key is another one."""
    if not is_finished(path):
        return None
    artifact = open_artifact(path, kind)
    if artifact.key != key:
        raise UserError(
            f"{path} holds a finished {kind} made with other settings, inputs or code: "
            f"choose another --output, or delete it"
        )
    return artifact


def _reused(step: str, artifact: Artifact) -> Artifact:
    _clear_up(artifact.path)
    say(step, f"reused {artifact.path}")
    return artifact


def _clear_up(path: Path) -> None:
    """Delete the files from which a finished step would have resumed. A kill before this does no harm.

    Files that cannot be deleted stay, and are no part of the artifact; on NFS, that is one that a process has open.
    """
    shutil.rmtree(path / IN_PROGRESS, ignore_errors=True)


@contextlib.contextmanager
def _claimed(path: Path, key: str) -> Iterator[None]:
    """Claim the directory for this key, or find our own unfinished work in it. Only one process at a time may hold it.

    The lock lies inside the directory, where everyone who works there can write. Beside it they may not: a volume may
    be mounted at this very place.
    """
    claim = path / IN_PROGRESS / "key.json"
    others = [file for file in path.iterdir() if file.name not in (IN_PROGRESS, LOCK)] if path.is_dir() else []
    if others and not claim.is_file() and not is_finished(path):
        raise UserError(f"{path} is not empty and holds no work of this step: choose another --output")
    make_directory(path)
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(locked(path / LOCK, wait=False))
        except BlockingIOError:
            raise UserError(
                f"another process is at work in {path}: wait for it or end it, then run the same command again"
            ) from None
        make_directory(claim.parent)
        if not claim.is_file():
            write_json_atomically(claim, key)
        elif claim.read_text().strip() != f'"{key}"':
            raise UserError(
                f"{path} holds unfinished work with other settings, inputs or code: "
                f"choose another --output, or delete it"
            )
        yield


@contextlib.contextmanager
def _place_of_work(path: Path, resumes: bool) -> Iterator[Path]:
    """The directory itself. Work that starts afresh every time gets one aside, whose files then take its place."""
    if resumes:
        yield path
        return
    aside = path / IN_PROGRESS / "afresh"
    _take_over(aside, path)  # an earlier run sealed it, but was killed before it could take over
    if aside.exists():
        shutil.rmtree(aside)
    aside.mkdir()
    yield aside
    _take_over(aside, path)


def _take_over(aside: Path, path: Path) -> None:
    """Replace an earlier artifact's files with those of a sealed one. Without a sealed one, nothing is done.

    After a kill at any point, either the earlier artifact is whole, or the new one is sealed and a second call goes on.
    """
    if not is_finished(aside):
        return
    names = {name.split("/")[0] for name in read_manifest(aside)["files"]}
    (path / MANIFEST).unlink(missing_ok=True)
    for entry in path.iterdir():
        arrived = entry.name in names and not (aside / entry.name).exists()
        if entry.name not in (IN_PROGRESS, LOCK) and not arrived:
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
    for name in sorted(names):
        if (aside / name).exists():
            (aside / name).rename(path / name)
    (aside / MANIFEST).rename(path / MANIFEST)
