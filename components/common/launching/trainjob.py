"""Several nodes: a TrainJob is created or found again, followed to its end, and deleted when the step is cancelled."""

import time
from datetime import datetime
from pathlib import Path
from typing import Any

from kubeflow.common.utils import get_default_target_namespace

from components.common.launching.cluster_api import TrainJobs
from components.common.launching.config import LaunchConfig
from components.common.launching.heartbeat import LIMIT_SECONDS, heartbeat
from components.common.launching.manifest import RUN, SPEC_DIGEST, Owner, this_run, trainjob_manifest
from components.common.launching.pods import PodWatch
from components.common.launching.torchrun import exit_on_signals
from matta_core.errors import UserError

_CLEAN_UP_SECONDS = 20.0  # of the 30 that Kubernetes gives a pod
_DELETION_SECONDS = 300.0


def run_trainjob(
    launch: LaunchConfig, command: list[str], *, name: str, heartbeat_file: Path, poll_seconds: float = 2.0
) -> None:
    """Run `python -m` + `command` in every rank of a TrainJob, show rank 0's output, and wait for the end.

    A job of that name may be there already. If an earlier attempt of this run started it and it still runs, it is
    followed. If it ended, or is this run's and asks for something else, it is deleted first. The job belongs to this
    step's pod, and is deleted with it. The ranks end themselves if this process does not keep `heartbeat_file` new.

    Raises: UserError, TrainingDivergedError or RuntimeError by how the first failing rank ended; UserError where
    another run's job does the same work; TimeoutError; SystemExit(128 + signal) after SIGTERM or SIGINT, with the job
    deleted.
    """
    owner = Owner.this_pod()
    if owner and launch.namespace not in ("", get_default_target_namespace()):
        raise UserError(
            f"launch_config.namespace is {launch.namespace!r}, but the TrainJob must be in the namespace of the step's "
            f"pod, which owns it: leave it empty"
        )
    jobs, run = TrainJobs(launch.namespace), this_run()
    manifest = trainjob_manifest(launch, command, name=name, owner=owner, run=run, heartbeat_file=heartbeat_file)
    with exit_on_signals(), heartbeat(heartbeat_file):
        try:
            _create_or_find(jobs, manifest, owner, poll_seconds)
            _follow(jobs, launch, manifest, poll_seconds)
        except SystemExit:
            job = jobs.get(name, patience_seconds=_CLEAN_UP_SECONDS / 2)
            if job and _run_of(job) == run:
                _tell(jobs, name, "deleted, as this step was told to end")
                jobs.delete(job, patience_seconds=_CLEAN_UP_SECONDS / 2)
            raise


def _create_or_find(jobs: TrainJobs, manifest: dict[str, Any], owner: Owner | None, poll_seconds: float) -> None:
    name, run = manifest["metadata"]["name"], _run_of(manifest)
    give_up_at = time.monotonic() + _DELETION_SECONDS
    while time.monotonic() < give_up_at:
        if (job := jobs.get(name)) is None:
            if jobs.create(manifest):
                _tell(jobs, name, "created")
                if owner is None:
                    _tell(
                        jobs,
                        name,
                        "belongs to no pod, as KFP_POD_NAME and KFP_POD_UID are not set: only this process ends it",
                    )
                return
            time.sleep(poll_seconds)  # another process was quicker: the job exists now
            continue
        metadata = job["metadata"]
        if metadata.get("deletionTimestamp"):
            time.sleep(poll_seconds)
            continue
        has_ended = _end_of(job) is not None
        if not has_ended and _run_of(job) != run:
            raise UserError(_held(jobs, job))
        same = metadata.get("annotations", {}).get(SPEC_DIGEST) == manifest["metadata"]["annotations"][SPEC_DIGEST]
        if same and not has_ended:
            if owner:
                jobs.set_owner(name, owner)
            _tell(jobs, name, "runs already, from an earlier attempt")
            return
        _tell(jobs, name, f"of an earlier attempt {'ended' if has_ended else 'has other settings'}: deleted")
        jobs.delete(job)
    raise RuntimeError(
        f"TrainJob {jobs.namespace}/{name} of an earlier attempt is still being deleted after {_DELETION_SECONDS:g} s: "
        f"look at its finalizers"
    )


def _run_of(job: dict[str, Any]) -> str:
    """The id of the run that started the job. It is '' if a process outside of a pod did."""
    return (job["metadata"].get("annotations") or {}).get(RUN, "")


def _held(jobs: TrainJobs, job: dict[str, Any]) -> str:
    name, run = job["metadata"]["name"], _run_of(job)
    holder = f"run {run}" if run else "a process outside of Kubeflow"
    minutes = LIMIT_SECONDS / 60
    return (
        f"TrainJob {jobs.namespace}/{name} does this very work already, for {holder}: wait until it has ended (this "
        f"step, run again, takes its result), or end that run (its job ends within {minutes:g} minutes). To end "
        f"the job by hand: kubectl delete trainjob {name} -n {jobs.namespace}"
    )


def _follow(jobs: TrainJobs, launch: LaunchConfig, manifest: dict[str, Any], poll_seconds: float) -> None:
    name, run = manifest["metadata"]["name"], _run_of(manifest)
    pods = PodWatch(jobs, launch)
    while True:
        job = jobs.get(name)
        if job is None or job["metadata"].get("deletionTimestamp") or _run_of(job) != run:
            raise RuntimeError(
                f"TrainJob {jobs.namespace}/{name} was deleted while it ran. The same step goes on from the newest "
                f"checkpoint"
            )
        created = datetime.fromisoformat(job["metadata"]["creationTimestamp"])
        # Pods of an earlier job of that name may still exist.
        pods.look([pod for pod in jobs.pods(name) if pod.metadata.creation_timestamp >= created])
        if pods.failure and pods.failure.is_final and _end_of(job) is None:
            jobs.delete(job)  # else its pods would be started again and fail again
            raise pods.error()
        if end := _end_of(job):
            if end["type"] == "Complete":
                return
            if end.get("reason") == "DeadlineExceeded":
                raise TimeoutError(
                    f"TrainJob {jobs.namespace}/{name} was ended after timeout_seconds = {launch.timeout_seconds}; "
                    f"the same step goes on from the newest checkpoint"
                )
            if pods.failure:
                raise pods.error()
            raise RuntimeError(f"TrainJob {jobs.namespace}/{name} failed: {end.get('reason')}: {end.get('message')}")
        time.sleep(poll_seconds)


def _end_of(job: dict[str, Any]) -> dict[str, Any] | None:
    """The condition with which the job ended; None while it runs."""
    conditions = (job.get("status") or {}).get("conditions") or []
    ended = [each for each in conditions if each["type"] in ("Complete", "Failed") and each["status"] == "True"]
    return ended[0] if ended else None


def _tell(jobs: TrainJobs, name: str, what: str) -> None:
    print(f"TrainJob {jobs.namespace}/{name}: {what}", flush=True)
