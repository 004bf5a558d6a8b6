"""Which hosts a secret may be sent to."""

import ipaddress


def is_in_cluster(name: str) -> bool:
    """Whether it is the name of a service in a Kubernetes cluster."""
    return name.endswith((".svc", ".svc.cluster.local"))


def keeps_secrets(url: str, name: str) -> bool:
    """Whether nobody else can read what is sent there: over https, on this machine, or in the cluster.

    `name` is the host's name as the library that makes the connection reads it.
    """
    if url.lower().startswith("https://") or name == "localhost" or is_in_cluster(name):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
