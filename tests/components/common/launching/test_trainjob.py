"""A TrainJob is created once, followed through whatever happens, and ends with the step: on a stand-in cluster."""

import dataclasses
import os
import signal
import threading

import pytest

from components.common.launching.manifest import Owner
from matta_core.errors import TrainingDivergedError, UserError

NAME = "matta-train-0123456789abcdef"

REPORT = """torch.distributed.elastic.multiprocessing.errors.ChildFailedError:
============================================================
components.train FAILED
------------------------------------------------------------
Failures:
  <NO_OTHER_FAILURES>
------------------------------------------------------------
Root Cause (first observed failure):
[0]:
  time      : 2026-11-24_13:30:42
  host      : localhost
  rank      : {rank} (local_rank: 1)
  exitcode  : {exit_code} (pid: 22485) {signal}
  error_file: <N/A>
  traceback : To enable traceback see: https://pytorch.org/docs/stable/elastic/errors.html
============================================================"""


def report(rank, exit_code, signal_name=""):
    return REPORT.format(rank=rank, exit_code=exit_code, signal=signal_name).splitlines()


def start(cluster):
    for node in cluster.nodes:
        node.runs()


def complete(cluster):
    for node in cluster.nodes:
        node.ends(0, "Completed")
    cluster.ends("Complete", "AllJobsCompleted")


def test_a_job_is_created_followed_and_its_rank_0_heard_line_by_line(cluster, two_nodes, capsys, run):
    cluster.moves = [
        lambda c: None,
        start,
        lambda c: c.nodes[0].says("[rank 0]: [train] started", "[rank 1]: hello from one"),
        lambda c: c.nodes[1].says("[rank 2]: unheard"),
        lambda c: c.nodes[0].says("[rank 0]: step 2"),
        complete,
    ]
    run(two_nodes)
    said = capsys.readouterr().out.splitlines()
    assert said == [
        f"TrainJob team/{NAME}: created",
        "0 of 2 nodes run",
        "2 of 2 nodes run",
        "[train] started",
        "[rank 1]: hello from one",
        "step 2",
    ]
    (job,) = cluster.created
    assert job["metadata"]["ownerReferences"] == [
        {"apiVersion": "v1", "kind": "Pod", "name": "train-step-1", "uid": "uid-1"}
    ]
    assert cluster.deleted == []  # it goes with its owner, and can be looked at until then


def test_a_retried_step_follows_its_own_running_job_and_owns_it_from_then_on(cluster, two_nodes, capsys, run, job_of):
    cluster.add_job(job_of(two_nodes, owner=Owner("train-step-0", "uid-0")))
    start(cluster)
    cluster.moves = [lambda c: None, complete]
    run(two_nodes)
    assert cluster.created == []
    assert cluster.jobs[NAME]["metadata"]["ownerReferences"][0]["name"] == "train-step-1"
    assert "runs already, from an earlier attempt" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["Failed", "Complete"])
def test_a_job_that_ended_without_an_artifact_gives_way_to_a_new_one(cluster, two_nodes, kind, run, job_of):
    cluster.add_job(job_of(two_nodes))
    cluster.ends(kind)
    cluster.deletion_takes = 2
    cluster.moves = [lambda c: None, start, complete]
    run(two_nodes)
    assert cluster.deleted == [NAME]
    assert len(cluster.created) == 1


def test_a_job_with_other_settings_gives_way_to_a_new_one(cluster, two_nodes, run, job_of):
    other = dataclasses.replace(two_nodes, nodes=4)
    cluster.add_job(job_of(other))
    cluster.moves = [lambda c: None, start, complete]
    run(two_nodes)
    assert cluster.deleted == [NAME]
    assert cluster.created[0]["spec"]["trainer"]["numNodes"] == 2


@pytest.mark.parametrize("changes", [{}, {"nodes": 4}])
def test_another_runs_running_job_is_neither_followed_nor_deleted(cluster, two_nodes, changes, run, job_of):
    cluster.add_job(job_of(dataclasses.replace(two_nodes, **changes), owner=Owner("other", "uid-9"), run="run-9"))
    with pytest.raises(UserError, match=rf"team/{NAME} does this very work already, for run run-9: wait .*kubectl del"):
        run(two_nodes)
    assert cluster.deleted == []
    assert cluster.jobs[NAME]["metadata"]["ownerReferences"][0]["name"] == "other"


def test_another_runs_job_that_ended_gives_way(cluster, two_nodes, run, job_of):
    cluster.add_job(job_of(two_nodes, run="run-9"))
    cluster.ends("Failed")
    cluster.moves = [lambda c: None, start, complete]
    run(two_nodes)
    assert cluster.deleted == [NAME]
    assert cluster.created[0]["metadata"]["annotations"]["matta.trainjob/run"] == "run-1"


