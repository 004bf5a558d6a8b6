"""A stand-in for a cluster with Kubeflow Trainer, on loopback: the calls that a TrainJob's launch makes, and no others.

It takes calls only with the token of its kubeconfig. As Kubernetes does with a custom resource, it drops what its
Trainer does not know of a TrainJob, by Kubeflow's typed models, or refuses it where the call asks for that.
What happens to a job is a list of moves, one for each time that the job is asked for.
"""

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from kubeflow_trainer_api.models import TrainerV1alpha1TrainJob

NAMESPACE = "team"
TOKEN = "the-token"
JOBS = f"/apis/trainer.kubeflow.org/v1alpha1/namespaces/{NAMESPACE}/trainjobs"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _is_set(query: dict[str, str], name: str) -> bool:
    """As Kubernetes reads it: the Python client sends True."""
    return query.get(name, "false").lower() not in ("false", "0")


class Node:
    """A node's pod: one container, started again where `fails(…, restarts=True)`."""

    def __init__(self, job: str, rank: int) -> None:
        self.name, self.job, self.rank = f"{job}-node-0-{rank}-x7k2p", job, rank
        self.phase, self.state, self.last_state = "Pending", {"waiting": {"reason": "ContainerCreating"}}, {}
        self.conditions: list[dict] = []
        self.lines: list[tuple[float, str]] = []
        self.previous_lines: list[tuple[float, str]] = []
        self.created, self.starts = now(), 0

    def runs(self, *lines: str) -> None:
        self.phase, self.conditions, self.starts = "Running", [], self.starts + 1
        self.state = {"running": {"startedAt": now()}}
        self.says(*lines)

    def says(self, *lines: str) -> None:
        self.lines += [(time.time(), line) for line in lines]

    def cannot_be_placed(self, message: str) -> None:
        self.conditions = [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}]

    def waits(self, reason: str, message: str) -> None:
        self.state = {"waiting": {"reason": reason, "message": message}}

    def ends(self, exit_code: int, reason: str = "Error", *, at: str | None = None, restarts: bool = False) -> None:
        ended = {"exitCode": exit_code, "reason": reason, "finishedAt": at or now()}
        ended = {"terminated": ended | {"containerID": f"containerd://{self.rank}-{self.starts}"}}
        self.phase, self.state = "Succeeded" if exit_code == 0 else "Failed", ended
        if restarts:
            self.last_state, self.previous_lines, self.lines = ended, self.lines, []
            self.runs()

    def to_dict(self) -> dict:
        container = {"name": "node", "state": self.state, "lastState": self.last_state, "ready": False}
        container |= {"image": "i", "imageID": "i", "restartCount": self.starts}
        labels = {
            "jobset.sigs.k8s.io/jobset-name": self.job,
            "jobset.sigs.k8s.io/replicatedjob-name": "node",
            "batch.kubernetes.io/job-completion-index": str(self.rank),
        }
        return {
            "metadata": {"name": self.name, "labels": labels, "creationTimestamp": self.created},
            "spec": {"containers": [{"name": "node"}]},
            "status": {"phase": self.phase, "conditions": self.conditions, "containerStatuses": [container]},
        }

    def log(self, query: dict[str, str]) -> str:
        lines = self.previous_lines if _is_set(query, "previous") else self.lines
        if "sinceSeconds" in query:
            lines = [line for line in lines if line[0] >= time.time() - int(query["sinceSeconds"])]
        if "tailLines" in query:
            lines = lines[-int(query["tailLines"]) :]
        if _is_set(query, "timestamps"):
            return "".join(f"{datetime.fromtimestamp(at, UTC):%Y-%m-%dT%H:%M:%S.%f}000Z {text}\n" for at, text in lines)
        return "".join(f"{text}\n" for _, text in lines)


