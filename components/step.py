"""What all steps share: their key, reuse of finished work, and how a mistake is told.

A step is made of its settings, its input artifacts and its code; the digest of these is its key. A step whose
output directory holds a finished artifact with the same key has nothing to do; one that was killed finds its
own unfinished work there and goes on with it.
"""

import contextlib
import errno
import fcntl
import inspect
import logging
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import matta_core
from matta_core.artifacts import (
    IN_PROGRESS,
    MANIFEST,
    Artifact,
    digest_of,
    file_digest,
    finish_artifact,
    is_finished,
    open_artifact,
    point_to,
    source_digest,
    write_json_atomically,
)
from matta_core.errors import TrainingDivergedError, UserError
from matta_core.settings import Section

_DISK_ERRORS = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOTDIR,
    errno.EFBIG,
}
# As a library's own words: the reason at the end, or with the error's number beside it.
_DISK_WORDS = re.compile(
    rf"({'|'.join(map(os.strerror, sorted(_DISK_ERRORS)))})(?=[\s.'\")]*$|\s*\(os error)"
    rf"|No space left on device|Not enough disk space"
)


def run_step(
    step: str,
    kind: str,
    output: str | Path,
    config: Section,
    inputs: Mapping[str, Artifact],
    work: Callable[[Path], Mapping[str, Any] | None],
    *,
    extra_key: Any = None,
    reuse: bool = True,
    follows: bool = False,
) -> Artifact | None:
    """Run `work(directory)` unless its result is already there; seal the directory; return the artifact.

    `output` may hold `{key}`, which becomes the first 16 digits of the step's key: so every distinct piece of
    work has a directory of its own. `work` writes the artifact's files and returns its metadata; what it needs
    only for resuming goes below `IN_PROGRESS`. With `reuse=False` it runs every time, for what it does outside of
    its directory (a push) and no digest knows of; the same outcome gives the same artifact again. `follows=True` is
    for a process that works along with another one (torchrun): it leaves the directory to that one, returns None.

    Raises: UserError where the directory holds something else, is not writable, or the disk is full.
    """
    key = step_key(step, config, inputs, work, extra_key=extra_key)
    path = keyed_path(output, key)
    with disk_errors_explained(path):
        if follows:
            if not is_finished(path):
                work(path)
            return None
        if is_finished(path):
            artifact = open_artifact(path, kind)
            if artifact.key != key:
                raise UserError(
                    f"{path} holds a finished {kind} made with other settings, inputs or code: "
                    f"choose another --output, or delete it"
                )
            if reuse:
                shutil.rmtree(path / IN_PROGRESS, ignore_errors=True)
                say(step, f"reused {path}")
                return artifact
        with _claimed(path, key):
            (path / MANIFEST).unlink(missing_ok=True)
            say(step, "started")
            started = time.monotonic()
            metadata = work(path)
            seconds = time.monotonic() - started
            artifact = finish_artifact(
                path,
                kind,
                key=key,
                inputs={name: item.digest for name, item in inputs.items()},
                metadata=metadata,
                seconds=seconds,
            )
            # Last: killed before this, the directory is either finished or still claimed.
            shutil.rmtree(path / IN_PROGRESS)
    say(step, f"finished in {seconds:.1f} s")
    return artifact


def step_key(
    step: str,
    config: Section,
    inputs: Mapping[str, Artifact],
    work: Callable,
    *,
    extra_key: Any = None,
) -> str:
    """The digest that names a piece of work: its settings, its inputs, and the code of `work`'s folder."""
    return digest_of(
        {
            "step": step,
            "config": config.what_changes_the_result(),
            "inputs": {name: artifact.digest for name, artifact in inputs.items()},
            "code": _code_digest(Path(inspect.getfile(getattr(work, "func", work))).parent),
            "extra": extra_key,
        }
    )


def keyed_path(output: str | Path, key: str) -> Path:
    """`output` with `{key}` replaced by the key's first 16 digits."""
    return Path(str(output).replace("{key}", key[:16]))


