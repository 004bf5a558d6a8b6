"""schedule, with the real kfp.Client: one recurring run per name."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from kfp_server import KubeflowServer, serving

import pipelines.kubeflow.submit
from pipelines.kubeflow.schedule import Timing, read_time

PROFILE = Path(pipelines.__file__).parent / "clusters" / "cpu.yaml"
NIGHTLY, WEEKLY = Timing("0 0 3 * * *"), Timing("0 0 3 * * 0")


def only(kubeflow):
    (item,) = kubeflow.recurring_runs.values()
    return item


def test_the_same_command_twice_leaves_one_schedule_unchanged(schedule, kubeflow, host):
    arguments = ("--name", "nightly", "--cron", "0 3 * * *", "--cluster", PROFILE)
    status, said, _ = schedule(*arguments)
    assert status == 0
    assert "schedule  nightly: created; 0 0 3 * * *" in said
    first = only(kubeflow)
    assert first.mode == "ENABLE"
    assert f"link      {host}/#/recurringrun/details/{first.recurring_run_id}" in said
    status, said, _ = schedule(*arguments)
    assert status == 0
    assert "nightly: unchanged" in said
    assert only(kubeflow) is first
    assert kubeflow.calls("POST", "/recurringruns$") == 1


def test_another_time_replaces_the_schedule(schedule, kubeflow):
    for cron in ("0 3 * * *", "0 4 * * *"):
        status, said, _ = schedule("--name", "nightly", "--cron", cron, "--cluster", PROFILE)
        assert status == 0
    assert "nightly: replaced" in said
    assert only(kubeflow).trigger.cron_schedule.cron == "0 0 4 * * *"
    assert only(kubeflow).mode == "ENABLE"
    assert kubeflow.most_enabled == 1


def test_schedules_of_other_names_are_left_alone(schedule, kubeflow):
    for name in ("a", "b", "c"):
        assert schedule("--name", name, "--cron", "0 3 * * *", "--cluster", PROFILE)[0] == 0
    assert sorted(item.display_name for item in kubeflow.recurring_runs.values()) == ["a", "b", "c"]


def test_what_is_asked_for_is_what_kubeflow_gets(schedule, kubeflow):
    status, _, error = schedule(
        *("--name", "n", "--cron", "0 3 * * MON", "--cluster", PROFILE, "--start", "2030-01-01T03:00"),
        *("--end", "2031-01-01T03:00+02:00", "--max-concurrency", "3", "--catchup", "--experiment", "e"),
    )
    assert status == 0, error
    item = only(kubeflow)
    assert item.trigger.cron_schedule.cron == "0 0 3 * * MON"
    assert item.trigger.cron_schedule.start_time == datetime(2030, 1, 1, 3, tzinfo=UTC)
    assert item.trigger.cron_schedule.end_time == datetime(2031, 1, 1, 1, tzinfo=UTC)
    assert (item.max_concurrency, item.no_catchup, item.service_account) == ("3", False, "pipeline-runner")
    assert item.pipeline_version_reference.pipeline_version_id in kubeflow.versions
    assert item.pipeline_version_reference.pipeline_id in kubeflow.pipelines
    assert [experiment.display_name for experiment in kubeflow.experiments.values()] == ["e"]


def test_missed_runs_are_not_made_up_for_and_one_runs_at_a_time_by_default(schedule, kubeflow):
    assert schedule("--name", "n", "--cron", "0 3 * * *", "--cluster", PROFILE)[0] == 0
    assert (only(kubeflow).no_catchup, only(kubeflow).max_concurrency) == (True, "1")


def test_pause_resume_list_and_delete(schedule, kubeflow):
    for name in ("a", "b", "c"):  # more than the server puts on a page
        schedule("--name", name, "--cron", "0 3 * * *", "--cluster", PROFILE)
    assert schedule("--pause", "b")[:2] == (0, "paused b\n")
    modes = {item.display_name: item.mode for item in kubeflow.recurring_runs.values()}
    assert modes == {"a": "ENABLE", "b": "DISABLE", "c": "ENABLE"}
    status, said, _ = schedule("--list")
    assert status == 0
    rows = [line.split("│")[1:4] for line in said.splitlines() if line.startswith("│")]
    assert [[cell.strip() for cell in row[:2]] for row in rows] == [["a", "enabled"], ["b", "paused"], ["c", "enabled"]]
    assert schedule("--resume", "b")[:2] == (0, "resumed b\n")
    assert {item.mode for item in kubeflow.recurring_runs.values()} == {"ENABLE"}
    assert schedule("--delete", "b")[:2] == (0, "deleted b\n")
    assert [item.display_name for item in kubeflow.recurring_runs.values()] == ["a", "c"]


def test_a_paused_schedule_is_enabled_by_its_own_command(schedule, kubeflow):
    arguments = ("--name", "nightly", "--cron", "0 3 * * *", "--cluster", PROFILE)
    schedule(*arguments)
    schedule("--pause", "nightly")
    assert "nightly: enabled" in schedule(*arguments)[1]
    assert only(kubeflow).mode == "ENABLE"


@pytest.mark.parametrize("option", ["--pause", "--resume", "--delete"])
def test_a_name_that_is_not_there_is_told_with_those_that_are(schedule, option):
    schedule("--name", "nightly", "--cron", "0 3 * * *", "--cluster", PROFILE)
    status, _, error = schedule(option, "nightl")
    assert status == 2
    assert "there is no schedule named 'nightl'; there are: nightly" in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--cluster", PROFILE), "--cron is missing"),
        (("--cron", "0 3 * * *"), "--cluster is missing"),
        (("--cron", "0 3 * *", "--cluster", PROFILE), "--cron must have five fields"),
        (("--cron", "0 3 * * *", "--cluster", PROFILE, "--max-concurrency", "11"), "must be from 1 to 10, got 11"),
        (("--cron", "0 3 * * *", "--cluster", PROFILE, "--start", "tomorrow"), "a time must look like"),
        (("--cron", "0 3 * * *", "--cluster", PROFILE, "--end", "2020-01-01"), "--end must lie in the future"),
        (
            ("--cron", "0 3 * * *", "--cluster", PROFILE, "--start", "2031-01-01", "--end", "2030-01-01"),
            "--end must come after --start",
        ),
    ],
)
def test_a_mistake_is_told_before_anything_is_sent(schedule, kubeflow, arguments, message):
    status, _, error = schedule("--name", "n", *arguments)
    assert status == 2
    assert message in error
    assert kubeflow.requests == []


def test_a_time_without_an_offset_is_utc():
    assert read_time("2026-12-01T03:00") == datetime(2026, 12, 1, 3, tzinfo=UTC)
    assert read_time("2026-12-01T03:00+01:00") == datetime(2026, 12, 1, 2, tzinfo=UTC)


def test_in_a_namespace_of_several_only_its_own_schedules_count(impatient, command, package, monkeypatch):
    monkeypatch.setattr(pipelines.kubeflow.submit, "make_package", lambda *_: package)
    server = KubeflowServer(multi_user=True)
    with serving(server) as host:
        for namespace in ("ada", "bob"):
            status, _, error = command(
                *("schedule", "--host", host, "--name", "nightly", "--cron", "0 3 * * *", "--cluster", PROFILE),
                *("--namespace", namespace),
            )
            assert status == 0, error
        assert len(server.recurring_runs) == 2
        assert command("schedule", "--host", host, "--namespace", "ada", "--delete", "nightly")[0] == 0
        assert server._namespace(only(server)) == "bob"


def test_an_end_that_is_near_is_taken():
    assert Timing("0 0 3 * * *", end=datetime.now(UTC) + timedelta(minutes=1)).end
