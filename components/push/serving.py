"""Hand-over to serving: a KServe InferenceService per pushed student, at its immutable version.

The manifest names a version and not the pointer: applying it again is how serving follows a push, and an older
record's manifest is how it goes back. It is written into the PushRecord, since a version never changes.
"""

from typing import Any

import yaml

from components.push.store import Store
from components.push.versions import version_name
from matta_core.config import ServingConfig


def storage_uri(config: ServingConfig, store: Store, size: str, version: str) -> str:
    """gs:// as it is; a local target as a volume's (push.serving.volume_claim), else as file://."""
    name = version_name(size, version)
    if store.local_path(name) is None:
        return store.location(name)
    if config.volume_claim is not None:
        return f"pvc://{config.volume_claim}/{name}"
    return f"file://{store.location(name)}"


def inference_service(config: ServingConfig, store: Store, size: str, version: str, digest: str) -> dict[str, Any]:
    """serving.kserve.io/v1beta1, for KServe's Hugging Face runtime."""
    name = config.service_name(size)
    resources: dict[str, Any] = {"cpu": config.cpu, "memory": config.memory}
    if config.gpus:
        resources["nvidia.com/gpu"] = str(config.gpus)
    account = {} if config.service_account is None else {"serviceAccountName": config.service_account}
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {
            "name": name,
            "namespace": config.namespace,
            "labels": {"matta/size": size, "matta/version": version},
            "annotations": {"matta/content-digest": digest},
        },
        "spec": {
            "predictor": {
                **account,
                "minReplicas": config.min_replicas,
                "maxReplicas": config.max_replicas,
                "model": {
                    "modelFormat": {"name": "huggingface"},
                    "args": [f"--model_name={name}"],
                    "storageUri": storage_uri(config, store, size, version),
                    "resources": {"requests": dict(resources), "limits": dict(resources)},
                },
            }
        },
    }


def manifest(config: ServingConfig, store: Store, size: str, version: str, digest: str) -> str:
    """The manifest as YAML, with a word of warning where a cluster cannot see the files."""
    service = inference_service(config, store, size, version, digest)
    warning = ""
    if service["spec"]["predictor"]["model"]["storageUri"].startswith("file://"):
        warning = (
            "# storageUri is a path on the machine that pushed: it works only where that path is mounted in the\n"
            "# serving pod. For a cluster, push to gs://, or set push.serving.volume_claim.\n"
        )
    return warning + yaml.safe_dump(service, sort_keys=False)
