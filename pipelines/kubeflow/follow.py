"""Follow a run: its steps as a table on a terminal, else a line per change; then what failed, with its log's end."""

import contextlib
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any, TextIO

from kfp_server_api import V2beta1RuntimeState as State
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from pipelines.kubeflow.client import Client
from pipelines.kubeflow.errors import KubeflowError, errors_explained, shortened
from pipelines.kubeflow.failures import Failure, failures

# kfp's own wait_for_run_completion knows neither CANCELED nor a server that is away for a moment.
_ENDED = (State.SUCCEEDED, State.FAILED, State.CANCELED, State.SKIPPED)
_WELL_ENDED = (State.SUCCEEDED, State.SKIPPED)
_SECONDS_WITHOUT_SERVER = 600
_LOG_LINES = 40
# The API server's word for Argo's phase Omitted: the step never began, because of something before it.
_OMITTED = State.RUNTIME_STATE_UNSPECIFIED
_COLOURS = {State.SUCCEEDED: "green", State.FAILED: "red", State.RUNNING: "cyan", State.CANCELED: "yellow"}


@dataclass(frozen=True)
class StepOfRun:
    """A task of the run, under the name that a person knows.

    `seconds` counts from its start; it is None before. `node` is the id of the workflow's node that it began last, by
    which the API server finds a log; it is "" where the task began none.
    """

    name: str
    place: int
    state: str
    seconds: float | None
    node: str


class WaitTimeoutError(RuntimeError):
    """The run goes on, but nobody waits for it any longer."""


def follow(
    client: Client,
    run_id: str,
    order: list[str],
    output: TextIO,
    *,
    namespace: str,
    timeout_seconds: float | None,
    poll_seconds: float,
) -> bool:
    """Wait until the run ends. Returns whether it ended well.

    `order` lists the steps' names as the table shall have them; `namespace` is that of the run's pods.

    A server that gives no answer is asked again for ten minutes: the run goes on without us.

    Raises: WaitTimeoutError after `timeout_seconds`; KubeflowError where the server refuses, or is away for too long.
    """
    console = Console(file=output, highlight=False, soft_wrap=True)
    started = last_answer = time.monotonic()
    seen: dict[str, str] = {}
    table = Live(console=console, auto_refresh=False) if console.is_terminal else contextlib.nullcontext()
    ends_seen = 0
    with table as live:
        while True:
            try:
                with errors_explained(client.host):
                    run = client.get_run(run_id)
                last_answer = time.monotonic()
            except KubeflowError as error:
                if error.exit_status == 2 or time.monotonic() - last_answer > _SECONDS_WITHOUT_SERVER:
                    raise
                console.print(escape(f"{error}; asking again"))
                run = None
            if run is not None:
                if run.error:  # the run exists, but the server cannot read its own record of it
                    raise KubeflowError(f"{client.host} cannot tell of run {run_id}: {shortened(run.error.message)}", 5)
                steps = steps_of_run(run, order)
                if live is not None:
                    live.update(_table(run, steps), refresh=True)
                else:
                    for step in steps:
                        if seen.get(step.name, State.PENDING) != step.state:
                            console.print(escape(_line(step)))
                        seen[step.name] = step.state
                ends_seen += run.state in _ENDED
                # The server records the end of a run before the ends of its tasks: ask once more.
                if ends_seen > 1 or (ends_seen and all(step.state != State.RUNNING for step in steps)):
                    break
            if timeout_seconds is not None and time.monotonic() - started >= timeout_seconds:
                raise WaitTimeoutError(f"the run has not ended within {timeout_seconds:g} s; it goes on")
            time.sleep(poll_seconds)
    if run.state in _WELL_ENDED:
        return True
    _tell_failures(console, client, run, steps, order, namespace)
    return False


