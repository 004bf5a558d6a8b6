"""Scheduled retraining on this machine: a local run between what find_data and record_span do on a cluster.

On a cluster the lease is renewed within the run; here it is not. A local run that takes longer than
`retrain.lease_seconds` goes on beside the next one, and learns of it at its end.
"""

import contextlib
import dataclasses
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path

from components.common.disk import make_directory
from components.common.locks import locked
from components.common.step_runner import say
from components.find_data.step import Findings, Sections, find_data, finish, give_up
from matta_core.artifacts import write_json_atomically
from matta_core.artifacts.json_files import read_json
from matta_core.artifacts.kinds.report import read_summary
from matta_core.recipe import Recipe

_IDS = ".runs.json"


@contextlib.contextmanager
def scheduled(recipe: Recipe, output: Path) -> Iterator[Recipe | None]:
    """The recipe with the newest span as its source, while this run holds the lease. None where nothing is to be done.

    If the body succeeds, the span is recorded as processed, with what was pushed according to `output`/summary.json. If
    it fails, the lease is given back. A run that was killed takes its lease again when it is started with the same
    output. A recipe without `retrain` comes back as it is.

    Raises: UserError as `find_data`.
    """
    if recipe.retrain is None:
        yield recipe
        return
    make_directory(output)
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(locked(output / ".lock", wait=False))
        except BlockingIOError:
            say("find_data", f"this run ends here, with nothing to do: another one is at work in {output}")
            yield None
            return
        sections: Sections = {"config": recipe.retrain, "push_config": recipe.push, "name": recipe.name}
        found, run = _find(sections, output)
        if found.source is None or found.span is None:
            yield None
            return
        data = dataclasses.replace(recipe.prepare_data, source=found.source)
        try:
            yield dataclasses.replace(recipe, prepare_data=data, retrain=None)
        except BaseException:
            give_up(**sections, run=run)
            raise
        students = read_summary(output)["students"]
        pushed = [size for size, student in students.items() if student["pushed_to"] is not None]
        finish(**sections, run=run, span=found.span, pushed=pushed)


def _find(sections: Sections, output: Path) -> tuple[Findings, str]:
    """What this start of the run in `output` is to do, and its id.

    Every start draws a new id: machines can have equal names and paths, and copies of one output, and whoever takes a
    lease must take it from all copies. The id is written down before it is used, so that a run that is killed in
    between knows all ids under which it may hold its lease.
    """
    file = output / _IDS
    earlier = read_json(file, list[str], remedy="delete it, and release the lease") if file.exists() else []
    run = f"{socket.gethostname()}:{output.resolve()}#{uuid.uuid4().hex[:16]}"
    write_json_atomically(file, [*earlier, run])
    found = find_data(**sections, run=run, earlier=earlier)
    write_json_atomically(file, earlier if found.source is None else [run])
    return found, run
