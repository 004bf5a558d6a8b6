"""The two ways in which a run ends badly through no fault of the code."""


class UserError(ValueError):
    """A mistake that the user can mend: the message names the value, the place and the remedy.

    Commands print it without a traceback, as one line, and exit with status 2.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.splitlines()))  # what it quotes may have several


class TrainingDivergedError(RuntimeError):
    """The loss is no longer a finite number. The last good checkpoint is kept and named. Exit status 3."""
