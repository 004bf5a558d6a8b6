"""Which spans were processed, and which run is at work: `<push.target>/spans.json`, beside the served pointers.

{name: {"lease": {"run", "holder", "span", "taken_at", "expires_at"} or null,
        "processed": [{"span", "order", "run", "finished_at", "pushed"}]}}

The file only ever changes by compare-and-swap (see `components.common.storage.storage`). It holds leases and processed
spans together, so that no lease is taken on old knowledge of what was processed. Times are UTC by the writers' clocks,
which must agree to seconds.
"""

import json
import random
import time
from collections.abc import Callable, Collection
from datetime import UTC, datetime, timedelta
from typing import Any, TypedDict

from components.common.served.pointer import who
from components.common.step_runner import say
from components.common.storage.storage import ConflictError, Storage
from components.find_data.spans import Span, is_future, parse_span
from matta_core.artifacts.json_files import parse_json
from matta_core.errors import UserError

LEDGER = "spans.json"
# Processed spans kept per name; older ones are dropped.
_PROCESSED_LENGTH = 1000
_ATTEMPTS = 100


class Lease(TypedDict):
    run: str
    holder: str
    span: str
    taken_at: str
    expires_at: str


class Processed(TypedDict):
    span: str
    order: str
    run: str
    finished_at: str
    pushed: list[str]


class Entry(TypedDict):
    """The ledger's entry for a name."""

    lease: Lease | None
    processed: list[Processed]


_NOTHING: Entry = {"lease": None, "processed": []}


def take_lease(
    storage: Storage, name: str, run: str, span: Span, lease_seconds: float, *, earlier: Collection[str] = ()
) -> str | None:
    """Take the lease of `name` for a run that wants to process `span`. Returns None, or why it may not.

    A run that holds the lease, under its id or one of its `earlier` ids, takes it again for `lease_seconds` from now.
    Any run may take a lease that has expired.
    """
    if is_future(span.order):
        return f"{span.name} is dated in the future: it would stand before all spans that come until then"

    def change(entry: Entry) -> str | None:
        now = datetime.now(UTC)
        newest = max(_processed(entry, storage), key=lambda done: done["order"], default=None)
        if newest is not None and span.order <= newest["order"]:
            return (
                f"nothing new: the newest complete span is {span.name}, and {newest['span']} was processed at "
                f"{newest['finished_at']} by run {newest['run']}"
            )
        if (lease := _lease_of_another(entry, (run, *earlier), now)) is not None:
            return f"another run of {name!r} is at work: {describe(lease)}"
        entry["lease"] = _lease(run, span, now, lease_seconds)
        return None

    return _change(storage, name, change)


def renew_lease(storage: Storage, name: str, run: str, span: Span, lease_seconds: float) -> str | None:
    """Take the lease again, for `lease_seconds` from now, in a run that took it before and processes `span`.

    Returns None, or why the run must not go on: another run holds the lease, or has processed the span or a later one.
    If the lease expired or was released and no other run took it, it is this run's again.
    """

    def change(entry: Entry) -> str | None:
        now = datetime.now(UTC)
        if (lease := _lease_of_another(entry, (run,), now)) is not None:
            return describe(lease)
        for done in _processed(entry, storage):
            if done["run"] != run and done["order"] >= span.order:
                return f"run {done['run']} has processed {done['span']} meanwhile, at {done['finished_at']}"
        entry["lease"] = _lease(run, span, now, lease_seconds)
        return None

    return _change(storage, name, change)


def record_span(storage: Storage, name: str, run: str, span: Span, pushed: list[str]) -> str | None:
    """Record that a run has processed a span, and give back its lease. Returns None, or who holds the lease by now."""

    def change(entry: Entry) -> str | None:
        done: Processed = {
            "span": span.name,
            "order": span.order,
            "run": run,
            "finished_at": _iso(datetime.now(UTC)),
            "pushed": pushed,
        }
        if (span.name, run) not in [(one["span"], one["run"]) for one in entry["processed"]]:
            entry["processed"] = [*entry["processed"], done][-_PROCESSED_LENGTH:]
        lease = entry["lease"]
        if lease is not None and lease["run"] != run:
            return describe(lease)
        entry["lease"] = None
        return None

    return _change(storage, name, change)


