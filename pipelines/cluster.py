"""The cluster profile: where each step runs, with what, for how long. One YAML file (`pipelines/clusters/`).

Sources: kfp-kubernetes 2.17 for what a pipeline can ask of Kubernetes; Kubernetes' documentation for quantities,
labels and tolerations; Vertex AI's MachineSpec for accelerator names.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from kubernetes.utils.quantity import parse_quantity

from components.common.command_line import load_section
from components.common.launching.config import (
    DNS_LABEL,
    DNS_NAME,
    RESOURCE,
    LaunchConfig,
    SecretVariable,
    SecurityContext,
    VolumeClaim,
    must_be_absolute,
    must_match,
)
from matta_core.recipe.settings import Section, setting
from pipelines.steps import STEPS, STEPS_IN_RANKS, steps_in

# Quantities that both Kubernetes and kfp's setters take: kfp knows neither Kubernetes' small k nor fractions of memory.
_CPU = r"[0-9]+m|[0-9]+(\.[0-9]+)?"
_MEMORY = r"[0-9]+([KMGTPE]i|[MGTPE])?"
_LABEL_KEY = rf"({DNS_NAME}/)?[A-Za-z0-9]([-A-Za-z0-9_.]{{0,61}}[A-Za-z0-9])?"
_LABEL_VALUE = r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?"
_IMAGE = r"[a-z0-9][a-zA-Z0-9._:/-]*"
_DIGEST = rf"{_IMAGE}@sha256:[0-9a-f]{{64}}"
_QUANTITIES = ("cpu", "cpu_limit", "memory", "memory_limit", "shared_memory")
_ACCELERATORS = {
    "kubeflow": (RESOURCE, "a resource's name, such as nvidia.com/gpu"),
    "vertex": (r"(NVIDIA|TPU)_[A-Z0-9_]+", "one of Vertex's accelerator types, such as NVIDIA_H100_80GB"),
}


@dataclass(frozen=True)
class Images(Section):
    """The images of the steps, by digest: Kubeflow's cache sees a name, and not what its tag points to today."""

    data: str = setting(help=f"{steps_in('data')}; NAME@sha256:…, as `docker push` prints it")
    trainer: str = setting(help=steps_in("trainer"))
    evaluator: str = setting(help=steps_in("evaluator"))

    def check(self) -> None:
        for name, image in self.to_dict().items():
            must_match(name, image, rf"{_IMAGE}(@sha256:[0-9a-f]{{64}})?", "an image's name")


@dataclass(frozen=True)
class Toleration(Section):
    """A taint that a step's pod may be placed on, in Kubernetes' words."""

    key: str
    operator: str = setting("Equal", choices=("Equal", "Exists"))
    value: str | None = None
    effect: str | None = setting(
        None, choices=("NoSchedule", "PreferNoSchedule", "NoExecute"), help="none: all effects"
    )

    def check(self) -> None:
        must_match("key", self.key, _LABEL_KEY, "a taint's key")
        if (self.operator == "Equal") == (self.value is None):
            raise ValueError(f"value must be given with operator Equal, and only with it, got {self.value!r}")
        if self.value is not None:
            must_match("value", self.value, _LABEL_VALUE, "a taint's value")

    def to_kubernetes(self) -> dict[str, str]:
        return {name: value for name, value in self.to_dict().items() if value is not None}


