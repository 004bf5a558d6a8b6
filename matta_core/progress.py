"""Progress bars: redrawn in place on a terminal, a line now and then in a log."""

import os
import sys
from typing import NoReturn

from tqdm import tqdm


def progress(total: int | None, description: str, unit: str, *, initial: int = 0) -> "tqdm[NoReturn]":
    """A tqdm bar with the time left, on stderr. Under torchrun only rank 0 shows it.

    It is redrawn ten times a second on a terminal; elsewhere it writes a line every ten seconds. The variables
    TQDM_MININTERVAL (seconds) and TQDM_NCOLS set another pace and width, as a local run does, which draws the bars.
    """
    on_terminal = sys.stderr.isatty()
    interval = float(os.environ.get("TQDM_MININTERVAL", 0.1 if on_terminal else 10.0))
    return tqdm(
        total=total,
        desc=description,
        unit=f" {unit}",
        initial=initial,
        mininterval=interval,
        maxinterval=max(10.0, interval),
        miniters=1,
        dynamic_ncols=on_terminal,
        ncols=None if on_terminal else int(os.environ.get("TQDM_NCOLS", 100)),
        ascii=not on_terminal and "TQDM_MININTERVAL" not in os.environ,
        leave=False,
        smoothing=0.1,
        disable=os.environ.get("RANK", "0") != "0",
    )
