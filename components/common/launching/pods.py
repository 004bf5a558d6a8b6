"""The pods of a TrainJob: rank 0's lines as they come, what holds a pod up, and the container that failed first."""

import time
from dataclasses import dataclass, field
from datetime import datetime

from kubernetes.client import V1ContainerStateTerminated, V1ContainerStatus, V1Pod

from components.common.launching.cluster_api import TrainJobs, node_rank
from components.common.launching.config import LaunchConfig
from components.common.launching.manifest import NODE
from components.common.launching.ranks import TAIL_LINES, RankFailure, RankLog, failure_in

_ROUND_SECONDS = 120.0  # within so long, a failure brings the other nodes down
_MARGIN_SECONDS = 10  # of the log are read again; time stamps tell which lines are known


@dataclass(frozen=True)
class _Failed:
    pod: str
    node: int
    finished_at: datetime | None
    reason: str
    failure: RankFailure
    seen_at: float = field(default_factory=time.monotonic)


class PodWatch:
    """Watches the pods: each look shows new lines and notes failures."""

    def __init__(self, jobs: TrainJobs, launch: LaunchConfig) -> None:
        self._jobs, self._launch = jobs, launch
        self._log = RankLog()
        self._shown_until = ""  # the time stamp of the last line shown
        self._shown_at_once = 0  # how many lines have that time stamp
        self._read_at: float | None = None
        self._failed: dict[str, _Failed] = {}  # the last failure of each pod
        self._known: set[str] = set()  # containers whose end was noted
        self._told = ""

    def look(self, pods: list[V1Pod]) -> None:
        """Show new lines and note new failures."""
        for pod in pods:
            self._note_failure(pod)
        leader = [pod for pod in pods if node_rank(pod) == 0]
        if leader and (status := _status(leader[-1])) and (status.state.running or status.state.terminated):
            self._show(leader[-1].metadata.name)
        running = sum(bool((status := _status(pod)) and status.state.running) for pod in pods)
        told = "; ".join([f"{running} of {self._launch.nodes} nodes run", *filter(None, map(_obstacle, pods))])
        if told != self._told and any(pod.status.phase in ("Pending", "Running") for pod in pods):
            print(told, flush=True)
            self._told = told

    @property
    def failure(self) -> RankFailure | None:
        """The failure that caused the others, as far as can be told."""
        return self._first().failure if self._failed else None

    def error(self) -> Exception:
        """The exception of that failure. It names the others."""
        first = self._first()
        ranks = self._launch.processes_per_node
        where = f"in pod {first.pod} (node {first.node}, ranks {first.node * ranks} to {(first.node + 1) * ranks - 1}"
        where += f"; {first.reason})" if first.reason and first.reason != "Error" else ")"
        if others := [f"rank {each.failure.rank} in {each.pod}" for each in self._failed.values() if each is not first]:
            where += f", and after it {', '.join(others)}"
        return first.failure.error(where)

    def _first(self) -> _Failed:
        """The failure to report from the last round: first a mistake that would come again, then a killed process, then
        the earliest.

        The other ranks fail within the same second, as their connection breaks. So times alone do not tell.
        """
        return min(
            self._last_round(),
            key=lambda each: (
                not each.failure.is_final,
                each.reason not in ("OOMKilled", "Evicted") and each.failure.exit_code != -9,
                each.finished_at.timestamp() if each.finished_at else 0.0,
            ),
        )

    def _last_round(self) -> list[_Failed]:
        """The latest failures. A failure of hours ago, after which the container was started again, does not count."""
        latest = max(each.seen_at for each in self._failed.values())
        return [each for each in self._failed.values() if latest - each.seen_at <= _ROUND_SECONDS]

    def _note_failure(self, pod: V1Pod) -> None:
        """Note a pod's failure with the end of its log. A failed job may delete its pods, so it is read at once."""
        name = pod.metadata.name
        if pod.status.reason == "Evicted" and name not in self._known:
            self._known.add(name)
            failure = RankFailure(None, 137, pod.status.message or "evicted")
            self._failed[name] = _Failed(name, node_rank(pod), None, "Evicted", failure)
        if (ended := _ended(_status(pod))) is None or ended[0].container_id in self._known:
            return
        container, is_previous = ended
        self._known.add(container.container_id)
        if container.exit_code == 0:
            return
        lines = self._jobs.log(name, previous=is_previous, tail_lines=20 * TAIL_LINES)
        failure = failure_in(lines, container.exit_code)
        self._failed[name] = _Failed(name, node_rank(pod), container.finished_at, container.reason or "", failure)
        print(f"{name}: ended with status {container.exit_code} ({container.reason})", flush=True)

    def _show(self, pod: str) -> None:
        asked_at, options = time.monotonic(), {}
        if self._read_at is not None:
            options["since_seconds"] = int(asked_at - self._read_at) + _MARGIN_SECONDS
        count = 0  # of lines so far with the same time stamp
        for line in self._jobs.log(pod, timestamps=True, **options):
            stamp, _, text = line.partition(" ")
            if stamp < self._shown_until:  # as text, RFC 3339 with nine digits and Z has the order of time
                continue
            count = count + 1 if stamp == self._shown_until else 1
            if stamp == self._shown_until and count <= self._shown_at_once:
                continue
            self._shown_until, self._shown_at_once = stamp, count
            for each in self._log.add(text):
                print(each, flush=True)
        self._read_at = asked_at


def _status(pod: V1Pod) -> V1ContainerStatus | None:
    return next((each for each in pod.status.container_statuses or [] if each.name == NODE), None)


def _ended(status: V1ContainerStatus | None) -> tuple[V1ContainerStateTerminated, bool] | None:
    """The container's last end, and whether it has been started again since."""
    if status is None:
        return None
    if status.state.terminated:
        return status.state.terminated, False
    if status.last_state and status.last_state.terminated:
        return status.last_state.terminated, True
    return None


def _obstacle(pod: V1Pod) -> str | None:
    """Why the pod does not run: it cannot be placed, or its image or a secret is missing."""
    status = _status(pod)
    if (
        status
        and status.state.waiting
        and status.state.waiting.reason not in (None, "ContainerCreating", "PodInitializing")
    ):
        waiting = status.state.waiting
        return f"{pod.metadata.name} waits: {waiting.reason}: {waiting.message or ''}".rstrip(": ")
    for condition in pod.status.conditions or []:
        if condition.type == "PodScheduled" and condition.status == "False":
            return f"{pod.metadata.name} waits: {condition.reason}: {condition.message}"
    return None