class Cluster(ThreadingHTTPServer):
    """`jobs` by name, `nodes` of the newest; `moves` still to come; `created` and `deleted` in order.

    `faults`: (verb, resource) and what happens instead of an answer, once each: a status, "cut" (the connection ends
    within the answer) or "lost" (the call is carried out, and the connection ends before the answer).
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.jobs: dict[str, dict] = {}
        self.nodes: list[Node] = []
        self.moves: list[Callable[[Cluster], None]] = []
        self.faults: list[tuple[tuple[str, str], int | str]] = []
        self.calls: list[tuple[str, str]] = []
        self.created: list[dict] = []
        self.deleted: list[str] = []
        self.refusal = ""  # of an admission webhook
        self.unknown_to_trainer: set[str] = set()  # fields of a specification that an older release does not have
        self.deletion_takes = 0  # so many looks at the job
        self.idle_looks: int | None = 100  # after the last move
        self.lock = threading.RLock()

    def kubeconfig(self, folder: Path) -> Path:
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "here",
            "clusters": [{"name": "here", "cluster": {"server": f"http://127.0.0.1:{self.server_port}"}}],
            "users": [{"name": "step", "user": {"token": TOKEN}}],
            "contexts": [{"name": "here", "context": {"cluster": "here", "user": "step", "namespace": NAMESPACE}}],
        }
        path = folder / "kubeconfig"
        path.write_text(json.dumps(config))
        return path

    def add_job(self, manifest: dict, **metadata: str) -> None:
        body = json.loads(json.dumps(manifest))
        body["metadata"] |= {
            "namespace": NAMESPACE,
            "creationTimestamp": now(),
            "uid": str(len(self.created)),
        } | metadata
        # What the API server fills in.
        body["spec"] |= {"suspend": False, "managedBy": "trainer.kubeflow.org/trainjob-controller"}
        self.jobs[body["metadata"]["name"]] = body
        self.nodes = [Node(body["metadata"]["name"], rank) for rank in range(body["spec"]["trainer"]["numNodes"])]

    def ends(self, kind: str, reason: str = "", message: str = "") -> None:
        """Every job gets the condition."""
        for job in self.jobs.values():
            condition = {"type": kind, "status": "True", "reason": reason, "message": message}
            job["status"] = {"conditions": [condition | {"lastTransitionTime": now()}]}

    def answer(self, verb: str, name: str, query: dict[str, str], body: dict | None) -> tuple[int, dict | str]:
        with self.lock:
            return getattr(self, f"_{verb}")(name, query, body)

    def _create(self, _name: str, query: dict, body: dict) -> tuple[int, dict]:
        known = TrainerV1alpha1TrainJob.from_dict(body).to_dict()
        known["spec"] = {name: value for name, value in known["spec"].items() if name not in self.unknown_to_trainer}
        if known != body and query.get("fieldValidation") == "Strict":
            names = ", ".join(
                f'unknown field "spec.{name}"' for name in sorted(body["spec"].keys() - known["spec"].keys())
            )
            return _status(
                400, f'TrainJob in version "v1alpha1" cannot be handled as a TrainJob: strict decoding error: {names}'
            )
        body = known
        if self.refusal:
            return _status(403, f'admission webhook "validator.trainjob" denied the request: {self.refusal}')
        if any(variable["name"].startswith("PET_") for variable in body["spec"]["trainer"].get("env", [])):
            return _status(403, "denied the request: must not have reserved envs")
        name = body["metadata"]["name"]
        if name in self.jobs:
            return _status(409, f'trainjobs "{name}" already exists')
        self.created.append(body)
        self.add_job(body)
        return 201, self.jobs[name]

    def _get(self, name: str, _query: dict, _body: None) -> tuple[int, dict]:
        if self.jobs.get(name, {}).get("metadata", {}).get("deletionTimestamp"):
            if self.deletion_takes:
                self.deletion_takes -= 1
            else:
                del self.jobs[name]
        elif name in self.jobs and self.moves:
            self.moves.pop(0)(self)
        elif name in self.jobs and (idle := self.idle_looks) is not None:
            self.idle_looks = idle - 1
            if idle == 0:
                self.ends("Failed", "NoMoreMoves", "the test's moves are over, and the step still waits")
        return (200, self.jobs[name]) if name in self.jobs else _status(404, f'trainjobs "{name}" not found')

    def _patch(self, name: str, _query: dict, body: dict) -> tuple[int, dict]:
        self.jobs[name]["metadata"] |= body["metadata"]
        TrainerV1alpha1TrainJob.from_dict(self.jobs[name])
        return 200, self.jobs[name]

    def _delete(self, name: str, _query: dict, body: dict) -> tuple[int, dict]:
        if name not in self.jobs:
            return _status(404, f'trainjobs "{name}" not found')
        if body["preconditions"]["uid"] != self.jobs[name]["metadata"]["uid"]:
            return _status(409, "the UID in the precondition does not match the UID in record")
        assert body["propagationPolicy"] == "Foreground"  # the query's is not looked at where there is a body
        self.deleted.append(name)
        self.jobs[name]["metadata"]["deletionTimestamp"] = now()
        return 200, self.jobs[name]

    def _list(self, _name: str, query: dict, _body: None) -> tuple[int, dict]:
        wanted = dict(part.split("=") for part in query["labelSelector"].split(","))
        pods = [node.to_dict() for node in self.nodes]
        pods = [pod for pod in pods if wanted.items() <= pod["metadata"]["labels"].items()]
        return 200, {"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": pods}

    def _log(self, name: str, query: dict, _body: None) -> tuple[int, dict | str]:
        node = next((node for node in self.nodes if node.name == name), None)
        if node is None:
            return _status(404, f'pods "{name}" not found')
        if "waiting" in node.state and not _is_set(query, "previous"):
            return _status(400, f'container "node" in pod "{name}" is waiting to start')
        return 200, node.log(query)


def _status(code: int, message: str) -> tuple[int, dict]:
    return code, {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "code": code}


class _Handler(BaseHTTPRequestHandler):
    server: Cluster

    def log_message(self, *_arguments: object) -> None:
        pass

    def _serve(self) -> None:
        url = urlsplit(self.path)
        length = int(self.headers.get("Content-Length", 0))
        body = json.loads(self.rfile.read(length)) if length else None
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        verb, resource, name = self._call(url.path)
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._send(*_status(401, "Unauthorized"))
        self.server.calls.append((verb, resource))
        if resource.startswith("/"):
            return self._send(*_status(403, f"the step may not {verb} {resource}"))
        fault = next((each for each in self.server.faults if each[0] == (verb, resource)), None)
        if fault:
            self.server.faults.remove(fault)
            if isinstance(fault[1], int):
                return self._send(*_status(fault[1], "as the test wants it"))
        answer = self.server.answer("log" if resource == "pods/log" else verb, name, query, body)
        return self._send(*answer, fault=fault[1] if fault else None)

    def _call(self, path: str) -> tuple[str, str, str]:
        verb = {"POST": "create", "GET": "get", "PATCH": "patch", "DELETE": "delete"}[self.command]
        if match := re.fullmatch(rf"{JOBS}(?:/([^/]+))?", path):
            return verb, "trainjobs", match[1] or ""
        if self.command == "GET" and path == PODS:
            return "list", "pods", ""
        if match := re.fullmatch(rf"{PODS}/([^/]+)/log", path):
            return "get", "pods/log", match[1]
        return verb, path, ""

    def _send(self, code: int, body: dict | str, fault: str | None = None) -> None:
        content = (body if isinstance(body, str) else json.dumps(body)).encode()
        if fault == "lost":
            self.close_connection = True
            return
        self.send_response(code)
        self.send_header("Content-Type", "text/plain" if isinstance(body, str) else "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if fault == "cut" else content)
        self.close_connection = True

    do_GET = do_POST = do_PATCH = do_DELETE = _serve  # noqa: N815


@contextmanager
def cluster() -> Iterator[Cluster]:
    with Cluster() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