def steps_of_run(run: Any, order: list[str]) -> list[StepOfRun]:
    """The run's steps: those named in `order`, and drivers that failed. Kubeflow's other tasks (the root, loops and
    conditions, attempts, each step's executor pod) are among them only where nothing else says what failed.

    The steps of a loop have one name; they are numbered.
    """
    tasks = (run.run_details.task_details if run.run_details else None) or []

    def is_failed_driver(task: Any) -> bool:
        return task.state == State.FAILED and (task.display_name or "").endswith("-driver")

    shown = [task for task in tasks if task.display_name in order or is_failed_driver(task)]
    if not any(task.state == State.FAILED for task in shown):
        shown += [task for task in tasks if task.state == State.FAILED]
    places = {name: place for place, name in enumerate(order)}
    steps: list[StepOfRun] = []
    met: Counter[str] = Counter()
    for task in shown:
        name = task.display_name or task.task_id
        met[name] += 1
        children = [child.pod_name for child in task.child_tasks or [] if child.pod_name]
        steps.append(
            StepOfRun(
                name=name if met[name] == 1 else f"{name} ({met[name]})",
                place=places.get(name.removesuffix("-driver"), len(places)),
                state=State.SKIPPED if task.state == _OMITTED else task.state or State.PENDING,
                seconds=_seconds(task),
                node=children[-1] if children else "",
            )
        )
    not_begun = State.SKIPPED if run.state in _ENDED else State.PENDING
    steps += [StepOfRun(name, places[name], not_begun, None, "") for name in order if not met[name]]
    return sorted(steps, key=lambda step: step.place)


def _seconds(task: Any) -> float | None:
    """Seconds from the task's start to its end, or to now. Go writes the year 1 where a task has not ended."""
    if not task.start_time or task.start_time.year == 1 or task.state in (State.SKIPPED, _OMITTED):
        return None
    ended = task.end_time and task.end_time >= task.start_time
    end = task.end_time.timestamp() if ended else time.time()
    return max(0.0, end - task.start_time.timestamp())


def _table(run: Any, steps: list[StepOfRun]) -> Table:
    table = Table(title=escape(f"{run.display_name}: {run.state}"), title_justify="left")
    table.add_column("step")
    table.add_column("state")
    table.add_column("time", justify="right")
    for step in steps:
        colour = _COLOURS.get(step.state, "")
        table.add_row(
            escape(step.name), f"[{colour}]{step.state}[/]" if colour else step.state, _duration(step.seconds)
        )
    return table


def _line(step: StepOfRun) -> str:
    return f"{time.strftime('%H:%M:%S')} {step.name:<20} {step.state:<10} {_duration(step.seconds)}".rstrip()


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"


def _tell_failures(
    console: Console, client: Client, run: Any, steps: list[StepOfRun], order: list[str], namespace: str
) -> None:
    console.print(f"run {escape(run.display_name or run.run_id)}: {run.state}")
    day = ""
    try:
        with errors_explained(client.host):
            workflow = client.workflow(run.run_id)
        day = (workflow["metadata"].get("creationTimestamp") or "")[:10]
        found = failures(workflow, order)
    except KubeflowError as error:
        console.print(escape(f"why is not to be had here: {error}"))
        found = [Failure(step.name, "", step.node) for step in steps if step.state == State.FAILED]
    for failure in found:
        console.print(escape(f"step {failure.step} failed{f': {failure.why}' if failure.why else ''}"))
        if failure.pod:
            console.print(escape(f"  pod {failure.pod}"))
            for line in _end_of_log(client, run.run_id, failure.pod, namespace, day):
                console.print(escape(f"    {line}"))
        if failure.archived:
            console.print(escape(f"  its log is kept in {failure.archived}"))
    # Kubeflow Pipelines 2.17 deletes a workflow, and its pods with it, an hour after it ends.
    pods = f"kubectl logs -n {namespace} -l pipeline/runid={run.run_id} -c main --tail=-1 --prefix"
    console.print(f"logs, as long as there are pods: {pods}")
    console.print(f"or in the browser: {client.run_link(run.run_id)}")


def _end_of_log(client: Client, run_id: str, pod: str, namespace: str, day: str) -> list[str]:
    """The log's last lines, or why there are none."""
    try:
        with errors_explained(client.host):
            return client.pod_log(run_id, pod, namespace=namespace, day=day).splitlines()[-_LOG_LINES:]
    except KubeflowError as error:
        return [f"its log is not to be had here: {error}"]
