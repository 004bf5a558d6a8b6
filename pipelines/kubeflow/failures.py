"""What failed in a run, read from its Argo workflow: which pods, why, and where their logs are kept."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_FAILED = ("Failed", "Error")
_LOG = "main-logs"  # Argo calls the step's own container main
_NUMBERS = re.compile(r"\([^()]*\)")
_ATTEMPT = re.compile(r"\(\d+\)$")
_SCHEMES = {"s3": "s3", "gcs": "gs", "oss": "oss"}  # Argo's words for stores with a bucket


@dataclass(frozen=True)
class Failure:
    """A pod that failed, or a node of the workflow that failed before it had a pod.

    `step` is the step's name as a person knows it. `why` is Argo's message, such as "OOMKilled (exit code 137)". `pod`
    is its name, or another by which the API server finds its log, or "" where there was none. `archived` is where the
    log is kept after the pod is gone.
    """

    step: str
    why: str
    pod: str
    archived: str = ""


def failures(workflow: Mapping[str, Any], order: Sequence[str]) -> list[Failure]:
    """The nodes that failed by themselves, in the steps' order. What failed only because of them is left out, and so is
    an attempt that another one followed.

    `workflow` has `status.nodes` as Argo writes it. Names are nested: `run.root.train(0).executor(1)` is the second
    attempt of the executor within the first attempt of step train. `order` lists the steps' names.
    """
    nodes = {node["name"]: node for node in workflow["status"]["nodes"].values()}
    failed = {name for name, node in nodes.items() if node.get("phase") in _FAILED}
    # A node that contains a success did not fail: a later attempt, or a step's retry, ended well.
    failed = {name for name in failed if all(other in failed for other in nodes if _lies_in(name, other))}
    last: dict[str, str] = {}
    for name in failed:
        if not any(_lies_in(other, name) for other in failed):
            what = _ATTEMPT.sub("", name)
            last[what] = max(last.get(what, name), name, key=_attempt)
    found = [_failure(workflow, nodes[name], order) for name in sorted(last.values())]
    places = {name: place for place, name in enumerate(order)}
    return sorted(found, key=lambda one: places.get(one.step.removesuffix("-driver"), len(places)))


def _failure(workflow: Mapping[str, Any], node: Mapping[str, Any], order: Sequence[str]) -> Failure:
    words = [word for word in _NUMBERS.sub("", node["name"]).split(".") if word != "executor"]
    step = next((word for word in reversed(words) if word in order), words[-1])
    return Failure(
        step=step,
        why=" ".join((node.get("message") or "").split()),
        pod=_pod_name(workflow, node) if node.get("type") == "Pod" else "",
        archived=_archived(workflow, node),
    )


def _lies_in(name: str, other: str) -> bool:
    return name != other and name.startswith((f"{other}.", f"{other}("))


def _attempt(name: str) -> int:
    found = _ATTEMPT.search(name)
    return int(found.group()[1:-1]) if found else 0


def _pod_name(workflow: Mapping[str, Any], node: Mapping[str, Any]) -> str:
    """The pod's name, by GeneratePodName in Argo's workflow/util/pod_name.go; by its older rule, v1, the node's id."""
    metadata = workflow["metadata"]
    if (metadata.get("annotations") or {}).get("workflows.argoproj.io/pod-name-format") == "v1":
        return node["id"]
    if node["name"] == metadata["name"]:
        return node["name"]
    return f"{metadata['name']}-{node.get('templateName', '')}-{node['id'].rsplit('-', 1)[-1]}"


def _archived(workflow: Mapping[str, Any], node: Mapping[str, Any]) -> str:
    """Where the node's log is archived. Bucket and endpoint are the repository's, unless the artifact has its own."""
    repository = (workflow["status"].get("artifactRepositoryRef") or {}).get("artifactRepository") or {}
    for artifact in (node.get("outputs") or {}).get("artifacts") or []:
        for kind, scheme in _SCHEMES.items():
            if artifact.get("name") == _LOG and artifact.get(kind, {}).get("key"):
                place = {**(repository.get(kind) or {}), **artifact[kind]}
                endpoint = f" at {place['endpoint']}" if place.get("endpoint") else ""
                return f"{scheme}://{place.get('bucket', '')}/{place['key']}{endpoint}"
    return ""
