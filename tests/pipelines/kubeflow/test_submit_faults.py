"""submit against a server that fails: refuses, stalls, cuts the connection, answers late."""

import time
from datetime import timedelta
from pathlib import Path

import kfp_server_api
import pytest
from kfp_server import Fault

import pipelines.kubeflow.follow
import pipelines.kubeflow.submit
from pipelines.cluster import load_cluster
from pipelines.kubeflow.client import connect
from pipelines.kubeflow.submit import start_run, upload

PROFILE = Path(pipelines.__file__).parent / "clusters" / "cpu.yaml"


LOST = [
    pytest.param("status", {"status": 500}, id="500"),
    pytest.param("status", {"status": 503, "headers": {"Retry-After": "1"}}, id="503"),
    pytest.param("status", {"status": 429, "headers": {"Retry-After": "1"}}, id="429"),
    pytest.param("cut", {}, id="cut"),
    pytest.param("hang", {"seconds": 1.0}, id="hang"),
]
CREATIONS = ["/pipelines$", "/upload_version$", "/experiments$", "/runs$"]


@pytest.mark.parametrize("took_effect", [False, True], ids=["not_done", "done"])
@pytest.mark.parametrize("path", CREATIONS)
@pytest.mark.parametrize(("kind", "more"), LOST)
def test_what_got_no_answer_is_looked_up_before_it_is_created_again(
    kubeflow, host, package, kind, more, path, took_effect
):
    kubeflow.faults = [Fault("POST", path, kind, took_effect=took_effect, **more)]
    client = connect(host)
    run = start_run(
        client, upload(client, package), name="r", experiment="e", parameters={}, cluster=load_cluster(PROFILE)
    )
    assert kubeflow.faults[0].times == 0
    for items in (kubeflow.pipelines, kubeflow.versions, kubeflow.experiments, kubeflow.runs):
        assert len(items) == 1
    assert run.run_id in kubeflow.runs
    assert kubeflow.calls("POST", path) == (1 if took_effect else 2)


@pytest.mark.parametrize(("kind", "more"), LOST)
def test_reads_are_repeated_and_a_retry_after_is_waited_for(kubeflow, host, impatient, kind, more):
    kubeflow.faults = [Fault("GET", "/experiments$", kind, **more)]
    client = connect(host)
    started = time.monotonic()
    assert client.list_experiments().experiments is None
    assert kubeflow.calls("GET", "/experiments$") == 2
    if more.get("headers"):
        assert time.monotonic() - started >= impatient.longest_wait_seconds


def test_a_creation_that_was_merely_slow_leaves_one_run(kubeflow, host, package):
    """The first request is carried out after we have looked for it: the second one's run is ended."""
    client = connect(host)
    version = upload(client, package)
    kubeflow.faults = [Fault("POST", "/runs$", "cut")]

    def first_one_arrives(method, path):
        if method == "POST" and path.endswith("/runs") and len(kubeflow.runs) == 1:
            (second,) = kubeflow.runs.values()
            late = kfp_server_api.V2beta1Run(**{name: getattr(second, name) for name in second.openapi_types})
            late.run_id, late.created_at = "late", second.created_at - timedelta(seconds=1)
            kubeflow.runs["late"] = late

    kubeflow.before_answer = first_one_arrives
    run = start_run(client, version, name="r", experiment="e", parameters={}, cluster=load_cluster(PROFILE))
    assert run.run_id == "late"
    assert [item.state for item in kubeflow.runs.values()] == ["CANCELING", "PENDING"]


def test_two_submitters_at_once_share_the_pipeline_and_the_version(kubeflow, host, package):
    """What the other one created between our look and our creation answers 409, and is taken."""
    for path in ("/pipelines$", "/upload_version$"):
        kubeflow.faults.append(Fault("POST", path, "status", status=409, took_effect=True))
    version = upload(connect(host), package)
    assert version.version_id in kubeflow.versions
    assert len(kubeflow.pipelines) == len(kubeflow.versions) == 1


@pytest.mark.parametrize("path", CREATIONS)
def test_a_server_that_never_answers_a_creation_ends_it_after_the_tries(kubeflow, submit, path):
    kubeflow.faults = [Fault("POST", path, "cut", times=10_000)]
    status, _, error = submit()
    assert status == 5
    assert "gave no answer" in error
    assert kubeflow.calls("POST", path) == 3


@pytest.mark.parametrize(
    ("fault", "expected", "message"),
    [
        ({"status": 400}, 2, "answered 400 Bad Request: injected; the request was refused"),
        ({"status": 401}, 2, "answered 401 Unauthorized: injected; give a valid token by --token-file"),
        ({"status": 403}, 2, "answered 403 Forbidden: injected; ask for the role"),
        ({"status": 404}, 2, "answered 404 Not Found: injected; it is gone, or this address is no Kubeflow"),
        ({"status": 409}, 2, "answered 409 Conflict: injected; it exists already"),
        ({"status": 302, "headers": {"Location": "/login"}}, 2, "answered 302 Found: injected; the address leads"),
        ({"status": 429}, 5, "answered 429 Too Many Requests: injected; the server is asked too often"),
        ({"status": 500}, 5, "answered 500 Internal Server Error: injected; the server is in trouble"),
        ({"kind": "page", "status": 200}, 2, "answered with something that is not JSON, perhaps a login page"),
        ({"kind": "hang", "seconds": 0.8}, 5, "gave no answer (ReadTimeoutError"),
    ],
)
@pytest.mark.parametrize("call", [("GET", "/pipelines$"), ("POST", "/runs$")], ids=["read", "creation"])
def test_what_the_server_refuses_is_one_line_with_host_status_and_remedy(
    submit, kubeflow, host, call, fault, expected, message
):
    kubeflow.faults = [Fault(*call, **{"kind": "status", "times": 10_000, **fault})]
    status, _, error = submit()
    assert status == expected
    assert error.startswith(f"error: {host}")
    assert message in error
    assert not kubeflow.runs


def test_an_address_where_nobody_listens(command, impatient):
    status, _, error = command("submit", "--host", "http://127.0.0.1:9", "--cluster", PROFILE)
    assert status == 5
    assert "http://127.0.0.1:9 gave no answer (NewConnectionError" in error
