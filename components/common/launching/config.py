"""Where the ranks of a training run: in this process, under torchrun in this pod, or in the pods of a TrainJob.

Importing this module needs the standard library only: the pipeline's compiler fills a LaunchConfig in.
"""

import re
from dataclasses import dataclass
from typing import Any

from matta_core.recipe.settings import Section, setting

LAUNCH_HELP = (
    "start several processes: '{\"processes_per_node\": 8}'; all settings: components/common/launching/config.py"
)


RUN_ID_VARIABLE = "KFP_RUN_ID"  # set for a step with several nodes; Kubeflow itself gives a pod only its name and uid

DNS_LABEL = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
DNS_NAME = rf"{DNS_LABEL}(\.{DNS_LABEL})*"
RESOURCE = rf"{DNS_NAME}/[A-Za-z0-9]([-A-Za-z0-9_.]{{0,61}}[A-Za-z0-9])?"  # an accelerator's


def must_match(name: str, value: str, pattern: str, what: str) -> None:
    """Check that the whole value matches. Raises: ValueError."""
    if not re.fullmatch(pattern, value):
        raise ValueError(f"{name} must be {what}, got {value!r}")


def must_be_absolute(name: str, value: str) -> None:
    """Check a path on a volume. Raises: ValueError where it is relative, has `..`, or holds a `:`, which Kubernetes
    refuses in a mount's path, or a brace, which Argo may take for a variable."""
    if not re.fullmatch(r"/[^\x00-\x1f\x7f:{}]*", value) or ".." in value.split("/"):
        raise ValueError(f"{name} must be an absolute path without .., : and braces, got {value!r}")


@dataclass(frozen=True)
class VolumeClaim(Section):
    """A PersistentVolumeClaim that every step, and every node of a training step, mounts at the same place.

    It must be ReadWriteMany, because pods run on several nodes at once.
    """

    claim: str
    mount_path: str

    def check(self) -> None:
        must_match("claim", self.claim, DNS_NAME, "a PersistentVolumeClaim's name")
        must_be_absolute("mount_path", self.mount_path)


@dataclass(frozen=True)
class SecretVariable(Section):
    """A key of a Kubernetes Secret, as an environment variable of every step and node."""

    secret: str
    key: str
    env: str

    def check(self) -> None:
        must_match("secret", self.secret, DNS_NAME, "a Secret's name")
        must_match("key", self.key, r"[-._A-Za-z0-9]+", "a Secret's key")
        must_match("env", self.env, r"[A-Za-z_][A-Za-z0-9_]*", "an environment variable's name")


@dataclass(frozen=True)
class SecurityContext(Section):
    """The user that pods run as, never root. Pods then keep Kubernetes' Pod Security Standard "restricted"."""

    user: int = setting(1000, low=1, high=2**31 - 1, help="runAsUser; 1000 is the images'")
    group: int = setting(1000, low=0, high=2**31 - 1, help="runAsGroup; in a TrainJob's pods fsGroup, too")


@dataclass(frozen=True)
class LaunchConfig(Section):
    """How many ranks train and, for several nodes, what each node's pod is made of.

    One node is the step's own pod. The pipeline gives it its image, resources and volumes, and only
    `processes_per_node` and `timeout_seconds` are read here.
    """

    nodes: int = setting(1, low=1, high=10_000, help="more than 1: a Kubeflow TrainJob")
    processes_per_node: int = setting(1, low=1, high=1024, help="one per GPU; more than 1: torchrun")
    timeout_seconds: int | None = setting(None, low=1, unit="seconds", help="then the ranks are ended; none: no limit")
    image: str = setting("", help="of the nodes: the step's own image")
    namespace: str = setting("", help="of the TrainJob; empty: the step's own, as its pod must own the job")
    runtime: str = setting("torch-distributed", help="a ClusterTrainingRuntime, of torch")
    cpu: str = setting("", help="Kubernetes quantity per node")
    memory: str = setting("", help="Kubernetes quantity per node")
    cpu_limit: str = setting("", help="empty: as cpu")
    memory_limit: str = setting("", help="empty: as memory")
    accelerator: str = setting("", help="a resource's name, nvidia.com/gpu")
    accelerators: int = setting(0, low=0, unit="accelerators per node")
    shared_memory: str = setting("", help="Kubernetes quantity: size of /dev/shm, which NCCL uses; empty: the default")
    claims: tuple[VolumeClaim, ...] = setting((), help="volumes of every node; artifacts must lie on one of them")
    secrets: tuple[SecretVariable, ...] = ()
    service_account: str = setting("", help="of the nodes' pods; empty: the namespace's default")
    security_context: SecurityContext | None = setting(None, help="of the nodes' pods; none: as the runtime has it")
    node_selector: dict[str, str] = setting(default_factory=dict)
    tolerations: tuple[dict[str, Any], ...] = setting((), help="as in a pod's specification")
    labels: dict[str, str] = setting(
        default_factory=dict,
        help="of the nodes' pods, besides sidecar.istio.io/inject: 'false'; Kueue's (kueue.x-k8s.io/...): of the "
        "TrainJob, which it queues whole",
    )
    annotations: dict[str, str] = setting(default_factory=dict, help="of the nodes' pods")

    def check(self) -> None:
        if bool(self.accelerator) != bool(self.accelerators):
            raise ValueError(
                f"accelerator and accelerators must be set together, got {self.accelerator!r} and {self.accelerators}"
            )
        if self.accelerator:
            must_match("accelerator", self.accelerator, RESOURCE, "a resource's name, such as nvidia.com/gpu")
        if self.nodes > 1 and not self.image:
            raise ValueError(f"image must be set where nodes = {self.nodes}: it is what the TrainJob's pods run")

    @property
    def processes(self) -> int:
        """The number of ranks."""
        return self.nodes * self.processes_per_node
