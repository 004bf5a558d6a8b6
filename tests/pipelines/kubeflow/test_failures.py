"""What submit --wait tells of a failed run: which step, why, the end of its log, and where the log is kept."""

import pytest
from kfp_server import Fault, KubeflowServer, driver, frame, loop, serving, step
from kfp_server.runs import WORKFLOW, node_id

from pipelines.kubeflow.failures import failures

pytestmark = pytest.mark.slow

LOG = "".join(f"line {number} [é]\n" for number in range(100))
EXECUTOR = f"{WORKFLOW}(0).root(0).train(0).executor"
STEPS = ["prepare-data", "train", "evaluate", "gate", "push"]


def pod(name):
    return f"{WORKFLOW}-system-container-impl-{node_id(name).rsplit('-', 1)[1]}"


@pytest.fixture(params=["api-server", "page"])
def kubeflow(request, impatient):
    """Reached as docs/cluster.md says: the API server within the cluster, else through Kubeflow's page."""
    return KubeflowServer(behind_page=request.param == "page")


def test_wait_ends_with_1_and_tells_what_failed_with_the_end_of_its_log(submit, kubeflow, host):
    failed = step("train", "Failed", message="Error (exit code 1)", log=LOG)
    kubeflow.frames = [frame("FAILED", step("prepare-data"), failed, step("gate", "Omitted"))]
    status, said, _ = submit("--wait")
    assert status == 1
    (run,) = kubeflow.runs.values()
    name = pod(f"{EXECUTOR}(0)")
    assert f"step train failed: Error (exit code 1)\n  pod {name}\n    line 60 [é]\n" in said
    assert "    line 99 [é]\n" in said
    assert "line 59" not in said
    key = f"private-artifacts/kubeflow/{WORKFLOW}/2026/03/09/{name}/main.log"
    assert f"  its log is kept in s3://mlpipeline/{key} at seaweedfs.kubeflow.svc:9000\n" in said
    assert said.count("failed") == 1
    assert f"kubectl logs -n kubeflow -l pipeline/runid={run.run_id} -c main --tail=-1 --prefix\n" in said
    assert f"or in the browser: {host}/#/runs/details/{run.run_id}\n" in said


def test_the_log_of_a_pod_that_is_gone_comes_from_the_archive(submit, kubeflow):
    kubeflow.frames = [frame("FAILED", step("train", "Failed", log="the disk is full\n", pod="gone"))]
    _, said, _ = submit("--wait")
    assert "    the disk is full\n" in said


def test_a_step_that_was_tried_again_is_told_by_its_last_attempt(submit, kubeflow):
    kubeflow.frames = [frame("FAILED", step("train", "Failed", attempts=("first\n", "second\n"), log="third\n"))]
    _, said, _ = submit("--wait")
    assert f"  pod {pod(f'{EXECUTOR}(2)')}\n    third\n" in said
    assert "first" not in said
    assert said.count("step train failed") == 1


def test_an_attempt_that_failed_before_one_that_succeeded_is_no_failure(submit, kubeflow):
    recovered = step("prepare-data", "Succeeded", attempts=("lost node\n",), log="well\n")
    kubeflow.frames = [frame("FAILED", recovered, step("train", "Failed", log="broken\n"))]
    _, said, _ = submit("--wait")
    assert "step train failed" in said
    assert "step prepare-data failed" not in said
    assert "lost node" not in said


def test_a_killed_step_is_told_by_why_it_was_killed(submit, kubeflow):
    kubeflow.frames = [frame("FAILED", step("train", "Failed", message="OOMKilled (exit code 137)", log=""))]
    _, said, _ = submit("--wait")
    assert "step train failed: OOMKilled (exit code 137)\n" in said


def test_a_driver_that_failed_is_told_too(submit, kubeflow):
    failed = driver("gate", "Failed", message="Error (exit code 1)", log="configmaps is forbidden\n")
    kubeflow.frames = [frame("FAILED", step("prepare-data"), failed)]
    _, said, _ = submit("--wait")
    assert "step gate-driver failed: Error (exit code 1)\n" in said
    assert "    configmaps is forbidden\n" in said


def test_every_turn_of_a_loop_that_failed_is_told(submit, kubeflow):
    turns = [step("evaluate", "Failed", log="s is broken\n"), step("evaluate", "Failed", log="m is broken\n")]
    kubeflow.frames = [frame("FAILED", loop("evaluate-models", "Failed", *turns))]
    _, said, _ = submit("--wait")
    assert said.count("step evaluate failed") == 2
    assert "    s is broken\n" in said
    assert "    m is broken\n" in said


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        ({}, ""),
        ({"kind": "status", "status": 403}, "answered 403 Forbidden"),
        ({"kind": "page", "status": 200}, "perhaps a login page"),
    ],
    ids=["lost", "forbidden", "page"],
)
def test_a_log_that_is_not_to_be_had_is_told_beside_how_to_get_it(submit, kubeflow, fault, why):
    kubeflow.frames = [frame("FAILED", step("train", "Failed", message="Pod was evicted", pod="lost"))]
    kubeflow.faults = [Fault("GET", "/logs?$", **fault)] if fault else []
    status, said, _ = submit("--wait")
    assert status == 1
    assert "step train failed: Pod was evicted\n" in said
    (line,) = [line for line in said.splitlines() if "its log is not to be had here: " in line]
    assert why in line
    assert "error_message" not in line
    assert "kubectl logs -n kubeflow" in said


