"""Several ranks in this pod: torchrun as a child process."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from types import FrameType
from typing import IO, NoReturn

from components.common.launching.ranks import ENVIRONMENT, RankLog

# torchrun gives its ranks 30 s from SIGTERM to SIGKILL, as Kubernetes gives a pod. If it is killed before, they stay.
_GRACE_SECONDS = 40.0
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def run_torchrun(command: list[str], processes: int, *, timeout_seconds: float | None = None) -> None:
    """Run `python -m` + `command` in that many processes, show their output, and wait for them.

    If this process is told to end, or runs out of time, it tells the ranks to end: they agree on a step, save it and
    end.

    Raises: UserError, TrainingDivergedError or RuntimeError by how the first failing rank ended; TimeoutError;
    SystemExit(128 + signal) after SIGTERM or SIGINT. The ranks are gone by then.
    """
    with tempfile.TemporaryDirectory(prefix="torchrun-") as logs, exit_on_signals():
        # torchrun gets a session of its own. Otherwise a signal to our process group would reach it twice, and the
        # second one would break off its clean-up.
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"),
                *("--nproc-per-node", str(processes), *log_options(logs), "-m", *command),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
            env=os.environ | ENVIRONMENT,
        )
        log, late = RankLog(), threading.Event()

        def end_late() -> None:
            late.set()
            process.terminate()

        timer = threading.Timer(timeout_seconds, end_late) if timeout_seconds else None
        try:
            if timer:
                timer.start()
            for line in _output(process):
                for text in log.add(line):
                    print(text, flush=True)
            process.wait()
        finally:
            if timer:
                timer.cancel()
            _end(process, log)
    if late.is_set():
        raise TimeoutError(
            f"the ranks were ended after timeout_seconds = {timeout_seconds:g}; the same command goes on from the "
            f"newest checkpoint"
        )
    if process.returncode:
        raise log.failure(process.returncode).error("in this pod")


def log_options(folder: str) -> list[str]:
    """Options that send each rank's output to files below `folder` and to torchrun's own output."""
    return ["--log-dir", folder, "--tee", "3"]


@contextlib.contextmanager
def exit_on_signals() -> Iterator[None]:
    """Make SIGTERM and SIGINT raise SystemExit(128 + number) in the body. Later ones do not disturb the clean-up."""

    def end(number: int, _frame: FrameType | None) -> NoReturn:
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        raise SystemExit(128 + number)

    before = {each: signal.signal(each, end) for each in _SIGNALS}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _output(process: subprocess.Popen[str]) -> IO[str]:
    assert process.stdout is not None, "it is a pipe"
    return process.stdout


def _end(process: subprocess.Popen[str], log: RankLog) -> None:
    """End torchrun, which tells its ranks to end. Show their last lines, and wait for them."""
    if process.poll() is None:
        process.terminate()
        last_resort = threading.Timer(_GRACE_SECONDS, process.kill)
        last_resort.start()
        try:
            for line in _output(process):
                for text in log.add(line, torchruns=False):
                    print(text, flush=True)
            process.wait()
        finally:
            last_resort.cancel()
    _output(process).close()