@dataclass(frozen=True)
class StepPlacement(Section):
    """What one step is given. Each setting of a step takes the place of the same one in `defaults`."""

    cpu: str = setting("1", help="Kubernetes quantity, requested; also the limit, unless cpu_limit says otherwise")
    cpu_limit: str | None = None
    memory: str = setting("4Gi", help="Kubernetes quantity, requested; also the limit, unless memory_limit is set")
    memory_limit: str | None = None
    accelerator: str | None = setting(None, help="nvidia.com/gpu; on Vertex a type such as NVIDIA_H100_80GB")
    accelerators: int = setting(0, low=0, high=1024, help="per pod")
    node_selector: dict[str, str] = setting(default_factory=dict, help="labels that the node must have")
    tolerations: tuple[Toleration, ...] = ()
    shared_memory: str | None = setting(
        None, help="size of /dev/shm, a Kubernetes quantity (counts as memory); none: the runtime's 64 MB"
    )
    timeout_seconds: int = setting(86_400, low=60, high=30 * 86_400, unit="seconds, per attempt")
    retries: int = setting(0, low=0, high=20, help="attempts after the first")
    retry_backoff_seconds: int = setting(60, low=0, high=3600, unit="seconds before the first retry")
    retry_backoff_factor: int = setting(
        2, low=1, high=10, help="each further wait is so many times longer (whole: Argo reads no fractions)"
    )
    labels: dict[str, str] = setting(default_factory=dict, help="of the pod")
    annotations: dict[str, str] = setting(default_factory=dict, help="of the pod")
    nodes: int = setting(1, low=1, high=1024, help="of a training step; more than one: a Kubeflow TrainJob")
    processes_per_node: int | None = setting(
        None, low=1, high=1024, help="of a training step; none: one per accelerator, or one"
    )
    runtime: str = setting(
        LaunchConfig.runtime, help="of a training step over several nodes: a ClusterTrainingRuntime, of torch"
    )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str = "") -> Self:
        """Parse as any section. A quantity may be a number, as in Kubernetes."""
        if isinstance(values, Mapping):
            values = {
                name: str(value) if name in _QUANTITIES and type(value) in (int, float) else value
                for name, value in values.items()
            }
        return super().from_dict(values, where)

    def check(self) -> None:
        for name, pattern, example in (
            ("cpu", _CPU, "500m or 8"),
            ("cpu_limit", _CPU, "500m or 8"),
            ("memory", _MEMORY, "512Mi or 16Gi"),
            ("memory_limit", _MEMORY, "512Mi or 16Gi"),
            ("shared_memory", _MEMORY, "512Mi or 16Gi"),
        ):
            if getattr(self, name) is not None:
                must_match(name, getattr(self, name), pattern, f"a Kubernetes quantity such as {example}")
        for name in ("cpu", "memory"):
            asked, limit = getattr(self, name), getattr(self, f"{name}_limit")
            if limit is not None and parse_quantity(asked) > parse_quantity(limit):
                raise ValueError(f"{name} must be <= {name}_limit = {limit} (raise that, too), got {asked}")
        if (self.accelerator is None) != (self.accelerators == 0):
            raise ValueError(
                f"accelerator and accelerators must be given together, got {self.accelerator!r} and {self.accelerators}"
            )
        for name in ("node_selector", "labels"):
            for key, value in getattr(self, name).items():
                must_match(f"{name}.{key}: the key", key, _LABEL_KEY, "a Kubernetes label's key")
                must_match(f"{name}.{key}", value, _LABEL_VALUE, "a Kubernetes label's value")
        must_match("runtime", self.runtime, DNS_NAME, "a ClusterTrainingRuntime's name")
        for key in self.annotations:
            must_match(f"annotations.{key}: the key", key, _LABEL_KEY, "a Kubernetes annotation's key")

    @property
    def processes(self) -> int:
        """Processes per node."""
        return self.processes_per_node or self.accelerators or 1

    @property
    def retry_window_seconds(self) -> int:
        """How long all attempts together may take. Argo's maxDuration counts the time that they run and that they wait.

        kfp's default is an hour: a step that failed later than that would never be retried.
        """
        waits = sum(self.retry_backoff_seconds * self.retry_backoff_factor**n for n in range(self.retries))
        return int((self.retries + 1) * self.timeout_seconds + waits)


# Settings of Kubernetes alone: Vertex AI Pipelines refuses a pipeline that has any.
_NOT_ON_VERTEX = (
    "cpu_limit",
    "memory_limit",
    "node_selector",
    "tolerations",
    "shared_memory",
    "labels",
    "annotations",
)


