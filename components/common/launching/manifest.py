"""The TrainJob of a training step, checked against Kubeflow Trainer's own typed models.

The manifest is made here because TrainerClient.train of kubeflow 0.5 lacks four things: the job's owner, the number of
processes per node, environment variables from secrets, and requests apart from limits.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from components.common.launching.config import RUN_ID_VARIABLE, LaunchConfig
from components.common.launching.heartbeat import HEARTBEAT_VARIABLE
from components.common.launching.ranks import ENVIRONMENT
from components.common.launching.torchrun import log_options
from matta_core.artifacts import digest_of

API_VERSION = "trainer.kubeflow.org/v1alpha1"
# Annotations: the digest of the specification and queue as they were sent, and the run that started the job.
SPEC_DIGEST = "matta.trainjob/spec"
RUN = "matta.trainjob/run"
_QUEUE_LABELS = "kueue.x-k8s.io/"
NODE = "node"  # the name of the replicated job and of its container in every torch runtime
_PATCH_MANAGER = "matta/train"
# In a service mesh each rank's pod would get a proxy that only takes the mesh's traffic: ranks could not connect.
_NO_SIDECAR = {"sidecar.istio.io/inject": "false"}
_RESTRICTED_CONTAINER = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


@dataclass(frozen=True)
class Owner:
    """The pod that owns the TrainJob. The job is deleted with it."""

    name: str
    uid: str

    @classmethod
    def this_pod(cls) -> Self | None:
        """This pod, from the variables that Kubeflow Pipelines gives every step. None outside of a step's pod."""
        name, uid = os.environ.get("KFP_POD_NAME"), os.environ.get("KFP_POD_UID")
        return cls(name, uid) if name and uid else None

    def references(self) -> list[dict[str, str]]:
        return [{"apiVersion": "v1", "kind": "Pod", "name": self.name, "uid": self.uid}]


def this_run() -> str:
    """The id of this run. All attempts of a step share it, so an attempt finds its own job and no other run's.

    If MatTA did not compile the pipeline, it is the pod's uid, and another attempt does not find the job. Outside of a
    pod it is ''.
    """
    owner = Owner.this_pod()
    return os.environ.get(RUN_ID_VARIABLE) or (owner.uid if owner else "")


def trainjob_manifest(
    launch: LaunchConfig, command: list[str], *, name: str, owner: Owner | None, run: str, heartbeat_file: Path
) -> dict[str, Any]:
    """The whole TrainJob. The runtime sets torchrun's PET_ variables: number and rank of the nodes, the master.

    Kueue's labels are on the TrainJob, which is then queued as one gang. On the pods, each would be queued by itself.
    """
    from kubeflow_trainer_api.models import TrainerV1alpha1TrainJob

    mounts = [{"name": f"claim-{n}", "mountPath": volume.mount_path} for n, volume in enumerate(launch.claims)]
    volumes = [
        {"name": f"claim-{n}", "persistentVolumeClaim": {"claimName": volume.claim}}
        for n, volume in enumerate(launch.claims)
    ]
    if launch.shared_memory:
        mounts.append({"name": "shared-memory", "mountPath": "/dev/shm"})
        volumes.append({"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": launch.shared_memory}})
    pod = _without_empty(
        {
            "serviceAccountName": launch.service_account,
            "nodeSelector": launch.node_selector,
            "tolerations": list(launch.tolerations),
            "volumes": volumes,
            "securityContext": _security_context_of_pod(launch),
            "containers": [
                _without_empty(
                    {
                        "name": NODE,
                        "volumeMounts": mounts,
                        "securityContext": _RESTRICTED_CONTAINER if launch.security_context else {},
                    }
                )
            ],
        }
    )
    queue = {key: value for key, value in launch.labels.items() if key.startswith(_QUEUE_LABELS)}
    labels = _NO_SIDECAR | {key: value for key, value in launch.labels.items() if key not in queue}
    template = {"metadata": _without_empty({"labels": labels, "annotations": launch.annotations}), "spec": pod}
    spec = _without_empty(
        {
            "runtimeRef": {"name": launch.runtime},
            "activeDeadlineSeconds": launch.timeout_seconds,
            "trainer": _without_empty(
                {
                    "image": launch.image,
                    "command": ["python", "-m", "torch.distributed.run"],
                    # Kubernetes replaces $(NAME) in arguments with the variable's value; $$( keeps it.
                    "args": [*log_options("/tmp/torchrun"), "-m", *(each.replace("$(", "$$(") for each in command)],
                    "env": _environment(launch, heartbeat_file),
                    "numNodes": launch.nodes,
                    "numProcPerNode": launch.processes_per_node,
                    "resourcesPerNode": _resources(launch),
                }
            ),
            "runtimePatches": [_patch_of_pods(template)],
        }
    )
    manifest: dict[str, Any] = {
        "apiVersion": API_VERSION,
        "kind": "TrainJob",
        "metadata": {
            "name": name,
            "labels": {"app.kubernetes.io/managed-by": "matta"} | queue,
            "annotations": {SPEC_DIGEST: digest_of([spec, queue]), RUN: run},
        },
        "spec": spec,
    }
    if owner:
        manifest["metadata"]["ownerReferences"] = owner.references()
    # The models drop fields that they do not know: if a round trip changes nothing, they know all of them.
    assert TrainerV1alpha1TrainJob.from_dict(manifest).to_dict() == manifest
    return manifest


def _security_context_of_pod(launch: LaunchConfig) -> dict[str, Any]:
    if launch.security_context is None:
        return {}
    return {
        "runAsNonRoot": True,
        "runAsUser": launch.security_context.user,
        "runAsGroup": launch.security_context.group,
        "fsGroup": launch.security_context.group,
        "fsGroupChangePolicy": "OnRootMismatch",  # else each pod would walk through the whole volume before it starts
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def _environment(launch: LaunchConfig, heartbeat_file: Path) -> list[dict[str, Any]]:
    values = ENVIRONMENT | {HEARTBEAT_VARIABLE: str(heartbeat_file)}
    variables: list[dict[str, Any]] = [{"name": name, "value": value} for name, value in values.items()]
    if limit := launch.cpu_limit or launch.cpu:
        from kubernetes.utils.quantity import parse_quantity

        # torch counts the machine's cores, but the pod may use only a few.
        threads = max(1, int(parse_quantity(limit) / launch.processes_per_node))
        variables.append({"name": "OMP_NUM_THREADS", "value": str(threads)})
    for secret in launch.secrets:
        source = {"secretKeyRef": {"name": secret.secret, "key": secret.key}}
        variables.append({"name": secret.env, "valueFrom": source})
    return variables


def _resources(launch: LaunchConfig) -> dict[str, dict[str, str]]:
    accelerators = {launch.accelerator: str(launch.accelerators)} if launch.accelerators else {}
    requests = _without_empty({"cpu": launch.cpu, "memory": launch.memory}) | accelerators
    limits = {"cpu": launch.cpu_limit or launch.cpu, "memory": launch.memory_limit or launch.memory}
    return _without_empty({"requests": requests, "limits": _without_empty(limits) | accelerators})


def _patch_of_pods(template: dict[str, Any]) -> dict[str, Any]:
    """A change of the runtime's pods, in the nesting of TrainingRuntime, JobSet, Job and Pod."""
    jobs = [{"name": NODE, "template": {"spec": {"template": template}}}]
    return {"manager": _PATCH_MANAGER, "trainingRuntimeSpec": {"template": {"spec": {"replicatedJobs": jobs}}}}


def _without_empty(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value or value == 0}
