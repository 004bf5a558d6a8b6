"""What a person sees of a local run: the steps' own lines and one live bar. Everything else goes to the log.

kfp.local prints each line of a step, indented, among its own records, and turns a bar's carriage returns into lines. It
prints to this stream instead of the terminal: the stream shows a line "[step] …", redraws a bar in place, keeps an
error, and writes the rest to the log file only.
"""

import io
import re
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

_STEP_LINE = re.compile(r"^\[(?P<step>\w+)\] (?P<message>.*)$")
_BAR_LINE = re.compile(r"^[^|]{1,60}: +\d+%\|")
_ERROR_LINE = re.compile(r"^(?P<kind>error|diverged|ended): (?P<message>.*)$")
_SECONDS_BETWEEN_BARS = 10.0  # where nothing can be redrawn
_EXIT_STATUS = {"error": 2, "diverged": 3, "ended": 143}


class Console(io.TextIOBase):
    """A text stream for kfp.local to print to. `terminal` gets what a person reads, `log` the rest as well."""

    def __init__(self, terminal: TextIO, log: Path, steps: Sequence[str]) -> None:
        self._terminal = terminal
        self._log_path = log
        self._log = log.open("w", encoding="utf-8")
        self._steps = list(steps)
        self._pending = ""
        self._live = terminal.isatty()
        self._bar_is_shown = False
        self._last_bar = time.monotonic()
        self.error: str | None = None
        self.exit_status = 1

    def write(self, text: str) -> int:
        """Collect text into lines and show each where it belongs."""
        *lines, self._pending = (self._pending + text).split("\n")
        for line in lines:
            self._line(line.removeprefix("    ").rstrip())
        return len(text)

    def flush(self) -> None:
        self._terminal.flush()

    def isatty(self) -> bool:
        return self._live

    def close(self) -> None:
        """Show what is left, clear the bar, close the log."""
        if self._pending:
            self.write("\n")
        self._clear_bar()
        self._log.close()
        super().close()

    def tail(self, lines: int = 25) -> str:
        """The end of the log."""
        self._log.flush()
        return "\n".join(self._log_path.read_text(encoding="utf-8").splitlines()[-lines:])

    def _line(self, line: str) -> None:
        if _BAR_LINE.match(line):
            self._bar(line)
            return
        self._log.write(line + "\n")
        self._log.flush()
        if match := _STEP_LINE.match(line):
            step, message = match["step"], match["message"]
            number = f"{self._steps.index(step) + 1}/{len(self._steps)}" if step in self._steps else ""
            self._show(f"{number:>4} {step:<17} {message}")
        elif match := _ERROR_LINE.match(line):
            self.error = match["message"]
            self.exit_status = _EXIT_STATUS[match["kind"]]

    def _bar(self, line: str) -> None:
        if self._live:
            width = shutil.get_terminal_size().columns
            self._terminal.write("\r\x1b[K" + line[: width - 1])
            self._terminal.flush()
            self._bar_is_shown = True
        elif time.monotonic() - self._last_bar > _SECONDS_BETWEEN_BARS:
            self._show(f"     {line}")
            self._last_bar = time.monotonic()

    def _show(self, line: str) -> None:
        self._clear_bar()
        self._terminal.write(line + "\n")
        self._terminal.flush()

    def _clear_bar(self) -> None:
        if self._bar_is_shown:
            self._terminal.write("\r\x1b[K")
            self._bar_is_shown = False
