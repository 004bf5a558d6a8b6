"""The release of a Kubeflow Pipelines, and whether it can run our pipelines.

By its sources, a server says two things of itself. `tag_name` is the release up to 2.4 and from 2.16 on. In between,
and in images that somebody built without naming them, it is "unknown"; builds from the main branch say "master", others
what their builder chose, or nothing. `pipeline_store` is there from 2.14 on, whatever the tag says. Either is proof
enough; a server that gives neither is taken for an older one.
"""

import re
from typing import Any

from pipelines.kubeflow.client import Client
from pipelines.kubeflow.errors import KubeflowError

_OLDEST = (2, 14)
_WHY = (
    "MatTA needs 2.14 or later: earlier ones refuse a pipeline's name, do not collect the artifacts of a loop and keep "
    "one label of a pod; upgrade it, or give another --host"
)


def check_release(client: Client) -> None:
    """Check the server's release. Raises: KubeflowError where it is, or must be taken for, one before 2.14."""
    health = client.health
    release = _release(health.get("tag_name"))
    if health.get("pipeline_store") or (release and release >= _OLDEST):
        return
    if release:
        raise KubeflowError(f"{client.host} is Kubeflow Pipelines {health['tag_name']}; {_WHY}", 2)
    raise KubeflowError(
        f"{client.host} says neither its release (tag_name {health.get('tag_name')!r}) nor its pipeline_store, as "
        f"Kubeflow Pipelines before 2.14 do; {_WHY}",
        2,
    )


def _release(tag: Any) -> tuple[int, int] | None:
    """(2, 14) for "2.14.0" or "v2.14.0-rc.1"; None for what is no release's name."""
    match = re.fullmatch(r"v?(\d+)\.(\d+)\.\d+(-[\w.]+)?", tag) if isinstance(tag, str) else None
    return (int(match[1]), int(match[2])) if match else None
