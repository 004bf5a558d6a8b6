"""schedule: one recurring run per name, whatever is cut short and whoever else is at it."""

import threading
from pathlib import Path

import pytest
from kfp_server import Fault

import pipelines.kubeflow.submit
from matta_core.errors import UserError
from pipelines.cluster import load_cluster
from pipelines.kubeflow.client import connect
from pipelines.kubeflow.errors import KubeflowError, errors_explained
from pipelines.kubeflow.schedule import Timing, put_schedule
from pipelines.kubeflow.submit import experiment_id, upload

pytestmark = pytest.mark.slow

PROFILE = Path(pipelines.__file__).parent / "clusters" / "cpu.yaml"
NIGHTLY, WEEKLY = Timing("0 0 3 * * *"), Timing("0 0 3 * * 0")


@pytest.fixture
def put(host, package):
    """Call put_schedule for the name "nightly", with a client of its own."""
    version = upload(connect(host), package)
    experiment = experiment_id(connect(host), "demo")
    profile = load_cluster(PROFILE)

    def call(timing, client=None):
        return put_schedule(
            client or connect(host),
            "nightly",
            timing,
            version,
            experiment=experiment,
            parameters={},
            cluster=profile,
        )

    return call


def only(kubeflow):
    (item,) = kubeflow.recurring_runs.values()
    return item


class KilledError(BaseException):
    """The process ends here."""


def die_at(client, change, *, sent):
    """Let the client end at its `change`-th request that changes something: before it is sent, or before its answer."""
    rest = client._run_api.api_client.rest_client
    request = rest.request
    changes = 0

    def dying(method, url, **arguments):
        nonlocal changes
        changes += method != "GET"
        if method != "GET" and changes == change:
            if sent:
                request(method, url, **arguments)
            raise KilledError
        return request(method, url, **arguments)

    rest.request = dying
    return client


