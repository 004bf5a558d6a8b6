"""Reads the ranks' output: torchrun's prefix tells their lines apart. It finds which rank failed first, and why."""

import re
import signal
from collections import defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass

from matta_core.errors import TrainingDivergedError, UserError

# With these variables torchrun puts each rank's number before its lines, and passes lines on at once.
ENVIRONMENT = {"TORCHELASTIC_LOG_LINE_PREFIX_TEMPLATE": "[rank ${rank}]: ", "PYTHONUNBUFFERED": "1"}
TAIL_LINES = 40

_PIECES = re.compile(r"(?=\[rank \d+\]: )")
_PREFIX = re.compile(r"\[rank (\d+)\]: ?(.*)")
# torch.distributed.elastic.multiprocessing.errors.ChildFailedError, the first failure that torchrun saw.
_ROOT_CAUSE = re.compile(
    r"Root Cause \(first observed failure\):\s*\[\d+\]:.*?rank\s*: (\d+) \(local_rank: \d+\)\s*exitcode\s*: (-?\d+)",
    re.DOTALL,
)


@dataclass(frozen=True)
class RankFailure:
    """`rank` is None where torchrun itself failed; `exit_code` is negative for a signal, as in subprocess."""

    rank: int | None
    exit_code: int
    tail: str

    @property
    def is_final(self) -> bool:
        """Whether it is a user's mistake or a diverged training, which no further attempt would mend."""
        return self.rank is not None and self.exit_code in (2, 3)

    def error(self, where: str) -> Exception:
        """The exception that the rank's own process ended with, or a RuntimeError with the end of its log."""
        if self.is_final:
            kind, word = {2: (UserError, "error"), 3: (TrainingDivergedError, "diverged")}[self.exit_code]
            if said := re.findall(rf"^{word}: (.*)", self.tail, re.MULTILINE):
                return kind(said[-1])
        who = f"rank {self.rank}" if self.rank is not None else "torchrun"
        how = f"ended with status {self.exit_code}"
        if self.exit_code < 0:
            how = f"was killed by {signal.Signals(-self.exit_code).name}"
        if self.exit_code == -signal.SIGKILL:
            how += " (often: out of memory)"
        return RuntimeError(f"{who} {how} {where}. The end of its log:\n{self.tail}")


class RankLog:
    """Keeps the last lines of each rank in torchrun's output."""

    def __init__(self) -> None:
        self._tails: dict[int | None, deque[str]] = defaultdict(lambda: deque(maxlen=TAIL_LINES))
        self._tails[None] = deque(maxlen=500)  # torchrun's own lines: its report has several per rank

    def add(self, line: str, *, torchruns: bool = True) -> list[str]:
        """Keep a line, and return the part to show: rank 0's text as it is, other ranks' with their number. Without
        `torchruns`, torchrun's own lines are not shown: when it is told to end, it prints a traceback.

        Progress bars are redrawn without a line's end, so a line can hold pieces of several ranks.
        """
        shown = []
        for piece in _PIECES.split(line.rstrip("\n")):
            rank, text = (int(match[1]), match[2]) if (match := _PREFIX.fullmatch(piece)) else (None, piece)
            if text.strip():
                self._tails[rank].append(text)
                if torchruns or rank is not None:
                    shown.append(piece if rank else text)
        return shown

    def failure(self, exit_code: int) -> RankFailure:
        """The failure of a torchrun that ended with `exit_code`."""
        own = "\n".join(self._tails[None])
        if not (match := _ROOT_CAUSE.search(own)):
            return RankFailure(None, exit_code, "\n".join(own.splitlines()[-TAIL_LINES:]))
        rank = int(match[1])
        return RankFailure(rank, int(match[2]), "\n".join(self._tails[rank]))


def failure_in(lines: Iterable[str], exit_code: int) -> RankFailure:
    """The failure that torchrun's log tells of. The end of the log is enough."""
    log = RankLog()
    for line in lines:
        log.add(line)
    return log.failure(exit_code)
