"""The errors with which a run ends early through no fault of the code."""

import signal
from collections.abc import Sequence


class UserError(ValueError):
    """A mistake that the user can mend. The message names the value, the place and the remedy.

    Commands print it without a traceback, as one line, and exit with status 2.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.splitlines()))  # a quoted text may have several lines


class TrainingDivergedError(RuntimeError):
    """The loss is no longer a finite number. The last good checkpoint is kept and named. Exit status 3."""


class ToldToEndError(SystemExit):
    """SIGTERM came. The work so far is saved, and the same command goes on from there. Exit status 143.

    It is a SystemExit, so that no library takes it for an error of its own.
    """

    def __init__(self, message: str) -> None:
        super().__init__(128 + signal.SIGTERM)
        self.message = message

    def __str__(self) -> str:
        return self.message


def some_of(names: Sequence[str]) -> str:
    """The first three of many names, and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def one_line(error: Exception) -> str:
    """A library's error in one line of at most 300 characters."""
    return " ".join(str(error).split())[:300] or type(error).__name__
