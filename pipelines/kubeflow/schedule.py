"""Recurring runs, one per name, replaced without ever having two at once.

Kubeflow cannot change a recurring run, and lets several have one name. This order makes a name mean one of them: create
the new one disabled; delete the older ones of that name; enable the new one. If the command is killed after the first
step, the old one still runs and the new one is disabled; if it is killed later, none runs. The same command, repeated,
finds the new one by the digest of its settings, which is in its description, and goes on from there. Of two commands at
once, the one that created last wins: the other finds that out, deletes its own and says so.

Only the schedule is replaced: a run that the old one has started goes on. The lease that the pipeline takes keeps it
from overlapping with the new one's first run (components/find_data).
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from kfp_server_api import RecurringRunMode
from kfp_server_api.exceptions import ApiException

from matta_core.artifacts import digest_of
from matta_core.errors import UserError
from pipelines.cluster import ClusterProfile
from pipelines.kubeflow.client import Client, answered_once, by_display_name, every
from pipelines.kubeflow.submit import PipelineVersion

_DIGEST_LINE = re.compile(r"settings sha256:(?P<digest>[0-9a-f]{64})")


@dataclass(frozen=True)
class Timing:
    """When a schedule runs. `cron` has Kubeflow's six fields. Times have a time zone; None is no bound.

    With `catch_up=False` there is one run after a pause or an outage, not one for each that was missed: they would all
    retrain on the same newest data.
    """

    cron: str
    start: datetime | None = None
    end: datetime | None = None
    max_concurrency: int = 1
    catch_up: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.max_concurrency <= 10:
            raise UserError(f"--max-concurrency must be from 1 to 10, got {self.max_concurrency}")
        if self.end and self.start and self.end <= self.start:
            raise UserError(f"--end must come after --start, got {self.end} and {self.start}")
        if self.end and self.end <= datetime.now(UTC):
            raise UserError(f"--end must lie in the future, got {self.end}")


def read_time(text: str) -> datetime:
    """The time that ISO 8601 text names; without an offset it is UTC. Raises: UserError."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise UserError(f"a time must look like 2026-12-01T03:00 or 2026-12-01T03:00+01:00, got {text!r}") from None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def schedules(client: Client, name: str | None = None) -> list[Any]:
    """All recurring runs, or those of one name, oldest first."""
    listed = every(
        client.list_recurring_runs,
        "recurring_runs",
        namespace=client.get_user_namespace(),
        filter=by_display_name(name) if name else None,
    )
    return sorted(listed, key=lambda item: (item.created_at, item.recurring_run_id))


def is_enabled(schedule: Any) -> bool:
    return schedule.mode == RecurringRunMode.ENABLE


def put_schedule(
    client: Client,
    name: str,
    timing: Timing,
    version: PipelineVersion,
    *,
    experiment: str,
    parameters: dict[str, Any],
    cluster: ClusterProfile,
) -> tuple[Any, str]:
    """Make `name` mean this one recurring run, enabled. Returns it, and created, replaced, enabled or unchanged.

    Raises: UserError where another command replaced the schedule at the same time; KubeflowError or kfp's own errors,
    after which the same call repairs what they left.
    """
    digest = digest_of(
        {
            "cron": timing.cron,
            "start": timing.start and timing.start.isoformat(),
            "end": timing.end and timing.end.isoformat(),
            "max_concurrency": timing.max_concurrency,
            "catch_up": timing.catch_up,
            "pipeline": [version.pipeline_id, version.version_id],
            "experiment": experiment,
            "parameters": parameters,
            "pipeline_root": cluster.pipeline_root,
            "service_account": cluster.service_account,
        }
    )

    def find() -> Any:
        """The newest of this name, if it is what is asked for."""
        newest = schedules(client, name)[-1:]
        return newest[0] if newest and _digest(newest[0]) == digest else None

    def create() -> Any:
        return client.create_recurring_run(
            experiment,
            name,
            description=f"version {version.name}; settings sha256:{digest}",
            start_time=timing.start and timing.start.isoformat(),
            end_time=timing.end and timing.end.isoformat(),
            cron_expression=timing.cron,
            max_concurrency=timing.max_concurrency,
            no_catchup=not timing.catch_up,
            params=parameters,
            pipeline_id=version.pipeline_id,
            version_id=version.version_id,
            enabled=False,
            pipeline_root=cluster.pipeline_root,
            service_account=cluster.service_account,
        )

    made = None if find() else answered_once(client, create, find)
    # They are listed after the creation: of two commands at once, at least the one that created later sees both.
    *older, kept = schedules(client, name) or [None]
    if kept is None or _digest(kept) != digest:
        if made:
            _delete(client, made)
        raise _replaced_meanwhile(name)
    for other in older:
        _delete(client, other)
    if is_enabled(kept):
        return kept, "replaced" if older else "unchanged"
    try:
        _switch(client, kept, on=True)
    except ApiException as error:
        if error.status == 404:
            raise _replaced_meanwhile(name) from None
        raise
    return kept, "replaced" if older else "created" if made else "enabled"


def pause(client: Client, name: str) -> None:
    """Start no further runs; those under way go on. Raises: UserError where there is no such schedule."""
    for item in _named(client, name):
        _switch(client, item, on=False)


def resume(client: Client, name: str) -> None:
    """Start runs again. Raises: UserError where there is no such schedule, or a replacement was cut short."""
    items = _named(client, name)
    if len(items) > 1:
        raise UserError(
            f"{len(items)} recurring runs are named {name}: a replacement was cut short; repeat its `schedule --name "
            f"{name} --cron …`, which leaves one"
        )
    _switch(client, items[0], on=True)


def delete(client: Client, name: str) -> None:
    """Delete the schedule, and what a replacement that was cut short has left of it. Runs under way go on."""
    for item in _named(client, name):
        _delete(client, item)


def _named(client: Client, name: str) -> list[Any]:
    if items := schedules(client, name):
        return items
    known = sorted({item.display_name for item in schedules(client)})
    raise UserError(f"there is no schedule named {name!r}; there are: {', '.join(known) or 'none'}")


def _switch(client: Client, item: Any, *, on: bool) -> None:
    change = client.enable_recurring_run if on else client.disable_recurring_run
    answered_once(client, lambda: change(item.recurring_run_id), lambda: None)


def _delete(client: Client, item: Any) -> None:
    try:
        client.delete_recurring_run(item.recurring_run_id)
    except ApiException as error:
        if error.status != 404:  # somebody else has deleted it
            raise


def _digest(item: Any) -> str | None:
    match = _DIGEST_LINE.search(item.description or "")
    return match and match["digest"]


def _replaced_meanwhile(name: str) -> UserError:
    return UserError(f"another command replaced the schedule {name} at the same time: look at --list, then repeat this")