def say(step: str, message: str) -> None:
    """One line for the person who watches, recognised by `pipelines.console`."""
    print(f"[{step}] {message}", flush=True)


@contextlib.contextmanager
def disk_errors_explained(path: Path, setting: str = "--output") -> Iterator[None]:
    """Turn a full disk or an unwritable directory into a UserError with the place and the remedy.

    `setting` is what the user changes to write elsewhere.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if (problem := _disk_problem(error, path)) is None:
            raise
        raise UserError(
            f"cannot write {problem}. Free space there or choose another {setting}; "
            f"finished files are kept, and the same command goes on from them"
        ) from error


def make_directory(path: Path) -> None:
    """With its parents. Raises: UserError where the file system makes none there (/proc)."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileNotFoundError, FileExistsError) as error:
        raise UserError(f"cannot make the directory {path}: {error.strerror}; choose another --output") from None


def _disk_problem(error: BaseException | None, path: Path) -> str | None:
    """Place and reason, where an error or what a library says was its cause is the disk's; else None."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
            return f"{error.filename or path}: {error.strerror}"
        # safetensors, pyarrow and datasets tell it as text.
        if found := _DISK_WORDS.search(str(error)):
            return f"{path}: {found[0]}"
        error = error.__cause__
    return None


@contextlib.contextmanager
def exit_on_user_error() -> Iterator[None]:
    """Status 2 and one line for a user's mistake, 3 for a diverged training; a traceback for our own bugs."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        yield
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        raise SystemExit(2) from None
    except TrainingDivergedError as error:
        print(f"diverged: {error}", file=sys.stderr, flush=True)
        raise SystemExit(3) from None


def checkpoint_identity(name_or_path: str) -> Any:
    """What a checkpoint without a manifest is known by, in a step's key: its files' digests, or its hub name."""
    folder = Path(name_or_path)
    if not folder.is_dir():
        return name_or_path
    return {file.name: file_digest(file) for file in sorted(folder.iterdir()) if file.is_file()}


def output_path(store: str, step: str, kfp_path: str) -> str:
    """Where a wrapper's step writes: a directory named by its key below `store`, or, without one, Kubeflow's."""
    return f"{store}/{step}-{{key}}" if store else kfp_path


def publish(kfp_artifact: Any, artifact: Artifact) -> None:
    """Tell Kubeflow what a step's artifact is, and its digest; where it lies in the store, its place says where.

    The place stays Kubeflow's own: its launcher refuses a step with an input whose URI is no object store's
    (ParseBucketConfigForArtifactURI in kubeflow/pipelines, backend/src/v2/objectstore).
    """
    place = Path(kfp_artifact.path)
    if place.resolve() != artifact.path.resolve():
        point_to(artifact, place)
    kfp_artifact.metadata.update({"kind": artifact.kind, "digest": artifact.digest})


@contextlib.contextmanager
def _claimed(path: Path, key: str) -> Iterator[None]:
    """Make the directory ours, or find our own unfinished work in it; one process at a time.

    The lock goes with its process, however that ends.
    """
    claim = path / IN_PROGRESS / "key.json"
    others = [file for file in path.iterdir() if file.name != IN_PROGRESS] if path.is_dir() else []
    if others and not claim.is_file() and not is_finished(path):
        raise UserError(f"{path} is not empty and holds no work of this step: choose another --output")
    make_directory(claim.parent)
    with (claim.parent / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"another process is at work in {path}: wait for it or end it, then run the same command again"
            ) from None
        if not claim.is_file():
            write_json_atomically(claim, key)
        elif claim.read_text().strip() != f'"{key}"':
            raise UserError(
                f"{path} holds unfinished work with other settings, inputs or code: "
                f"choose another --output, or delete it"
            )
        yield


@cache
def _code_digest(folder: Path) -> str:
    """Of the method, and of the folder in which the step's work is defined."""
    return source_digest(Path(matta_core.__file__).parent, folder)