def test_a_pipeline_server_before_2_17_tells_logs_while_there_are_pods(submit, kubeflow):
    kubeflow.finds_archived_logs = False
    kubeflow.frames = [frame("FAILED", step("train", "Failed", log="the disk is full\n"))]
    _, said, _ = submit("--wait")
    assert "    the disk is full\n" in said


def test_without_the_workflow_a_log_is_found_by_the_id_of_the_steps_node(submit, impatient):
    """v1beta1 may go: what v2beta1 tells, the ids of a task's children, is enough for the API server."""
    kubeflow = KubeflowServer()
    kubeflow.frames = [frame("FAILED", step("train", "Failed", log="the disk is full\n"))]
    kubeflow.faults = [Fault("GET", "/apis/v1beta1/", "status", status=404)]
    with serving(kubeflow) as address:
        status, said, _ = submit("--wait", "--host", address)
    assert status == 1
    assert "why is not to be had here: " in said
    assert "step train failed\n" in said
    assert "    the disk is full\n" in said


def test_a_server_tells_of_a_task_neither_its_pod_nor_an_error(kubeflow, submit):
    """The stand-in's own rule, so that no client here is tried against more than a real server sends."""
    kubeflow.frames = [frame("FAILED", step("train", "Failed", message="Error (exit code 1)"))]
    submit("--wait")
    (run,) = kubeflow.runs.values()
    told = run.run_details.task_details
    assert all(task.pod_name is None and task.error is None and task.parent_task_id is None for task in told)
    (train,) = [task for task in told if task.display_name == "train"]
    assert [child.pod_name for child in train.child_tasks] == [node_id(f"{WORKFLOW}(0).root(0).train(0)")]


def test_node_ids_are_argos():
    """As in the workflows that its own tests hold: the number is FNV-1a of the node's name, whatever the workflow's."""
    names = {"retry-with-dags.success1(0)": 731586981, "retry-with-dags.sub-dag1.fail": 1890550676}
    assert {name: int(node_id(name).rsplit("-", 1)[1]) for name in names} == names


def workflow(*nodes, name="run"):
    made = {
        f"run-{number}": {"id": f"run-{number}", "type": "Pod", "templateName": "impl", **node}
        for number, node in enumerate(nodes)
    }
    return {"metadata": {"name": name}, "status": {"nodes": made}}


def test_what_failed_before_it_had_a_pod_is_told_without_one():
    nodes = (
        {"name": "run", "type": "DAG", "phase": "Error"},
        {"name": "run.train", "type": "Skipped", "phase": "Error", "message": "failed to  evaluate\nexpression"},
    )
    (found,) = failures(workflow(*nodes), STEPS)
    assert (found.step, found.why, found.pod, found.archived) == ("train", "failed to evaluate expression", "", "")


def test_failures_are_told_in_the_order_of_the_steps_and_once_per_cause():
    nodes = (
        {"name": "run", "type": "DAG", "phase": "Failed"},
        {"name": "run.push.executor", "phase": "Failed"},
        {"name": "run.push", "type": "DAG", "phase": "Failed"},
        {"name": "run.gate-driver", "phase": "Error"},
        {"name": "run.train.executor", "phase": "Failed"},
        {"name": "run.train", "type": "DAG", "phase": "Failed"},
        {"name": "run.train-2.executor", "phase": "Succeeded"},
    )
    assert [one.step for one in failures(workflow(*nodes), STEPS)] == ["train", "gate-driver", "push"]


def test_ten_attempts_are_counted_as_numbers():
    nodes = [{"name": f"run.train.executor({number})", "phase": "Failed"} for number in range(11)]
    (found,) = failures(workflow({"name": "run", "phase": "Failed", "type": "DAG"}, *nodes), STEPS)
    assert found.pod == "run-impl-11"


def test_pods_of_the_older_naming_are_called_as_their_nodes():
    made = workflow({"name": "run.train.executor", "phase": "Failed"})
    made["metadata"]["annotations"] = {"workflows.argoproj.io/pod-name-format": "v1"}
    (found,) = failures(made, STEPS)
    assert found.pod == "run-0"


def test_an_archive_in_a_bucket_of_google_is_told_as_such():
    log = {"name": "main-logs", "gcs": {"key": "logs/main.log"}}
    made = workflow({"name": "run.train.executor", "phase": "Failed", "outputs": {"artifacts": [log]}})
    made["status"]["artifactRepositoryRef"] = {"artifactRepository": {"gcs": {"bucket": "kept"}}}
    (found,) = failures(made, STEPS)
    assert found.archived == "gs://kept/logs/main.log"
