"""Hand-over to serving: a KServe InferenceService per pushed student, at its immutable version.

The manifest names a version and not the pointer: serving follows a push when the new manifest is applied, and goes back
when an older record's is. It is written into the PushRecord, since a version never changes.
"""

import json
import math
from pathlib import Path
from typing import Any

import yaml

from components.common.served.versions import version_name
from components.common.storage.storage import Storage
from matta_core.artifacts.kinds.evaluation import Results
from matta_core.artifacts.kinds.family import Member
from matta_core.recipe import ServingConfig

# The memory that KServe gives its Hugging Face runtime by default (its config/runtimes/kserve-huggingfaceserver.yaml).
# It is taken for what the server needs beside a model.
_SERVER_BYTES = 2 * 2**30
# Where nothing was measured, a model gets this many times its weights: as much again for what an answer takes.
_WEIGHTS_FACTOR = 2


def storage_uri(config: ServingConfig, storage: Storage, size: str, version: str) -> str:
    """KServe's address of a version: gs://, a path on a volume (push.serving.volume_claim), or file://."""
    name = version_name(size, version)
    if storage.local_path(name) is None:
        return storage.location(name)
    if config.volume_claim is not None:
        return f"pvc://{config.volume_claim}/{name}"
    return f"file://{storage.location(name)}"


def memory(config: ServingConfig, member: Member, results: Results, size: str) -> str:
    """A replica's memory as a Kubernetes quantity: `push.serving.memory`, else the sum of the server's and the model's.

    The model's is the peak that the evaluation measured on the CPU while it loaded the model and answered. If the
    evaluation or the serving is on a GPU, twice the weights are taken: an evaluation there measures the GPU's memory,
    which says nothing of the replica's own.
    """
    if config.memory is not None:
        return config.memory
    measured = results["models"].get(size, {}).get("peak_memory_bytes")
    on_cpu = results["measured_on"]["device"] == "cpu" and not config.gpus
    needed = measured if measured and on_cpu else _WEIGHTS_FACTOR * member["bytes"]
    return f"{math.ceil((_SERVER_BYTES + needed) / 2**20)}Mi"


def arguments(config: ServingConfig, name: str, model: Path) -> list[str]:
    """The model server's arguments, as in KServe 0.16 to 0.20.

    By default the server turns float32 weights into float16 on a GPU. On a CPU it takes vLLM, which keeps a cache of
    its own size; here it must take transformers, which the evaluation measured and the push tried out.

    `model` is the checkpoint's folder, whose config.json says the dtype of the weights.
    """
    dtype = json.loads((model / "config.json").read_text(encoding="utf-8"))["dtype"]
    backend = [] if config.gpus else ["--backend=huggingface"]
    return [f"--model_name={name}", f"--dtype={dtype}", *backend]


def inference_service(
    config: ServingConfig, storage: Storage, size: str, version: str, digest: str, *, memory: str, arguments: list[str]
) -> dict[str, Any]:
    """The InferenceService (serving.kserve.io/v1beta1) for KServe's Hugging Face runtime."""
    name = config.service_name(size)
    resources: dict[str, Any] = {"cpu": config.cpu, "memory": memory}
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
                    "args": arguments,
                    "storageUri": storage_uri(config, storage, size, version),
                    "resources": {"requests": dict(resources), "limits": dict(resources)},
                },
            }
        },
    }


def manifest(
    config: ServingConfig, storage: Storage, size: str, version: str, digest: str, *, memory: str, arguments: list[str]
) -> str:
    """The manifest as YAML, with a warning where a cluster cannot see the files."""
    service = inference_service(config, storage, size, version, digest, memory=memory, arguments=arguments)
    warning = ""
    if service["spec"]["predictor"]["model"]["storageUri"].startswith("file://"):
        warning = (
            "# storageUri is a path on the machine that pushed: it works only where that path is mounted in the\n"
            "# serving pod. For a cluster, push to gs://, or set push.serving.volume_claim.\n"
        )
    return warning + yaml.safe_dump(service, sort_keys=False)
