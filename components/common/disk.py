"""What a full disk, or a place where nobody may write, comes to: one line with the place and the remedy."""

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

from matta_core.errors import UserError

_DISK_ERRORS = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOTDIR,
    errno.EFBIG,
}
# How libraries word such an error: the reason is at the end of the text, or has the error's number beside it.
_DISK_WORDS = re.compile(
    rf"({'|'.join(map(os.strerror, sorted(_DISK_ERRORS)))})(?=[\s.'\")]*$|\s*\(os error)"
    rf"|No space left on device|Not enough disk space"
)


@contextlib.contextmanager
def disk_errors_explained(path: Path, setting: str = "--output") -> Iterator[None]:
    """Turn a full disk or an unwritable directory into a UserError with the place and the remedy.

    `setting` names what the user must change to write elsewhere.
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


def make_directory(path: Path, setting: str = "--output") -> None:
    """Make a directory and its parents. Raises: UserError, with the setting to change, where the file system refuses
    (/proc)."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileNotFoundError, FileExistsError) as error:
        raise UserError(f"cannot make the directory {path}: {error.strerror}; choose another {setting}") from None


def _disk_problem(error: BaseException | None, path: Path) -> str | None:
    """Place and reason, if the disk caused an error, directly or below a library's error; else None."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
            return f"{error.filename or path}: {error.strerror}"
        # safetensors, pyarrow and datasets give the reason as text alone.
        if found := _DISK_WORDS.search(str(error)):
            return f"{path}: {found[0]}"
        error = error.__cause__
    return None
