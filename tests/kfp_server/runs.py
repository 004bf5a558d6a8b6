"""What a look at a run finds: the Argo workflow, as its controller keeps it, and what the API server tells of it.

Nodes are named, numbered and nested as Argo does it for what Kubeflow Pipelines compiles, under the retry strategy of
its stock configuration: every node is a Retry with a node per attempt. The API server's tasks are made from the nodes
alone, by the rules of its converter: neither a pod's name nor an error is told of a task.
"""

import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import kfp_server_api

WORKFLOW = "matta-demo-x7k2p"
NAMESPACE = "kubeflow"
CREATED = datetime(2026, 3, 9, 2, 30, tzinfo=UTC)
_NEVER = datetime(1, 1, 1, tzinfo=UTC)  # what Go's time without a value is sent as
_STATES = {phase: phase.upper() for phase in ("Pending", "Running", "Succeeded", "Skipped", "Failed")} | {
    "Error": "FAILED",
    "Omitted": "RUNTIME_STATE_UNSPECIFIED",  # the API server knows no such phase
}
_IMPLEMENTATION = "system-container-impl"


@dataclass
class Look:
    """The run's state, its workflow, what its pods wrote (by pod), and the store of archived logs (by key)."""

    state: str
    workflow: dict[str, Any]
    pods: dict[str, str] = field(default_factory=dict)
    archive: dict[str, str] = field(default_factory=dict)
    tasks_of: dict[str, Any] | None = None  # a workflow whose tasks are told: those of the report before

    def __call__(self, run: Any) -> None:
        run.state = self.state
        run.run_details = kfp_server_api.V2beta1RunDetails(task_details=tasks(self.tasks_of or self.workflow, run))


Step = Callable[[Look, str], str]


def frame(state: str, *steps: Step, stale: "Look | None" = None) -> Look:
    """What a further look at the run finds. `stale`: tasks are told as that look found them, as between the two writes
    by which the API server takes in a workflow: the run's, then the tasks'."""
    phase = {"FAILED": "Failed", "SUCCEEDED": "Succeeded", "CANCELED": "Failed"}.get(state, "Running")
    repository = {"archiveLogs": True, "s3": {"bucket": "mlpipeline", "endpoint": "seaweedfs.kubeflow.svc:9000"}}
    workflow = {
        "metadata": {
            "name": WORKFLOW,
            "namespace": NAMESPACE,
            "creationTimestamp": _text(CREATED),
            "annotations": {"workflows.argoproj.io/pod-name-format": "v2"},
        },
        "status": {"phase": phase, "artifactRepositoryRef": {"artifactRepository": repository}, "nodes": {}},
    }
    look = Look(state, workflow, tasks_of=stale and stale.workflow)
    root = _dag(look, WORKFLOW, "entrypoint", phase)
    _child(look, root, _pod(look, f"{root}.root-driver", "system-dag-driver", "Succeeded"))
    inner = _dag(look, f"{root}.root", "root", phase)
    _child(look, root, inner.removesuffix("(0)"))
    for step in steps:
        _child(look, inner, step(look, inner))
    return look


def step(
    name: str,
    phase: str = "Succeeded",
    *,
    message: str = "",
    log: str = "",
    attempts: tuple[str, ...] = (),
    started: datetime = CREATED,
    pod: str = "kept",
) -> Step:
    """A step: a DAG whose executor is a pod. `attempts`: what earlier pods of it wrote, which failed; `pod`: "kept",
    "gone" (its log is archived alone) or "lost" (no log is left)."""

    def add(look: Look, within: str) -> str:
        _child(look, within, _pod(look, f"{within}.{name}-driver", "system-container-driver", "Succeeded"))
        if phase in ("Omitted", "Skipped"):
            return _node(look, f"{within}.{name}", "Skipped", "system-container-executor", phase, started)
        dag = _dag(look, f"{within}.{name}", "system-container-executor", phase, started)
        executor = f"{dag}.executor"
        _child(look, dag, _pod(look, executor, _IMPLEMENTATION, phase, message, log, started, attempts, pod))
        return dag.removesuffix("(0)")

    return add


def driver(name: str, phase: str, *, message: str = "", log: str = "") -> Step:
    """A step of which only the driver began."""
    return lambda look, within: _pod(look, f"{within}.{name}-driver", "system-container-driver", phase, message, log)


