"""SIGTERM to a training: it ends where it can go on from, with its ranks, and saves that first."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from matta_core.errors import ToldToEndError


class StopSignal:
    """Whether this process was told to end. Where that is not awaited (`awaited`), the signal ends it at once."""

    def __init__(self) -> None:
        self.is_given = False
        self._is_awaited = False

    @contextlib.contextmanager
    def awaited(self) -> Iterator[None]:
        """Inside, the signal only sets `is_given`, for the code to look at; what it did not see ends it at the end."""
        self._is_awaited = True
        try:
            yield
        finally:
            self._is_awaited = False
        if self.is_given:
            self._end()

    def receive(self, _number: int, _frame: FrameType | None) -> None:
        """As a handler of signals."""
        self.is_given = True
        if not self._is_awaited:
            self._end()

    def _end(self) -> None:
        raise ToldToEndError(
            "told to end (SIGTERM): the same command goes on from the last checkpoint, if there is one"
        )


@contextlib.contextmanager
def on_sigterm() -> Iterator[StopSignal]:
    """A StopSignal that SIGTERM gives while inside; in another thread than the main one, nothing does."""
    stop = StopSignal()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = signal.signal(signal.SIGTERM, stop.receive)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, before)
