"""The calls to the cluster's API that a TrainJob needs. containers/rbac/trainjobs.yaml grants exactly these."""

import json
from collections.abc import Callable
from typing import Any

import urllib3.exceptions
from google.api_core.exceptions import RetryError
from google.api_core.retry import Retry
from kubeflow.common.utils import get_default_target_namespace, is_running_in_k8s
from kubeflow.trainer.constants.constants import GROUP, TRAINJOB_PLURAL, VERSION
from kubernetes.client import ApiException, CoreV1Api, CustomObjectsApi, V1Pod
from kubernetes.config import ConfigException, load_incluster_config, load_kube_config

from components.common.launching.manifest import NODE, Owner
from matta_core.errors import UserError

_REQUEST_SECONDS = (5, 30)  # to connect, to read
RBAC_MANIFEST = "containers/rbac/trainjobs.yaml"


class TrainJobs:
    """The TrainJobs of a namespace, their pods and their logs, with the rights of this pod's service account or of the
    kubeconfig here.

    Every call is repeated for `patience_seconds` while the API server is overloaded, restarting or out of reach.
    The calls go through Kubernetes' own clients. Kubeflow's TrainerClient first reads another namespace's ConfigMap,
    for which a step has no rights, and waits for it without a limit; its `get_job` and `get_job_logs` need more rights,
    and only the error's cause tells a missing job from a broken connection.

    Raises: UserError where no cluster is found or it refuses a call; RuntimeError where it stays out of reach.
    """

    def __init__(self, namespace: str, *, patience_seconds: float = 300.0) -> None:
        try:
            load_incluster_config() if is_running_in_k8s() else load_kube_config()
        except ConfigException as error:
            raise UserError(
                f"no Kubernetes cluster is configured here ({error}): a TrainJob (launch_config.nodes > 1) needs a "
                f"step's pod or a kubeconfig"
            ) from None
        self.namespace = namespace or get_default_target_namespace()
        self._custom, self._core = CustomObjectsApi(), CoreV1Api()
        self._where: dict[str, Any] = {
            "group": GROUP,
            "version": VERSION,
            "namespace": self.namespace,
            "plural": TRAINJOB_PLURAL,
        }
        self._patience_seconds = patience_seconds

    def create(self, manifest: dict[str, Any]) -> bool:
        """Create the job. Returns False where one of that name exists, perhaps from a try whose answer was lost.

        Validation is strict: by default an API server drops the fields that its Trainer does not know, and the ranks
        would run without volumes, place and deadline.
        """
        call = self._custom.create_namespaced_custom_object
        arguments: dict[str, Any] = {"body": manifest, "field_validation": "Strict", **self._where}
        return self._call("create", call, none_at=(409,), **arguments) is not None

    def get(self, name: str, *, patience_seconds: float | None = None) -> dict[str, Any] | None:
        """The job's current state, or None where there is no such job."""
        call = self._custom.get_namespaced_custom_object
        return self._call("get", call, none_at=(404,), patience_seconds=patience_seconds, name=name, **self._where)

    def set_owner(self, name: str, owner: Owner) -> None:
        """Give a job an owner in place of the one that it had."""
        body = {"metadata": {"ownerReferences": owner.references()}}
        self._call("patch", self._custom.patch_namespaced_custom_object, name=name, body=body, **self._where)

    def delete(self, job: dict[str, Any], *, patience_seconds: float | None = None) -> None:
        """Delete this very job, not another one that has its name by now. Until all its pods are gone, it is seen as
        being deleted."""
        call = self._custom.delete_namespaced_custom_object
        metadata = job["metadata"]
        self._call(
            "delete",
            call,
            none_at=(404, 409),
            patience_seconds=patience_seconds,
            name=metadata["name"],
            # The API server ignores the query's propagationPolicy where a call has a body.
            body={"propagationPolicy": "Foreground", "preconditions": {"uid": metadata["uid"]}},
            **self._where,
        )

    def pods(self, name: str) -> list[V1Pod]:
        """The nodes' pods, in the order of the nodes' ranks."""
        selector = f"jobset.sigs.k8s.io/jobset-name={name},jobset.sigs.k8s.io/replicatedjob-name={NODE}"
        call = self._core.list_namespaced_pod
        found = self._call("list pods", call, namespace=self.namespace, label_selector=selector).items
        return sorted(found, key=lambda pod: (node_rank(pod), pod.metadata.creation_timestamp))

    def log(self, pod: str, **options: Any) -> list[str]:
        """Lines of the pod's log, by the options of Kubernetes' call; none where it has not begun or is gone."""

        def read(**arguments: Any) -> bytes:
            # Where a log is not UTF-8, the client's own decoding would give the repr of its bytes.
            return self._core.read_namespaced_pod_log(_preload_content=False, **arguments).data

        where: dict[str, Any] = {"name": pod, "namespace": self.namespace, "container": NODE}
        text = self._call("read a log", read, none_at=(400, 404), **where, **options)
        return (text or b"").decode(errors="replace").splitlines()

    def _call(
        self,
        what: str,
        call: Callable[..., Any],
        *,
        none_at: tuple[int, ...] = (),
        patience_seconds: float | None = None,
        **arguments: Any,
    ) -> Any:
        """The call's result, or None where the answer has one of the statuses `none_at`."""
        patience = self._patience_seconds if patience_seconds is None else patience_seconds
        retried = Retry(_is_passing, initial=0.5, maximum=15.0, multiplier=2.0, timeout=patience)(call)
        try:
            return retried(**arguments, _request_timeout=_REQUEST_SECONDS)
        except RetryError as error:
            raise RuntimeError(
                f"the Kubernetes API server was out of reach for {patience:g} s ({what} in namespace "
                f"{self.namespace}): {_reason(error.cause)}. The TrainJob goes on; the same step finds it again"
            ) from error
        except ApiException as error:
            if error.status in none_at:
                return None
            raise UserError(self._refusal(what, error)) from error

    def _refusal(self, what: str, error: ApiException) -> str:
        told = f"the Kubernetes API server refused to {what} in namespace {self.namespace}: {_reason(error)}"
        if error.status == 404:
            return f"{told}. Is Kubeflow Trainer installed ({GROUP}/{VERSION}), and does the namespace exist?"
        if error.status == 400 and "unknown field" in str(error.body):
            return f"{told}. The step needs Kubeflow Trainer 2.2 or later, which knows these fields: upgrade it"
        if error.status in (401, 403) and "denied the request" not in str(error.body):
            return f"{told}. The step's service account needs the rights in {RBAC_MANIFEST}"
        return f"{told}. See launch_config (the training step in the cluster profile)"


def node_rank(pod: V1Pod) -> int:
    return int((pod.metadata.labels or {}).get("batch.kubernetes.io/job-completion-index", -1))


def _is_passing(error: Exception) -> bool:
    """Whether the server is overloaded, restarting or out of reach. Each call has the same effect once or twice."""
    if isinstance(error, ApiException):
        return error.status in (0, 429, 500, 502, 503, 504)
    return isinstance(error, urllib3.exceptions.HTTPError)


def _reason(error: Exception | None) -> str:
    """The server's message, in one line."""
    if not isinstance(error, ApiException):
        return str(error)
    try:
        return f"{error.status} {json.loads(error.body)['message']}"
    except (TypeError, ValueError, KeyError):
        return f"{error.status} {error.reason}"
