"""Three steps of scheduled retraining. find_data: is there new data, and may this run process it? renew_lease: may it
still? record_span: it has.

A run with nothing to do is no failure: it ends at once and says why.
"""

import contextlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from components.common.disk import disk_errors_explained
from components.common.step_runner import say
from components.common.storage.listing import find_files
from components.common.storage.open_storage import open_storage
from components.common.storage.storage import Storage
from components.find_data.ledger import (
    LEDGER,
    describe,
    read_entry,
    record_span,
    release_lease,
    renew_lease,
    take_lease,
)
from components.find_data.spans import Span, is_future, newest_span, parse_span
from matta_core.errors import UserError
from matta_core.recipe import PushConfig, RetrainConfig


@dataclass(frozen=True)
class Findings:
    """What a run has to do. `source` is a glob for prepare_data. Where there is nothing to do, `source` and `span` are
    None and `why` gives the reason."""

    span: str | None
    source: str | None
    why: str | None


class Sections(TypedDict):
    """The parts of a recipe that every function here gets: its `retrain`, its `push`, its name."""

    config: RetrainConfig
    push_config: PushConfig
    name: str


def find_data(
    config: RetrainConfig,
    push_config: PushConfig,
    *,
    name: str,
    run: str,
    scheduled_time: str = "",
    earlier: Collection[str] = (),
) -> Findings:
    """The newest complete span, if it was not processed yet, and the lease under which this run processes it.

    `name` is the recipe's. `run` is an id that a run keeps when it is tried again; `earlier` are ids that it had
    before. The span is not after `scheduled_time`.

    Raises: UserError where the spans or `<push.target>/spans.json` cannot be read, or the span holds no matching file.
    """
    span = newest_span(config, scheduled_time)
    if span is None:
        limit = f" up to {scheduled_time}" if scheduled_time else ""
        return _nothing(f"no complete span under {config.prefix}{limit}")
    with _ledger(push_config) as storage:
        source = f"{_folder(config)}{span.name}/{config.files}"
        try:
            num_files = len(find_files(source))
        except UserError as error:
            raise UserError(f"{span.name} is complete, but {config.files} matches none of its files: {error}") from None
        if (
            why := take_lease(storage, config.name or name, run, span, config.lease_seconds, earlier=earlier)
        ) is not None:
            return _nothing(why)
    say("find_data", f"{span.name} is new: {num_files:,} files; run {run} holds the lease")
    return Findings(span.name, source, None)


def span_of(config: RetrainConfig, source: str) -> str:
    """The name of the span to which a source of find_data belongs."""
    return source.removeprefix(_folder(config)).partition("/")[0]


def renew(config: RetrainConfig, push_config: PushConfig, *, name: str, run: str, span: str) -> None:
    """Take the lease again for a run under way, before work that no other run may do at the same time.

    Raises: UserError where the run has lost its lease: another run holds it, or has processed the span meanwhile.
    """
    with _ledger(push_config) as storage:
        lost = renew_lease(storage, config.name or name, run, _parsed(span), config.lease_seconds)
    if lost is not None:
        raise UserError(
            f"run {run} has lost the lease of {config.name or name!r} for {span}, which expired or was released: "
            f"{lost}. It ends before it pushes; set a longer retrain.lease_seconds than {config.lease_seconds:g}, and "
            f"leave the rest to the next run"
        )
    say("renew_lease", f"run {run} holds the lease for {span} for {config.lease_seconds:g} s more")


def finish(
    config: RetrainConfig, push_config: PushConfig, *, name: str, run: str, span: str, pushed: list[str]
) -> None:
    """Record a processed span, and give back the lease."""
    with _ledger(push_config) as storage:
        others = record_span(storage, config.name or name, run, _parsed(span), pushed)
    say("record_span", f"{span} is processed; pushed: {', '.join(pushed) or 'nothing'}")
    if others is not None:
        say(
            "record_span",
            f"this run's lease had expired, and {others}: set a longer retrain.lease_seconds than "
            f"{config.lease_seconds:g}",
        )


def give_up(config: RetrainConfig, push_config: PushConfig, *, name: str, run: str | None) -> None:
    """Give back a failed run's lease (None: anybody's), so that the next run need not wait until it expires."""
    with _ledger(push_config) as storage:
        released = release_lease(storage, config.name or name, run)
    if released is None:
        say("find_data", f"no lease of {config.name or name!r} is held" + (f" by run {run}" if run else ""))
    else:
        say("find_data", f"released: run {released['run']} held the lease for {released['span']}")


def status(config: RetrainConfig, push_config: PushConfig, *, name: str) -> list[str]:
    """Lines for a person: which run is at work, and the last ten processed spans."""
    with _ledger(push_config) as storage:
        entry = read_entry(storage, config.name or name)
        place = storage.location(LEDGER)
    lines = [f"{config.name or name} in {place}"]
    lines.append(f"  lease: {describe(entry['lease']) if entry['lease'] else 'held by no run'}")
    for done in entry["processed"][-10:]:
        pushed = ", ".join(done["pushed"]) or "nothing"
        lines.append(f"  {done['span']} processed at {done['finished_at']} by run {done['run']}; pushed: {pushed}")
    return lines


def _folder(config: RetrainConfig) -> str:
    return f"{config.prefix.rstrip('/')}/"


def _parsed(span: str) -> Span:
    parsed = parse_span(span)
    if parsed is None:
        raise UserError(f"{span!r} is no span's name: give what find_data found, such as span=2026-11-24")
    if is_future(parsed.order):
        raise UserError(f"{span} is dated in the future: it would stand before all spans that come until then")
    return parsed


@contextlib.contextmanager
def _ledger(push_config: PushConfig) -> Iterator[Storage]:
    with disk_errors_explained(Path(push_config.target), "push.target"):
        yield open_storage(push_config.target)


def _nothing(why: str) -> Findings:
    say("find_data", f"this run ends here, with nothing to do: {why}")
    return Findings(None, None, why)
