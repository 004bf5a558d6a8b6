"""A server that is too old for our pipelines is refused before anything is uploaded; one that is not, is not."""

import pytest

from pipelines.kubeflow.client import connect
from pipelines.kubeflow.errors import KubeflowError
from pipelines.kubeflow.release import check_release

# What the API server's sources answer, release by release, and what else may be found at an address.
NEW_ENOUGH = [
    {"tag_name": "2.17.0", "pipeline_store": "database"},
    {"tag_name": "2.16.1", "pipeline_store": "kubernetes"},
    {"tag_name": "unknown", "pipeline_store": "database"},  # the releases 2.14 and 2.15
    {"tag_name": "master", "pipeline_store": "database"},
    {"tag_name": "", "pipeline_store": "database"},  # an image that was built with an empty name
    {"tag_name": "1.0-dev", "pipeline_store": "database"},
    {"pipeline_store": "database"},
    {"tag_name": "v2.18.0-rc.1"},  # should a later release keep its store to itself
    {"tag_name": "3.0.0"},
]
TOO_OLD = [
    ({"tag_name": "2.0.5"}, "is Kubeflow Pipelines 2.0.5; MatTA needs 2.14 or later: "),
    ({"tag_name": "2.4.1"}, "is Kubeflow Pipelines 2.4.1; MatTA needs 2.14 or later: "),
    ({"tag_name": "unknown"}, "says neither its release (tag_name 'unknown') nor its pipeline_store"),  # release 2.5
    ({"tag_name": ""}, "says neither its release (tag_name '') nor its pipeline_store"),
    ({"tag_name": "master"}, "says neither its release (tag_name 'master') nor its pipeline_store"),
    ({"tag_name": None, "pipeline_store": ""}, "says neither its release (tag_name None)"),
    ({"status": "UP"}, "says neither its release (tag_name None)"),  # another kind of server
]


@pytest.mark.parametrize("health", NEW_ENOUGH, ids=str)
def test_a_server_that_can_run_us_is_taken(kubeflow, host, health):
    kubeflow.health = health
    check_release(connect(host))


@pytest.mark.parametrize(("health", "message"), TOO_OLD, ids=str)
def test_an_older_server_is_refused_with_what_it_lacks(kubeflow, host, health, message):
    kubeflow.health = health
    with pytest.raises(KubeflowError) as told:
        check_release(connect(host))
    assert message in str(told.value)
    assert "upgrade it, or give another --host" in str(told.value)
    assert told.value.exit_status == 2


@pytest.mark.parametrize("name", ["submit", "schedule"])
def test_nothing_is_uploaded_to_an_older_server(kubeflow, host, submit, schedule, name):
    kubeflow.health = {"commit_sha": "0", "tag_name": "2.4.1"}
    scheduling = ("--name", "nightly", "--cron", "0 3 * * *", "--cluster", "pipelines/clusters/cpu.yaml")
    status, out, error = submit() if name == "submit" else schedule(*scheduling)
    assert (status, out) == (2, "")
    assert error.startswith(f"error: {host} is Kubeflow Pipelines 2.4.1; MatTA needs 2.14 or later")
    assert error.count("\n") == 1
    assert kubeflow.calls("POST", "") == 0


def test_what_was_scheduled_on_an_older_server_can_still_be_listed_and_paused(kubeflow, schedule):
    assert schedule("--name", "a", "--cron", "0 3 * * *", "--cluster", "pipelines/clusters/cpu.yaml")[0] == 0
    kubeflow.health = {"tag_name": "2.4.1"}
    assert schedule("--list")[0] == 0
    assert schedule("--pause", "a")[0] == 0


def test_the_server_is_asked_once(kubeflow, host):
    client = connect(host)
    check_release(client)
    assert kubeflow.calls("GET", "/healthz$") == 1


@pytest.mark.parametrize("answer", ["[]", '"up"', "1"])
def test_an_answer_that_is_no_mapping_is_told(kubeflow, host, monkeypatch, answer):
    monkeypatch.setattr(type(kubeflow), "_get_healthz", lambda *_: answer)
    with pytest.raises(KubeflowError, match=r"answered .*: this is no Kubeflow Pipelines, check --host"):
        connect(host)
