"""A TrainJob must not outlive the step that follows it. The step's heartbeat is a file that every rank watches.

When Kubeflow ends a run, neither a signal nor the job's owner is enough. Kubeflow's launcher stands between Kubernetes
and the step's Python and passes no signal on. The step's pod, which owns the job, stays as an object until its workflow
is deleted. But the step's process ends; with it the heartbeat ends, and then the ranks.
"""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from components.common.disk import disk_errors_explained, make_directory

HEARTBEAT_VARIABLE = "MATTA_HEARTBEAT"  # tells the nodes' pods the file
_BEAT_SECONDS = 20.0
# NFS shows another node's file times up to a minute late, and the clocks of a cluster's nodes agree within seconds.
LIMIT_SECONDS = 300.0


@contextlib.contextmanager
def heartbeat(file: Path, *, beat_seconds: float = _BEAT_SECONDS) -> Iterator[None]:
    """Make `file` and keep its time new while the body runs.

    The file is made once: a rank removes its folder when the work is done, and must not find it again.
    Raises: UserError where it cannot be written.
    """
    with disk_errors_explained(file.parent):
        make_directory(file.parent)
        file.touch()
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(beat_seconds):
            with contextlib.suppress(OSError):  # the file is removed, or the volume is away: the next beat may arrive
                os.utime(file)

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(1.0)  # a hanging volume must not hold the step up


def end_with_the_step(*, limit_seconds: float = LIMIT_SECONDS, look_seconds: float = _BEAT_SECONDS) -> None:
    """In a rank of a TrainJob, end this process with status 75 when the heartbeat is `limit_seconds` old.

    A thread does it, because ranks may be waiting for one another. As after any kill, a checkpoint is whole or absent.
    A container that is started again finds an old heartbeat and ends at once, unless the step is back. So the status is
    not that of a user's mistake, on which the step would give the job up.
    """
    if not (name := os.environ.get(HEARTBEAT_VARIABLE)):
        return
    last_beat = time.time()

    def look() -> None:
        nonlocal last_beat
        while True:
            with contextlib.suppress(OSError):  # removed, or the volume is away: the last time seen counts
                last_beat = Path(name).stat().st_mtime
            if (age := time.time() - last_beat) > limit_seconds:
                print(
                    f"error: the step that follows this TrainJob is gone (no heartbeat in {name} for {age:.0f} s): its "
                    f"run was ended, or its pod was lost. The same step goes on from the newest checkpoint",
                    file=sys.stderr,
                    flush=True,
                )
                os._exit(os.EX_TEMPFAIL)
            time.sleep(look_seconds)

    threading.Thread(target=look, name="heartbeat", daemon=True).start()