@dataclass(frozen=True)
class ClusterProfile(Section):
    """Where a pipeline runs. `placement(step)` says what a step is given."""

    name: str
    images: Images
    platform: str = setting("kubeflow", choices=("kubeflow", "vertex"))
    allow_tags: bool = setting(False, help="images by tag: for a trial; a cached step does not see that a tag moved")
    namespace: str = setting("kubeflow", help="in which runs live; on Vertex without meaning")
    service_account: str | None = setting(None, help="of the pods; none: the installation's default")
    security_context: SecurityContext | None = setting(
        None, help='of all pods, for namespaces that are held to Pod Security "restricted"; none: as the images have it'
    )
    pipeline_root: str | None = setting(
        None, help="where artifacts lie: gs://…, s3://…, minio://…; none: the installation's default"
    )
    store: str | None = setting(None, help="a directory on a volume of all steps: artifacts and unfinished work")
    secrets: tuple[SecretVariable, ...] = ()
    volumes: tuple[VolumeClaim, ...] = ()
    defaults: StepPlacement = field(default_factory=StepPlacement)
    steps: dict[str, StepPlacement] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str = "") -> Self:
        """Parse as any section. A setting that a step leaves out is that of `defaults`."""
        if isinstance(values, Mapping):
            defaults, steps = values.get("defaults", {}), values.get("steps", {})
            if isinstance(defaults, Mapping) and isinstance(steps, Mapping):
                StepPlacement.from_dict(defaults, f"{where}.defaults" if where else "defaults")
                merged = {
                    name: {**defaults, **step} if isinstance(step, Mapping) else step for name, step in steps.items()
                }
                values = {**values, "steps": merged}
        return super().from_dict(values, where)

    def placement(self, step: str) -> StepPlacement:
        return self.steps.get(step, self.defaults)

    def check(self) -> None:
        must_match("name", self.name, DNS_LABEL, "lower-case letters, digits and -")
        must_match("namespace", self.namespace, DNS_LABEL, "a namespace's name")
        if self.service_account is not None and self.platform == "kubeflow":
            must_match("service_account", self.service_account, DNS_NAME, "a service account's name")
        if self.pipeline_root is not None:
            must_match(
                "pipeline_root",
                self.pipeline_root,
                r"[a-z0-9]+://[^\s\"'`{}\\]+",
                "a URI such as gs://bucket/folder, without spaces, quotes and braces",
            )
        if not self.allow_tags:
            for name, image in self.images.to_dict().items():
                must_match(
                    f"images.{name}",
                    image,
                    _DIGEST,
                    "NAME@sha256:… (the digest that `docker push` prints; or allow_tags: true, for a trial)",
                )
        for where, placement in {"defaults": self.defaults, **{f"steps.{k}": v for k, v in self.steps.items()}}.items():
            if placement.accelerator is not None:
                must_match(f"{where}.accelerator", placement.accelerator, *_ACCELERATORS[self.platform])
        if self.platform == "vertex":
            self._check_vertex()
        for step, placement in self.steps.items():
            if step not in STEPS:
                raise ValueError(f"steps must be among {', '.join(STEPS)}, got {step!r}")
            if step not in STEPS_IN_RANKS and (placement.nodes > 1 or placement.processes > 1):
                raise ValueError(
                    f"steps.{step}: only {', '.join(STEPS_IN_RANKS)} run as several processes, got nodes "
                    f"{placement.nodes} and processes {placement.processes} (one per accelerator)"
                )
            if step not in STEPS_IN_RANKS and placement.runtime != LaunchConfig.runtime:
                raise ValueError(f"steps.{step}.runtime is of the training steps, got {placement.runtime!r}")
            if placement.nodes > 1 and not self.store:
                raise ValueError(f"steps.{step}.nodes > 1 needs a store, on a volume that all nodes mount")
        if self.defaults.nodes > 1 or self.defaults.processes > 1:
            raise ValueError("defaults: several nodes or processes (one per accelerator) are of the training steps")
        if self.defaults.runtime != LaunchConfig.runtime:
            raise ValueError(f"defaults.runtime is of the training steps, name it there, got {self.defaults.runtime!r}")
        self._check_store()

    def _check_store(self) -> None:
        if not self.store:
            return
        must_be_absolute("store", self.store)
        mounts = [volume.mount_path for volume in self.volumes]
        if not any(Path(self.store).is_relative_to(mount) for mount in mounts):
            raise ValueError(
                f"store must be below a volume's mount_path ({', '.join(mounts) or 'there is none'}), else each pod "
                f"has a directory of its own; got {self.store!r}"
            )

    def _check_vertex(self) -> None:
        for name in ("secrets", "volumes", "security_context"):  # the store lies on a volume, so it needs no entry here
            if getattr(self, name):
                raise ValueError(f"{name} must be empty for platform vertex, which takes no Kubernetes settings")
        unset = StepPlacement()
        for where, placement in {"defaults": self.defaults, **{f"steps.{k}": v for k, v in self.steps.items()}}.items():
            for name in _NOT_ON_VERTEX:
                if getattr(placement, name):
                    raise ValueError(f"{where}.{name} must not be set for platform vertex, which does not know it")
            if placement.timeout_seconds != unset.timeout_seconds:
                raise ValueError(f"{where}.timeout_seconds must not be set for platform vertex: it has none per step")
            if placement.nodes > 1:
                raise ValueError(f"{where}.nodes must be 1 for platform vertex: there are no TrainJobs")
            if placement.runtime != unset.runtime:
                raise ValueError(f"{where}.runtime must not be set for platform vertex: there are no TrainJobs")


def load_cluster(path: str | Path, overrides: list[str] | None = None) -> ClusterProfile:
    """Read a profile and apply `setting=value` overrides (values in YAML), for instance `images.data=…`.

    Raises: UserError where the file is missing, is not YAML, or holds an unknown key or a bad value.
    """
    examples = Path(__file__).parent / "clusters"
    return load_section(
        ClusterProfile, path, overrides or [], what="cluster profile", examples=examples, option="--cluster-set"
    )