@pytest.mark.parametrize("sent", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("change", [1, 2, 3])
def test_killed_at_any_change_two_are_never_enabled_and_the_same_command_repairs_it(put, kubeflow, host, change, sent):
    """A replacement makes three changes: create, delete, enable."""
    put(NIGHTLY)
    old = only(kubeflow)
    with pytest.raises(KilledError):
        put(WEEKLY, die_at(connect(host), change, sent=sent))
    if change == 1 or (change == 2 and not sent):
        assert old.recurring_run_id in kubeflow.recurring_runs
        assert old.mode == "ENABLE"
    item, _ = put(WEEKLY)
    assert only(kubeflow).recurring_run_id == item.recurring_run_id
    assert only(kubeflow).mode == "ENABLE"
    assert only(kubeflow).trigger.cron_schedule.cron == WEEKLY.cron
    assert kubeflow.most_enabled == 1
    assert put(WEEKLY)[1] == "unchanged"


def test_a_replacement_makes_three_changes(put, kubeflow):
    put(NIGHTLY)
    del kubeflow.requests[:]
    put(WEEKLY)
    changes = [(method, path.rpartition(":")[2]) for method, path in kubeflow.requests if method != "GET"]
    assert [method for method, _ in changes] == ["POST", "DELETE", "POST"]
    assert changes[2][1] == "enable"


@pytest.mark.parametrize("change", [1, 2, 3])
def test_after_a_cut_another_command_leaves_nothing_behind_either(put, kubeflow, host, change):
    """The person changes their mind: what the first attempt left is cleared by the second."""
    put(NIGHTLY)
    with pytest.raises(KilledError):
        put(WEEKLY, die_at(connect(host), change, sent=True))
    put(Timing("0 30 5 * * *"))
    assert only(kubeflow).trigger.cron_schedule.cron == "0 30 5 * * *"
    assert only(kubeflow).mode == "ENABLE"
    assert kubeflow.most_enabled == 1


def test_a_replacement_that_was_cut_short_is_not_resumed_but_can_be_paused_and_deleted(schedule, put, kubeflow, host):
    put(NIGHTLY)
    with pytest.raises(KilledError):
        put(WEEKLY, die_at(connect(host), 1, sent=True))
    status, _, error = schedule("--resume", "nightly")
    assert status == 2
    assert "2 recurring runs are named nightly: a replacement was cut short; repeat" in error
    assert schedule("--pause", "nightly")[0] == 0
    assert [item.mode for item in kubeflow.recurring_runs.values()] == ["DISABLE", "DISABLE"]
    assert schedule("--delete", "nightly")[0] == 0
    assert kubeflow.recurring_runs == {}


@pytest.mark.parametrize("took_effect", [False, True], ids=["not_done", "done"])
@pytest.mark.parametrize("kind", ["status", "cut", "hang"])
@pytest.mark.parametrize("call", [("POST", "/recurringruns$"), ("DELETE", "/recurringruns/"), ("POST", ":enable$")])
def test_an_answer_that_is_lost_makes_no_second_schedule(put, kubeflow, call, kind, took_effect):
    put(NIGHTLY)
    kubeflow.faults = [Fault(*call, kind, status=503, seconds=0.8, took_effect=took_effect)]
    assert put(WEEKLY)[1] == "replaced"
    assert kubeflow.faults[0].times == 0
    assert only(kubeflow).trigger.cron_schedule.cron == WEEKLY.cron
    assert only(kubeflow).mode == "ENABLE"
    assert kubeflow.most_enabled == 1


@pytest.mark.parametrize("call", [("POST", "/recurringruns$"), ("DELETE", "/recurringruns/"), ("POST", ":enable$")])
def test_a_server_that_refuses_a_change_leaves_what_the_same_command_repairs(put, kubeflow, host, call):
    put(NIGHTLY)
    kubeflow.faults = [Fault(*call, "status", status=403)]
    with pytest.raises(KubeflowError, match="answered 403"), errors_explained(host):
        put(WEEKLY)
    assert kubeflow.most_enabled == 1
    put(WEEKLY)
    assert only(kubeflow).trigger.cron_schedule.cron == WEEKLY.cron
    assert only(kubeflow).mode == "ENABLE"
    assert kubeflow.most_enabled == 1


def race(put, timings):
    """All at once; what each got, or was told."""
    results = {}
    barrier = threading.Barrier(len(timings))

    def run(number, timing):
        barrier.wait()
        try:
            results[number] = put(timing)[1]
        except UserError as error:
            results[number] = error

    threads = [threading.Thread(target=run, args=item) for item in enumerate(timings)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_of_racing_commands_one_wins_and_the_others_are_told(put, kubeflow):
    for number in range(20):
        timings = [Timing(f"0 {number} {hour} * * *") for hour in (1, 2, 3)]
        results = race(put, timings)
        assert kubeflow.most_enabled == 1
        assert only(kubeflow).mode == "ENABLE"
        winner = [timing.cron for timing in timings].index(only(kubeflow).trigger.cron_schedule.cron)
        assert results[winner] in ("created", "replaced")
        told = [result for result in results.values() if isinstance(result, UserError)]
        assert all("another command replaced the schedule nightly at the same time" in str(error) for error in told)


def test_what_a_cut_replacement_left_does_not_keep_the_old_settings_from_coming_back(put, kubeflow, host):
    put(NIGHTLY)
    with pytest.raises(KilledError):
        put(WEEKLY, die_at(connect(host), 1, sent=True))
    put(NIGHTLY)
    assert only(kubeflow).trigger.cron_schedule.cron == NIGHTLY.cron
    assert only(kubeflow).mode == "ENABLE"
    assert kubeflow.most_enabled == 1


def test_the_same_command_racing_itself_leaves_one(put, kubeflow):
    for number in range(20):
        race(put, [Timing(f"0 {number} 3 * * *")] * 2)
        assert only(kubeflow).trigger.cron_schedule.cron == f"0 {number} 3 * * *"
        assert only(kubeflow).mode == "ENABLE"
        assert kubeflow.most_enabled == 1
