"""Where blessed students go, and how they are served there."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from matta_core.errors import UserError
from matta_core.hosts import keeps_secrets
from matta_core.recipe.settings import Section, has_scheme, is_in_bucket, setting

_DNS_LABEL = r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?"


@dataclass(frozen=True)
class ServingConfig(Section):
    """The KServe InferenceService manifest that is written for each pushed student."""

    name: str = setting("matta", help="services are called <name>-<size>")
    namespace: str = setting("default", help="of the cluster")
    min_replicas: int = setting(1, low=0, help="0: down to none while nobody asks (needs Knative)")
    max_replicas: int = setting(1, low=1)
    cpu: str = setting("1", help="Kubernetes quantity, requested and allowed per replica")
    memory: str | None = setting(
        None,
        help="Kubernetes quantity, requested and allowed per replica; none: 2Gi and what the model was seen to take",
    )
    gpus: int = setting(0, low=0, help="nvidia.com/gpu per replica")
    service_account: str | None = setting(None, help="of the pods: what reads gs://; none: the namespace's default")
    volume_claim: str | None = setting(
        None, help="for a local target: the PersistentVolumeClaim whose root is that directory; none: file://"
    )

    def check(self) -> None:
        for name in ("name", "namespace", "service_account", "volume_claim"):
            value = getattr(self, name)
            if value is not None and not re.fullmatch(_DNS_LABEL, value):
                raise ValueError(f"{name} must be lower-case letters, digits and -, from a letter, got {value!r}")
        for name in ("cpu", "memory"):
            value = getattr(self, name)
            if value is not None and not re.fullmatch(r"[0-9]+(\.[0-9]+)?(m|[kMGTPE]i?|Ki)?", value):
                raise ValueError(f"{name} must be a Kubernetes quantity such as 500m or 2Gi, got {value!r}")
        if self.min_replicas > self.max_replicas:
            raise ValueError(f"min_replicas must be <= max_replicas = {self.max_replicas}, got {self.min_replicas}")

    def service_name(self, size: str) -> str:
        """The name of a size's service, as Kubernetes demands: lower-case letters, digits and -."""
        return f"{self.name}-{size.lower().replace('_', '-').strip('-')}"

    def check_sizes(self, sizes: Iterable[str]) -> None:
        """Check the services' names. Raises: UserError where two sizes share one (S and s), or one is too long."""
        names: dict[str, str] = {}
        for size in sizes:
            name = self.service_name(size)
            if name in names:
                raise UserError(f"sizes {names[name]!r} and {size!r} would both be served as {name!r}: rename one")
            if len(name) > 63:
                raise UserError(
                    f"{name!r} is longer than Kubernetes' 63 characters: shorten push.serving.name, or the size's name"
                )
            names[name] = size


@dataclass(frozen=True)
class PushConfig(Section):
    """Where blessed students go."""

    target: str = setting(help="a local directory, or gs://bucket/prefix")
    load_timeout_seconds: float = setting(
        120.0, above=0.0, changes_result=False, help="for loading and querying in a fresh process"
    )
    max_load_memory_bytes: int | None = setting(
        None,
        low=1,
        unit="bytes",
        changes_result=False,
        help="resident at the peak of loading and querying, Python and torch included",
    )
    keep_versions: int = setting(
        5,
        low=1,
        changes_result=False,
        help="per size, the newest; the current, its previous and pinned ones are never deleted",
    )
    serving: ServingConfig = setting(default_factory=ServingConfig)
    registry: str | None = setting(
        None, help="URL of a Kubeflow Model Registry in which pushed versions are registered; none: not registered"
    )
    registry_token_file: str | None = setting(
        None, changes_result=False, help="holds the bearer token for it; none: without one"
    )

    def check(self) -> None:
        if has_scheme(self.target) and not is_in_bucket(self.target):
            raise ValueError(f"target must be a local directory or gs://bucket/prefix, got {self.target!r}")
        if self.registry is not None and not re.fullmatch(r"https?://[^/]+(/.*)?", self.registry):
            raise ValueError(f"registry must be an http:// or https:// URL, got {self.registry!r}")
        name = urlsplit(self.registry or "").hostname or ""
        if self.registry and self.registry_token_file and not keeps_secrets(self.registry, name):
            raise ValueError(
                f"registry must be an https:// URL where there is a registry_token_file, or one of this machine or of "
                f"the cluster (*.svc, *.svc.cluster.local): others could read the token; got {self.registry!r}"
            )
