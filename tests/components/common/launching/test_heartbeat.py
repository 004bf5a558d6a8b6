"""A rank lives as long as the step that follows its job: processes and a file, on short times."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from components.common.launching.heartbeat import HEARTBEAT_VARIABLE, end_with_the_step, heartbeat
from matta_core.errors import UserError

RANK = """
import time
from components.common.launching.heartbeat import end_with_the_step
end_with_the_step(limit_seconds=1.0, look_seconds=0.1)
print("started", flush=True)
time.sleep(60)
"""


def rank(file):
    environment = os.environ | {HEARTBEAT_VARIABLE: str(file)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", RANK], env=environment, **pipes)


def test_a_rank_works_while_the_heart_beats_and_ends_itself_soon_after(tmp_path):
    file = tmp_path / "work" / "heartbeat"
    with heartbeat(file, beat_seconds=0.1):
        process = rank(file)
        assert process.stdout.readline() == "started\n"
        with pytest.raises(subprocess.TimeoutExpired):  # three limits long
            process.wait(3.0)
    stopped_at = time.monotonic()
    said = process.communicate(timeout=30)[1]
    assert time.monotonic() - stopped_at < 10
    assert process.returncode == os.EX_TEMPFAIL == 75
    assert said.startswith(f"error: the step that follows this TrainJob is gone (no heartbeat in {file} for 1 s)")


def test_a_rank_that_is_started_again_finds_the_old_heartbeat_and_ends_at_once(tmp_path):
    file = tmp_path / "heartbeat"
    file.touch()
    an_hour_ago = time.time() - 3600
    os.utime(file, (an_hour_ago, an_hour_ago))
    process = rank(file)
    assert process.wait(30) == os.EX_TEMPFAIL
    assert "no heartbeat in" in process.stderr.read()


def test_a_heart_does_not_make_again_what_a_rank_removed(tmp_path):
    file = tmp_path / "work" / "heartbeat"
    with heartbeat(file, beat_seconds=0.01):
        file.unlink()
        file.parent.rmdir()
        time.sleep(0.1)  # ten beats
        assert not file.parent.exists()


def test_a_heart_that_cannot_be_written_is_told_with_its_place():
    with pytest.raises(UserError, match=r"cannot .*/proc/nothing"), heartbeat(Path("/proc/nothing/heartbeat")):
        pass


def test_a_step_that_no_trainjob_runs_watches_nothing(monkeypatch):
    monkeypatch.delenv(HEARTBEAT_VARIABLE, raising=False)
    end_with_the_step()
    assert "heartbeat" not in [thread.name for thread in threading.enumerate()]