def release_lease(storage: Storage, name: str, run: str | None = None) -> Lease | None:
    """Give back the lease if `run` holds it (None: whoever holds it). Returns what was given back."""

    def change(entry: Entry) -> Lease | None:
        lease = entry["lease"]
        if lease is None or run not in (None, lease["run"]):
            return None
        entry["lease"] = None
        return lease

    return _change(storage, name, change)


def read_entry(storage: Storage, name: str) -> Entry:
    """A name's lease and processed spans. Raises: UserError if the ledger is unreadable."""
    return _read(storage)[0].get(name, _NOTHING)


def describe(lease: Lease) -> str:
    """The lease for a message: its run, holder and times."""
    return (
        f"run {lease['run']} ({lease['holder']}) holds the lease for {lease['span']} since {lease['taken_at']}, "
        f"until {lease['expires_at']} at the latest"
    )


def _lease(run: str, span: Span, now: datetime, lease_seconds: float) -> Lease:
    return {
        "run": run,
        "holder": who(),
        "span": span.name,
        "taken_at": _iso(now),
        "expires_at": _iso(now + timedelta(seconds=lease_seconds)),
    }


def _lease_of_another(entry: Entry, ours: Collection[str], now: datetime) -> Lease | None:
    """The lease, if another run than `ours` holds it and it has not expired."""
    lease = entry["lease"]
    if lease is None or lease["run"] in ours or datetime.fromisoformat(lease["expires_at"]) <= now:
        return None
    return lease


def _processed(entry: Entry, storage: Storage) -> list[Processed]:
    """The processed spans, without those of the future: they cannot be, and would hold up all new spans."""
    for done in entry["processed"]:
        if is_future(done["order"]):
            say(
                "find_data",
                f"WARNING: {storage.location(LEDGER)} says that {done['span']} was processed by run {done['run']}, "
                f"which lies in the future: not counted; delete its entry there",
            )
    return [done for done in entry["processed"] if not is_future(done["order"])]


def _change(storage: Storage, name: str, change: Callable[[Entry], Any]) -> Any:
    """Apply `change` to a copy of a name's entry, anew where another process was faster. Returns what it returned."""
    for attempt in range(_ATTEMPTS):
        ledger, generation = _read(storage)
        before = ledger.get(name, _NOTHING)
        result = change(entry := before.copy())
        if entry == before:
            return result
        data = json.dumps(ledger | {name: entry}, indent=1, allow_nan=False).encode() + b"\n"
        try:
            storage.write(LEDGER, data, expected=generation)
        except ConflictError:
            time.sleep(random.uniform(0, 0.01 * (attempt + 1)))
            continue
        return result
    raise UserError(f"{storage.location(LEDGER)} changed {_ATTEMPTS} times meanwhile: try again later")


def _read(storage: Storage) -> tuple[dict[str, Entry], str | None]:
    found = storage.read(LEDGER)
    if found is None:
        return {}, None
    try:
        ledger = parse_json(found[0], dict[str, Entry])
        for entry in ledger.values():
            for done in entry["processed"]:
                if (span := parse_span(done["span"])) is None or span.order != done["order"]:
                    raise ValueError(f"{done['span'][:60]!r} with the order {done['order'][:60]!r} is no span")
            if entry["lease"] is not None and datetime.fromisoformat(entry["lease"]["expires_at"]).tzinfo is None:
                raise ValueError(f"expires_at = {entry['lease']['expires_at']} has no time zone")
    except ValueError as error:
        raise UserError(
            f"{storage.location(LEDGER)} is no record of spans ({error}): mend it, or delete it, and the newest span "
            f"is processed again"
        ) from None
    return ledger, found[1]


def _iso(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
