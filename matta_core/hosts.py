"""Which hosts a secret may be sent to."""

import ipaddress


def is_in_cluster(name: str) -> bool:
    """Whether it is a name of a Kubernetes cluster's own."""
    return name.endswith((".svc", ".svc.cluster.local"))


def keeps_secrets(url: str, name: str) -> bool:
    """Whether what is sent there stays between the two, or within this machine or the cluster.

    `name`: the host's, as that reads it which makes the connection.
    """
    if url.lower().startswith("https://") or name == "localhost" or is_in_cluster(name):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