def test_a_step_that_is_told_to_end_leaves_a_job_that_took_its_jobs_place(cluster, two_nodes, run, job_of):
    def replace_and_cancel(c):
        c.add_job(job_of(two_nodes, run="run-9"))
        os.kill(os.getpid(), signal.SIGTERM)

    cluster.moves = [start, replace_and_cancel]
    with pytest.raises(SystemExit):
        run(two_nodes)
    assert cluster.deleted == []


def test_without_a_runs_id_the_pod_is_the_run(cluster, two_nodes, run, monkeypatch):
    monkeypatch.delenv("KFP_RUN_ID")
    cluster.moves = [start, complete]
    run(two_nodes)
    assert cluster.created[0]["metadata"]["annotations"]["matta.trainjob/run"] == "uid-1"


def test_the_heart_beats_while_the_job_is_followed(cluster, two_nodes, run, tmp_path):
    file = tmp_path / "work" / "heartbeat"
    seen = []
    cluster.moves = [lambda c: seen.append(file.is_file()), start, complete]
    run(two_nodes)
    assert seen == [True]  # before the ranks are
    assert "heartbeat" not in [thread.name for thread in threading.enumerate()]


@pytest.mark.parametrize("fault", [500, 503, 429, "cut", "lost"])
@pytest.mark.parametrize(
    "call",
    [("create", "trainjobs"), ("get", "trainjobs"), ("list", "pods"), ("get", "pods/log")],
    ids=lambda call: "-".join(call).replace("/", "-"),
)
def test_a_passing_fault_of_any_call_changes_nothing(cluster, two_nodes, capsys, call, fault, run):
    cluster.faults = [(call, fault)]
    # A lost answer to `get` has made a move.
    cluster.moves = [start, lambda c: c.nodes[0].says("[rank 0]: one", "[rank 0]: two"), lambda c: None, complete]
    run(two_nodes)
    assert cluster.faults == []
    assert len(cluster.created) == 1
    said = capsys.readouterr().out.splitlines()
    assert [line for line in said if line in ("one", "two")] == ["one", "two"]


def test_the_failing_rank_and_the_end_of_its_log_are_told(cluster, two_nodes, run):
    def fail(c):
        c.nodes[1].says(*(f"[rank 3]: line {n}" for n in range(60)), "[rank 2]: not this one")
        c.nodes[1].says("[rank 3]: ValueError: the cause", *report(3, 1))
        c.nodes[1].ends(1, at="2026-11-24T13:00:01Z")
        c.nodes[0].says("[rank 0]: RuntimeError: connection closed by peer", *report(0, 1))
        c.nodes[0].ends(1, at="2026-11-24T13:00:02Z")

    cluster.moves = [start, fail, lambda c: c.ends("Failed", "FailedJobs", "jobset failed")]
    with pytest.raises(RuntimeError) as caught:
        run(two_nodes)
    told = str(caught.value)
    assert told.startswith("rank 3 ended with status 1 in pod matta-train-0123456789abcdef-node-0-1-x7k2p (node 1, ")
    assert "ranks 2 to 3), and after it rank 0 in matta-train" in told
    assert "line 59\nValueError: the cause" in told
    assert "line 10\n" not in told
    assert "not this one" not in told
    assert cluster.deleted == []  # its pods can still be looked at; the next attempt makes way


def test_a_log_that_goes_with_its_container_was_read_before(cluster, two_nodes, run):
    """JobSet starts a failed container again, and takes the pods along when it gives up."""

    def fail(c):
        c.nodes[1].says("[rank 2]: torch.OutOfMemoryError: CUDA out of memory", *report(2, 1))
        c.nodes[1].ends(1, restarts=True)

    def give_up(c):
        c.nodes.clear()
        c.ends("Failed", "FailedJobs", "jobset failed")

    cluster.moves = [start, fail, give_up]
    with pytest.raises(RuntimeError, match=r"rank 2 ended with status 1 (.|\n)*CUDA out of memory"):
        run(two_nodes)


def test_a_container_that_recovers_does_not_fail_the_step(cluster, two_nodes, capsys, run):
    def fail(c):
        c.nodes[0].says("[rank 0]: before", *report(0, -9, "SIGKILL"))
        c.nodes[0].ends(1, restarts=True)

    cluster.moves = [start, fail, lambda c: c.nodes[0].says("[rank 0]: after"), complete]
    run(two_nodes)
    said = capsys.readouterr().out
    assert "ended with status 1 (Error)" in said
    assert "after" in said


