"""Ends a training on SIGTERM: the ranks end together at a step, and save it first."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from matta_core.errors import ToldToEndError


class StopSignal:
    """Whether this process was told to end. Outside of `awaited`, the signal ends it at once."""

    def __init__(self) -> None:
        self.is_given = False
        self._is_awaited = False

    @contextlib.contextmanager
    def awaited(self) -> Iterator[None]:
        """In the body, the signal only sets `is_given`, which the code there checks; after it, the process ends."""
        self._is_awaited = True
        try:
            yield
        finally:
            self._is_awaited = False
        if self.is_given:
            self._end()

    def receive(self, _number: int, _frame: FrameType | None) -> None:
        """Handle the signal."""
        self.is_given = True
        if not self._is_awaited:
            self._end()

    def _end(self) -> None:
        raise ToldToEndError(
            "told to end (SIGTERM): the same command goes on from the last checkpoint, if there is one"
        )


@contextlib.contextmanager
def on_sigterm() -> Iterator[StopSignal]:
    """A StopSignal that SIGTERM gives while the body runs. Outside of the main thread, nothing gives it."""
    stop = StopSignal()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = signal.signal(signal.SIGTERM, stop.receive)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, before)
