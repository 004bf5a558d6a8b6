"""The pods that a compiled pipeline asks Kubernetes for, and Kubernetes' own schemas to hold them against."""

import kubernetes_validate
from golden_files import pipeline_spec, platform_spec
from kubernetes.utils.quantity import parse_quantity

VERSIONS = ("1.30", "1.34")


def check(resource: dict) -> None:
    """Raises: kubernetes_validate.ValidationError where the published schemas do not have it."""
    for version in VERSIONS:
        kubernetes_validate.validate(resource, version, strict=True)


def pods_of(documents: list[dict]) -> dict[str, dict]:
    """The steps' pods of a compiled pipeline, by executor."""
    configs = platform_spec(documents)["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    executors = pipeline_spec(documents)["deploymentSpec"]["executors"]
    return {name: _pod(executor["container"], configs[name]) for name, executor in executors.items()}


def _pod(container: dict, config: dict) -> dict:
    """The pod that Kubeflow's compiler and driver make of a step's container and its kfp-kubernetes settings.

    Its security as of release 2.16: seccomp for the pod, whose securityContext takes the workflow's place, so that
    neither a user nor runAsNonRoot is left of that; for the container the rest, and the step's own settings.
    """
    resources = container["resources"]
    accelerator = resources.get("accelerator")
    amounts = {
        "requests": {"cpu": resources["resourceCpuRequest"], "memory": resources["resourceMemoryRequest"]},
        "limits": {"cpu": resources["resourceCpuLimit"], "memory": resources["resourceMemoryLimit"]}
        | ({accelerator["resourceType"]: accelerator["resourceCount"]} if accelerator else {}),
    }
    for kind in amounts.values():
        assert all(parse_quantity(amount) > 0 for amount in kind.values())
    assert all(
        parse_quantity(amounts["requests"][name]) <= parse_quantity(amounts["limits"][name])
        for name in ("cpu", "memory")
    )
    shared = config.get("emptyDirMounts", [])
    claims = config.get("pvcMount", [])
    secrets = [
        {"name": key["envVar"], "valueFrom": {"secretKeyRef": {"name": secret["secretName"], "key": key["secretKey"]}}}
        for secret in config.get("secretAsEnv", [])
        for key in secret["keyToEnv"]
    ]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "step", **config.get("podMetadata", {})},
        "spec": {
            "nodeSelector": config.get("nodeSelector", {}).get("labels", {}),
            "tolerations": config.get("tolerations", []),
            "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
            "activeDeadlineSeconds": int(config["activeDeadlineSeconds"]),
            "containers": [
                {
                    "name": "main",
                    "image": container["image"],
                    "command": container["command"],
                    "args": container["args"],
                    "env": [*container["env"], *secrets],
                    "resources": amounts,
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "capabilities": {"drop": ["ALL"]},
                        "seccompProfile": {"type": "RuntimeDefault"},
                    }
                    | {
                        name: int(value) if isinstance(value, str) else value  # int64 is a string in protos' JSON
                        for name, value in config.get("securityContext", {}).items()
                    },
                    "volumeMounts": [
                        {"name": f"volume-{number}", "mountPath": mount["mountPath"]}
                        for number, mount in enumerate([*shared, *claims])
                    ],
                }
            ],
            "volumes": [
                *(
                    {"name": f"volume-{number}", "emptyDir": {key: each[key] for key in ("medium", "sizeLimit")}}
                    for number, each in enumerate(shared)
                ),
                *(
                    {"name": f"volume-{number}", "persistentVolumeClaim": {"claimName": each["constant"]}}
                    for number, each in enumerate(claims, start=len(shared))
                ),
            ],
        },
    }
