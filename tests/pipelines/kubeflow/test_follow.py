"""submit --wait, with the real kfp.Client, against a server that checks what it is sent."""

import io
import re
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import kfp_server_api
import pytest
from kfp_server import Fault, frame, loop, step

import pipelines.kubeflow.follow
import pipelines.kubeflow.submit
from pipelines.cluster import load_cluster
from pipelines.kubeflow.client import connect
from pipelines.kubeflow.follow import follow
from pipelines.kubeflow.submit import start_run, upload

pytestmark = pytest.mark.slow

PROFILE = Path(pipelines.__file__).parent / "clusters" / "cpu.yaml"


def test_wait_tells_each_change_and_ends_with_0_when_the_run_succeeded(submit, kubeflow):
    kubeflow.frames = [
        frame("PENDING"),
        frame("RUNNING"),
        frame("RUNNING", step("prepare-data", "Running", started=datetime.now(UTC) - timedelta(seconds=83))),
        frame("RUNNING", step("prepare-data"), step("train", "Running")),
        frame("SUCCEEDED", step("prepare-data"), step("train")),
    ]
    status, said, _ = submit("--wait")
    assert status == 0
    lines = [line.split()[1:3] for line in said.splitlines() if re.match(r"\d\d:\d\d:\d\d", line)]
    assert lines.count(["prepare-data", "RUNNING"]) == 1
    assert lines.index(["prepare-data", "SUCCEEDED"]) < lines.index(["train", "SUCCEEDED"])
    assert "driver" not in said
    assert "root" not in said
    # What runs has an end in the year 1: Go's time without a value.
    assert re.search(r"prepare-data +RUNNING +0:01:2\d", said)


def test_the_steps_of_a_loop_are_numbered_and_what_was_not_reached_is_skipped(submit, kubeflow):
    turns = loop("evaluate-models", "Succeeded", step("evaluate"), step("evaluate"))
    kubeflow.frames = [frame("SUCCEEDED", turns, step("gate", "Omitted"))]
    status, said, _ = submit("--wait")
    assert status == 0
    lines = [re.split(r"  +", line[9:]) for line in said.splitlines() if re.match(r"\d\d:\d\d:\d\d", line)]
    assert ["evaluate", "SUCCEEDED", "0:00:00"] in lines
    assert ["evaluate (2)", "SUCCEEDED", "0:00:00"] in lines
    assert ["gate", "SKIPPED"] in lines
    assert ["push", "SKIPPED"] in lines
    assert "evaluate-models" not in said
    assert "UNSPECIFIED" not in said


def test_a_run_whose_end_is_told_before_its_steps_is_looked_at_once_more(submit, kubeflow):
    before = frame("RUNNING", step("train", "Running"))
    kubeflow.frames = [
        before,
        frame("FAILED", step("train", "Failed"), stale=before),
        frame("FAILED", step("train", "Failed")),
    ]
    _, said, _ = submit("--wait")
    assert re.search(r"\d train +FAILED", said)


def test_a_run_whose_tasks_never_catch_up_ends_the_wait_all_the_same(submit, kubeflow):
    before = frame("RUNNING", step("train", "Running"))
    kubeflow.frames = [before, frame("FAILED", step("train", "Failed", log="no space"), stale=before)]
    status, said, _ = submit("--wait")
    assert status == 1
    assert "    no space\n" in said


def test_a_run_that_the_server_cannot_read_ends_the_wait_with_5(submit, kubeflow):
    def unreadable(run):  # toApiRun: neither state nor tasks
        run.state, run.run_details = None, None
        run.error = kfp_server_api.GoogleRpcStatus(code=13, message="Failed to parse runtime config")

    kubeflow.frames = [unreadable]
    status, _, error = submit("--wait")
    assert status == 5
    assert "Failed to parse runtime config" in error


@pytest.mark.parametrize(("state", "expected"), [("CANCELED", 1), ("SKIPPED", 0)])
def test_every_state_that_ends_a_run_ends_the_wait(submit, kubeflow, state, expected):
    kubeflow.frames = [frame("PAUSED"), frame("CANCELING"), frame(state)]
    assert submit("--wait")[0] == expected


def test_a_run_that_outlasts_the_timeout_ends_the_wait_with_4(submit, kubeflow):
    kubeflow.frames = [frame("RUNNING")]
    status, _, error = submit("--wait", "--timeout", "0.2")
    assert status == 4
    assert "has not ended within 0.2 s; it goes on" in error
    assert kubeflow.calls("POST", ":terminate") == 0


@pytest.mark.parametrize("arguments", [("--timeout", "5"), ("--wait", "--timeout", "0")])
def test_a_timeout_without_a_meaning_is_refused(submit, arguments):
    status, _, error = submit(*arguments)
    assert status == 2
    assert "--timeout must be > 0 seconds and goes with --wait" in error


def test_control_c_leaves_the_run_going_and_says_so(submit, kubeflow, monkeypatch):
    kubeflow.frames = [frame("RUNNING")]

    def interrupted(seconds):
        raise KeyboardInterrupt

    # Not time.sleep itself: a slow machine's retries sleep, too.
    monkeypatch.setattr(pipelines.kubeflow.follow, "time", SimpleNamespace(**{**vars(time), "sleep": interrupted}))
    status, _, error = submit("--wait")
    (run,) = kubeflow.runs.values()
    assert status == 130
    assert "interrupted: the run goes on: " in error
    assert run.run_id in error
    assert kubeflow.calls("POST", ":terminate") == 0


def test_a_server_that_is_away_for_a_while_does_not_end_the_wait(submit, kubeflow):
    kubeflow.frames = [frame("RUNNING"), frame("SUCCEEDED")]
    kubeflow.faults = [Fault("GET", "/runs/", "status", status=503, times=7)]
    status, said, _ = submit("--wait")
    assert status == 0
    assert said.count("answered 503 Service Unavailable") == 2  # 3 tries each
    assert kubeflow.faults[0].times == 0


def test_a_server_that_stays_away_ends_the_wait_with_5(submit, kubeflow, monkeypatch):
    monkeypatch.setattr(pipelines.kubeflow.follow, "_SECONDS_WITHOUT_SERVER", 0.3)
    kubeflow.faults = [Fault("GET", "/runs/", "status", status=503, times=10_000)]
    status, said, error = submit("--wait")
    assert status == 5
    assert "answered 503" in error
    assert "link      " in said


def test_on_a_terminal_the_steps_are_a_table_in_their_order(kubeflow, host, package):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    client = connect(host)
    version = upload(client, package)
    run = start_run(client, version, name="r", experiment="e", parameters={}, cluster=load_cluster(PROFILE))
    kubeflow.frames = [frame("SUCCEEDED", step("train"), step("prepare-data"))]
    terminal = Terminal()
    assert follow(
        client,
        run.run_id,
        ["prepare-data", "train", "gate"],
        terminal,
        namespace="kubeflow",
        timeout_seconds=None,
        poll_seconds=0.01,
    )
    shown = terminal.getvalue()
    assert "│" in shown
    assert shown.index("prepare-data") < shown.index("train") < shown.index("gate")