def test_a_container_killed_for_memory_comes_before_those_that_lost_their_peer(cluster, two_nodes, run):
    def fail(c):
        c.nodes[0].says("[rank 1]: connection closed by peer", *report(1, 1))
        c.nodes[0].ends(1, at="2026-11-24T13:00:01Z")
        c.nodes[1].ends(137, "OOMKilled", at="2026-11-24T13:00:02Z")
        c.ends("Failed")

    cluster.moves = [start, fail]
    with pytest.raises(RuntimeError, match=r"torchrun ended with status 137 .*node-0-1.* OOMKilled\)"):
        run(two_nodes)


@pytest.mark.parametrize(
    ("exit_code", "line", "error"),
    [
        (2, "error: train.batch_size must be divisible by the number of processes, 4, got 9", UserError),
        (3, "diverged: training diverged in step 7", TrainingDivergedError),
    ],
)
def test_a_mistake_is_the_steps_own_and_is_not_tried_again(cluster, two_nodes, exit_code, line, error, run):
    def fail(c):
        c.nodes[1].says(f"[rank 3]: {line}", *report(3, exit_code))
        c.nodes[1].ends(1, restarts=True)  # the job goes on trying

    cluster.moves = [start, fail]
    with pytest.raises(error) as caught:
        run(two_nodes)
    assert str(caught.value) == line.partition(": ")[2]
    assert cluster.deleted == [NAME]


def test_a_job_that_fails_without_a_log_gives_its_condition(cluster, two_nodes, run):
    cluster.moves = [lambda c: c.ends("Failed", "TrainingRuntimeNotSupported", "no such runtime")]
    with pytest.raises(RuntimeError, match="failed: TrainingRuntimeNotSupported: no such runtime"):
        run(two_nodes)


def test_a_job_past_its_time_is_told_as_such(cluster, two_nodes, run):
    def end(c):
        c.nodes[0].ends(143)
        c.ends("Failed", "DeadlineExceeded", "")

    cluster.moves = [start, end]
    with pytest.raises(TimeoutError, match="timeout_seconds = 60; the same step goes on from the newest checkpoint"):
        run(dataclasses.replace(two_nodes, timeout_seconds=60))
    assert cluster.created[0]["spec"]["activeDeadlineSeconds"] == 60


@pytest.mark.parametrize("how", ["gone", "going", "another run's"])
def test_a_job_deleted_by_somebody_else_is_told(cluster, two_nodes, how, run, job_of):
    def delete(c):
        if how == "gone":
            c.jobs.clear()
        elif how == "another run's":
            c.add_job(job_of(two_nodes, run="run-9"))
        else:
            c.jobs[NAME]["metadata"]["deletionTimestamp"] = "2026-11-24T13:00:00Z"

    cluster.moves = [start, delete]
    with pytest.raises(RuntimeError, match=f"team/{NAME} was deleted while it ran"):
        run(two_nodes)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_step_that_is_told_to_end_takes_its_job_along(cluster, two_nodes, number, run):
    def harmless(*_arguments):  # the second signal may come after the step has ended
        pass

    pytests = signal.signal(number, harmless)
    again = threading.Timer(0.05, os.kill, (os.getpid(), number))

    def cancel(_cluster):
        # Twice, as a process group and its leader may both be told; the second must not break the clean-up.
        os.kill(os.getpid(), number)
        again.start()

    cluster.moves = [start, cancel]
    cluster.faults = [(("delete", "trainjobs"), 503)]
    try:
        with pytest.raises(SystemExit) as caught:
            run(two_nodes)
        assert caught.value.code == 128 + number
        assert cluster.deleted == [NAME]
        assert signal.getsignal(number) == harmless
        again.join()
    finally:
        signal.signal(number, pytests)


def test_a_step_that_comes_back_follows_the_job_whose_ranks_had_ended_themselves(cluster, two_nodes, run, job_of):
    cluster.add_job(job_of(two_nodes, owner=Owner("train-step-0", "uid-0")))
    start(cluster)
    cluster.nodes[0].says("[rank 0]: error: the step that follows this TrainJob is gone", *report(0, os.EX_TEMPFAIL))
    cluster.nodes[0].ends(1, restarts=True)
    cluster.moves = [lambda c: None, lambda c: None, complete]
    run(two_nodes)
    assert cluster.deleted == []


def test_what_holds_a_pod_up_is_told_once(cluster, two_nodes, capsys, run):
    cluster.moves = [
        lambda c: c.nodes[1].cannot_be_placed("0/3 nodes are available: 3 Insufficient nvidia.com/gpu"),
        lambda c: None,
        lambda c: c.nodes[0].waits("ImagePullBackOff", 'Back-off pulling image "matta/trainer"'),
        start,
        complete,
    ]
    run(two_nodes)
    said = capsys.readouterr().out
    assert said.count("node-0-1-x7k2p waits: Unschedulable: 0/3 nodes are available: 3 Insufficient") == 2
    assert said.count('node-0-0-x7k2p waits: ImagePullBackOff: Back-off pulling image "matta/trainer"') == 1
