"""The ways in which a run ends early through no fault of the code."""

import signal


class UserError(ValueError):
    """A mistake that the user can mend: the message names the value, the place and the remedy.

    Commands print it without a traceback and exit with status 2.
    """


class TrainingDivergedError(RuntimeError):
    """The loss is no longer a finite number. The last good checkpoint is kept and named. Exit status 3."""


class ToldToEndError(RuntimeError):
    """SIGTERM: what was done is saved, and the same command goes on from there. Exit status 143."""

    status = 128 + signal.SIGTERM


def one_line(error: Exception) -> str:
    """What an error of a library says, in one line of at most 300 characters."""
    return " ".join(str(error).split())[:300] or type(error).__name__