def loop(name: str, phase: str, *items: Step) -> Step:
    """A ParallelFor: `items` are steps, one for each turn."""

    def add(look: Look, within: str) -> str:
        dag = _dag(look, f"{within}.{name}", name, phase)
        group = _node(look, f"{dag}.iteration-iterations", "TaskGroup", "iteration", phase)
        _child(look, dag, group)
        for number, item in enumerate(items):
            turn = _dag(look, f"{group}({number}:{number})", "iteration", phase)
            _child(look, group, turn.removesuffix("(0)"))
            _child(look, turn, item(look, turn))
        return dag.removesuffix("(0)")

    return add


def node_id(name: str) -> str:
    """As Argo's Workflow.NodeID: FNV-1a of the name, 32 bits."""
    if name == WORKFLOW:
        return WORKFLOW
    number = 0x811C9DC5
    for byte in name.encode():
        number = (number ^ byte) * 0x01000193 % 2**32
    return f"{WORKFLOW}-{number}"


def pod_name(workflow: dict[str, Any], node: dict[str, Any]) -> str:
    """As Argo names the pod of a node, and as the API server finds that name again (RetrievePodName)."""
    if workflow["metadata"]["annotations"].get("workflows.argoproj.io/pod-name-format") == "v1":
        return node["id"]
    if node["name"] == workflow["metadata"]["name"]:
        return node["name"]
    return f"{workflow['metadata']['name']}-{node['templateName']}-{node['id'].rsplit('-', 1)[1]}"


def tasks(workflow: dict[str, Any], run: Any) -> list[Any]:
    """toModelTask and toApiPipelineTaskDetail of backend/src/apiserver/server/api_converter.go: a task per node, whose
    children are told by their nodes' ids, in the field called pod_name, and which does not tell its own."""
    return [
        kfp_server_api.V2beta1PipelineTaskDetail(
            run_id=run.run_id,
            task_id=str(uuid.uuid5(uuid.NAMESPACE_OID, node["id"])),
            display_name=node["displayName"],
            create_time=CREATED,
            start_time=_time(node["startedAt"]),
            end_time=_time(node["finishedAt"]),
            state=_STATES[node["phase"]],
            execution_id="0",
            state_history=[kfp_server_api.V2beta1RuntimeStatus(update_time=CREATED, state=_STATES[node["phase"]])],
            child_tasks=[kfp_server_api.PipelineTaskDetailChildTask(pod_name=child) for child in node["children"]],
        )
        for _, node in sorted(workflow["status"]["nodes"].items())
    ]


def _dag(look: Look, name: str, template: str, phase: str, started: datetime = CREATED) -> str:
    """The name of its one attempt."""
    for attempt in (name, f"{name}(0)"):
        _node(look, attempt, "Retry" if attempt == name else "DAG", template, phase, started)
    _child(look, name, f"{name}(0)")
    return f"{name}(0)"


def _pod(
    look: Look,
    name: str,
    template: str,
    phase: str,
    message: str = "",
    log: str = "",
    started: datetime = CREATED,
    earlier: tuple[str, ...] = (),
    kept: str = "kept",
) -> str:
    _node(look, name, "Retry", template, phase, started, message and f"No more retries left: {message}")
    for number, text in enumerate((*earlier, log)):
        attempt = f"{name}({number})"
        failed_before = number < len(earlier)
        _node(look, attempt, "Pod", template, "Failed" if failed_before else phase, started, message)
        _child(look, name, attempt)
        node = look.workflow["status"]["nodes"][node_id(attempt)]
        if phase == "Running" or kept == "lost":
            continue
        pod = pod_name(look.workflow, node)
        key = f"private-artifacts/{NAMESPACE}/{WORKFLOW}/{CREATED:%Y/%m/%d}/{pod}/main.log"
        node["outputs"] = {"artifacts": [{"name": "main-logs", "s3": {"key": key}}], "exitCode": "1"}
        look.archive[key] = text
        if kept == "kept":
            look.pods[pod] = text
    return name


def _node(
    look: Look, name: str, kind: str, template: str, phase: str, started: datetime = CREATED, message: str = ""
) -> str:
    look.workflow["status"]["nodes"][node_id(name)] = {
        "id": node_id(name),
        "name": name,
        # A turn of a loop and an attempt are displayed with their number, but without what they lie in.
        "displayName": re.split(r"\.(?![^(]*\))", name)[-1],
        "type": kind,
        "templateName": template,
        "phase": phase,
        "startedAt": _text(started),
        "finishedAt": None if phase in ("Running", "Pending") else _text(max(started, CREATED)),
        "children": [],
        **({"message": message} if message else {}),
    }
    return name


def _child(look: Look, parent: str, child: str) -> None:
    look.workflow["status"]["nodes"][node_id(parent)]["children"].append(node_id(child))


def _text(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _time(text: str | None) -> datetime:
    return _NEVER if text is None else datetime.fromisoformat(text)
