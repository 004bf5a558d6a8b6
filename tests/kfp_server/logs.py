"""The stand-in's two ways to a step's log: the API server's, and that of Kubeflow's page, by a path of its own."""

import json
from typing import Any

from kfp_server.models import PageError
from kfp_server.runs import NAMESPACE, Look, pod_name

_DEEPEST = 3  # how far below a node the API server looks for an archived log


def log_of_api_server(look: Look | None, run_id: str, node: str, *, finds_archived: bool) -> str:
    """run_log_server.go: the status is 200 before anything is looked for, so that an error is told with it."""
    text = _find(look, node, finds_archived) if look else None
    if text is not None:
        return text
    said = f"BadRequestError: Failed to read logs for run {run_id}: InternalServerError: no such key"
    return json.dumps({"error_message": said, "error_details": f"{said}\nstack"})


def log_of_page(look: Look | None, query: dict[str, str], *, multi_user: bool) -> str:
    """pod-logs.ts of the page's server: the pod, else the archive, by a key made of the pod's name and the day."""
    pod, namespace = query["podname"], query.get("podnamespace", "")
    if multi_user and not namespace:
        raise PageError(422, "podnamespace argument is required")
    if look and namespace in ("", NAMESPACE):
        workflow, _, _ = pod.partition("-system-container-impl-")
        day = query.get("createdat", "").replace("-", "/")
        key = f"private-artifacts/{namespace}/{workflow}/{day}/{pod}/main.log"
        for kept, name in ((look.pods, pod), (look.archive, key)):
            if name in kept:
                return kept[name]
    raise PageError(500, "Could not get main container logs: Error: Unable to retrieve workflow status")


def _find(look: Look, node: str, finds_archived: bool) -> str | None:
    """ReadLog of resource_manager.go: the pod of that name, else the archive, by the pod's name or the node's id."""
    if node in look.pods or not finds_archived:
        return look.pods.get(node)
    nodes = look.workflow["status"]["nodes"]
    found = nodes.get(node) or {pod_name(look.workflow, one): one for one in nodes.values()}.get(node)
    return _archived(look, found, _DEEPEST) if found else None


def _archived(look: Look, node: dict[str, Any], depth: int) -> str | None:
    """The first log at or below the node."""
    for artifact in node.get("outputs", {}).get("artifacts", []):
        if artifact["name"] == "main-logs":
            return look.archive.get(artifact["s3"]["key"])
    for child in node["children"] if depth else []:
        if (text := _archived(look, look.workflow["status"]["nodes"][child], depth - 1)) is not None:
            return text
    return None
