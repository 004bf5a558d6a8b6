"""Kubernetes' Pod Security Standard "restricted", and "baseline", which it contains, by their documentation."""

from typing import Any

_VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}


def violations(spec: dict[str, Any]) -> list[str]:
    """What a namespace with `pod-security.kubernetes.io/enforce: restricted` refuses of a pod's specification."""
    found = [f"{name} is set" for name in ("hostNetwork", "hostPID", "hostIPC") if spec.get(name)]
    for volume in spec.get("volumes", []):
        found += [f"volume {volume['name']}: {kind}" for kind in volume.keys() - {"name"} - _VOLUMES]
    pod = spec.get("securityContext", {})
    found += [f"sysctl {sysctl['name']}" for sysctl in pod.get("sysctls", [])]  # a few are safe; none is ours
    if pod.get("runAsUser") == 0:
        found.append("the pod's runAsUser is 0")
    for kind in ("initContainers", "containers", "ephemeralContainers"):
        for container in spec.get(kind, []):
            own = container.get("securityContext", {})
            found += [f"{container['name']}: {problem}" for problem in _of_container(pod, own, container)]
    return found


def _of_container(pod: dict[str, Any], own: dict[str, Any], container: dict[str, Any]) -> list[str]:
    either = pod | own  # a container's setting takes the pod's place
    capabilities = own.get("capabilities", {})
    allowed = {
        "runAsNonRoot is not true": either.get("runAsNonRoot") is True,
        "runAsUser is 0": own.get("runAsUser") != 0,
        "allowPrivilegeEscalation is not false": own.get("allowPrivilegeEscalation") is False,
        "privileged": not own.get("privileged"),
        "capabilities do not drop ALL": "ALL" in capabilities.get("drop", []),
        "capabilities are added": set(capabilities.get("add", [])) <= {"NET_BIND_SERVICE"},
        "seccompProfile is not RuntimeDefault or Localhost": either.get("seccompProfile", {}).get("type")
        in ("RuntimeDefault", "Localhost"),
        "procMount": own.get("procMount", "Default") == "Default",
        "hostPort": not any(port.get("hostPort") for port in container.get("ports", [])),
    }
    return [problem for problem, holds in allowed.items() if not holds]
