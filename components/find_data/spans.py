"""Spans of data are folders named span=<time>. This finds the newest complete one.

A time is a date, or a date and a time of day, in UTC, with or without separators: 2026-11-24, 20261124, 2026-11-24T06,
2026-11-24T06-30. Spark's and Hive's names of partitions are read, too: 2026-11-24 06%3A30%3A00. The digits of a time
give the order of spans. A span of the future is never taken: it would hold up all spans that come until then.
"""

import re
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from components.common.step_runner import say
from components.common.storage.listing import SUCCESS_FILE
from components.common.storage.open_storage import open_storage
from components.common.storage.storage import Storage
from matta_core.errors import UserError
from matta_core.recipe import RetrainConfig

_SPAN = re.compile(
    r"span=([0-9]{4}-?[0-9]{2}-?[0-9]{2}(?:[T_ -]?[0-9]{2}(?:[:-]?[0-9]{2}){0,2})?)(?:\.0+)?(?:Z|\+00:?00)?"
)
_FORMATS = {8: "%Y%m%d", 10: "%Y%m%d%H", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}
_FIRST_YEAR = 1970  # an earlier year means that the number is seconds since 1970


class Span(NamedTuple):
    """`order` has the digits of its time. As text, a later span's are greater."""

    order: str
    name: str


def newest_span(config: RetrainConfig, scheduled_time: str = "") -> Span | None:
    """The newest complete span below `config.prefix`, or None where there is none. It is never after now, nor after the
    run's scheduled time, if any. A span that has begun by that time counts: one of the same day is not after it.

    Raises: UserError where the scheduled time or the prefix cannot be read; where the prefix holds two spans of one
    time, or a span whose time cannot be read, as that may be the newest; where it holds no span at all, complete or
    not, or only future ones. A misspelt prefix would otherwise look like nothing to do, night after night.
    """
    latest = time_digits(scheduled_time)
    storage = open_storage(config.prefix)
    spans = _spans(config.prefix, _folders(config.prefix, storage))
    now = _now()
    if future := [span for span in spans if is_future(span.order, now)]:
        told = f"{_named([span.name for span in future])}, dated after now ({now} in UTC)"
        if len(future) == len(spans):
            raise UserError(f"retrain.prefix = {config.prefix!r} holds only {told}: correct the name, or the clock")
        say("find_data", f"WARNING: left out {told}: correct the name, or it is taken once its time has come")
    for span in sorted(set(spans) - set(future), reverse=True):
        if latest and span.order > latest[: len(span.order)]:
            continue
        if not config.require_success_file or storage.read(f"{span.name}/{SUCCESS_FILE}") is not None:
            return span
        say("find_data", f"{span.name} holds no {SUCCESS_FILE} yet: left out")
    return None


def is_future(order: str, now: str | None = None) -> bool:
    """Whether a span's time begins after `now` (digits to the second, in UTC; None is this machine's clock)."""
    return order > (now or _now())[: len(order)]


def _spans(prefix: str, folders: list[str]) -> list[Span]:
    """The spans among folders.

    Raises: UserError where a span's time cannot be read, two spans have one time, or there is no span.
    """
    spans: list[Span] = []
    unread: list[str] = []
    undated: list[str] = []
    for folder in folders:
        name = unquote(folder)
        if (span := parse_span(folder)) is not None:
            spans.append(span)
        elif name.lower().startswith("span="):
            (unread if re.search(r"\d", name) else undated).append(folder)
    if unread:
        raise UserError(
            f"retrain.prefix = {prefix!r} holds {_named(unread)}, of which no time can be told, so that the newest "
            f"span is not known: rename to such as span=2026-11-24 or span=2026-11-24T06-30, or move it away"
        )
    if undated:
        say("find_data", f"left out, as no date is in the name: {_named(undated)}")
    by_time: dict[str, list[str]] = defaultdict(list)
    for span in spans:
        by_time[span.order].append(span.name)
    if twice := [names for names in by_time.values() if len(names) > 1]:
        raise UserError(f"retrain.prefix = {prefix!r} holds {_named(twice[0])}, which are of one time: leave one")
    if not spans:
        raise UserError(
            f"retrain.prefix = {prefix!r} holds no folder named span= and a date: correct it, or write the first span "
            f"there, such as span=2026-11-24"
        )
    return spans


def _named(names: list[str]) -> str:
    return ", ".join(names[:3]) + " …" * (len(names) > 3)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y%m%d%H%M%S")


def _folders(prefix: str, storage: Storage) -> list[str]:
    """The folders right below the prefix. Raises: UserError where the prefix is no readable folder."""
    try:
        if storage.local_path("") is not None and not Path(prefix).is_dir():
            raise UserError(
                f"retrain.prefix = {prefix!r} is no folder (from {Path.cwd()}): correct it, or make the folder"
            )
        return storage.folders()
    except OSError as error:
        raise UserError(f"cannot read retrain.prefix = {prefix!r}: {error.strerror}; let this user read it") from None


def parse_span(folder: str) -> Span | None:
    """The span that a folder is; None where its name has no date, or one that no calendar has. Escapes (`%3A`) are read
    as what they stand for; the span keeps the folder's own name."""
    found = _SPAN.fullmatch(unquote(folder))
    order = re.sub(r"\D", "", found[1]) if found else ""
    return Span(order, folder) if _is_time(order) else None


def time_digits(scheduled_time: str) -> str:
    """The digits of a scheduled time, from the year to the second as far as it is given; "" for "".

    It may be Kubeflow's [[ScheduledTime]], 20261124020000, or ISO 8601, as {{$.pipeline_job_schedule_time_utc}} gives.
    Raises: UserError where it is neither.
    """
    if not scheduled_time:
        return ""
    text = re.sub(r"(\.\d+)?(Z|\+00:?00)?$", "", scheduled_time)
    digits = re.sub(r"[-T: ]", "", text)
    if not _is_time(digits):
        hint = (
            "this Kubeflow does not fill in the macro (pipelines #12494): leave the parameter empty, and the newest "
            "span is taken"
            if "[[" in scheduled_time or "{{" in scheduled_time
            else "write 20261124020000 or 2026-11-24T02:00:00Z, in UTC"
        )
        raise UserError(f"scheduled_time {scheduled_time!r} is no time: {hint}")
    return digits


def _is_time(digits: str) -> bool:
    try:
        return datetime.strptime(digits, _FORMATS[len(digits)]).year >= _FIRST_YEAR
    except (KeyError, ValueError):
        return False
