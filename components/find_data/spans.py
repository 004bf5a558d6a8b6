"""Spans of data: folders named span=<time>, of which the newest complete one is looked for.

A time is a date or a date and a time of day, in UTC, with or without separators: 2026-11-24, 20261124,
2026-11-24T06, 2026-11-24T06-30. Its digits are its place in the order of spans.
"""

import re
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from components.prepare_data.files import SUCCESS_FILE
from components.push.store import Store, open_store
from components.step import say
from matta_core.config import RetrainConfig
from matta_core.errors import UserError

_SPAN = re.compile(r"span=(\d{4}-?\d\d-?\d\d(?:[T_ -]?\d\d(?:[:-]?\d\d){0,2})?Z?)")
_FORMATS = {8: "%Y%m%d", 10: "%Y%m%d%H", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}


class Span(NamedTuple):
    """`order` is the digits of its time: a later span's are greater, as text."""

    order: str
    name: str


def newest_span(config: RetrainConfig, scheduled_time: str = "") -> Span | None:
    """The newest complete span below `config.prefix`, not after a run's scheduled time where there is one; None: there
    is none. A span that has begun by that time counts: one of the same day is not after it.

    Raises: UserError on a scheduled time that cannot be read, or where the prefix cannot, or holds no span at all,
    complete or not: a misspelt prefix would otherwise be nothing to do, night after night.
    """
    latest = time_digits(scheduled_time)
    store = open_store(config.prefix)
    spans, ignored = [], []
    for folder in _folders(config.prefix, store):
        if (span := parse_span(folder)) is not None:
            spans.append(span)
        elif folder.startswith("span="):
            ignored.append(folder)
    if ignored:
        say("find_data", f"left out, as no date is in the name: {', '.join(ignored[:3])}{' …' * (len(ignored) > 3)}")
    if not spans:
        raise UserError(
            f"retrain.prefix = {config.prefix!r} holds no folder named span= and a date: correct it, or write the "
            f"first span there, such as span=2026-11-24"
        )
    for span in sorted(spans, reverse=True):
        if latest and span.order > latest[: len(span.order)]:
            continue
        if not config.require_success_file or store.read(f"{span.name}/{SUCCESS_FILE}") is not None:
            return span
        say("find_data", f"{span.name} holds no {SUCCESS_FILE} yet: left out")
    return None


def _folders(prefix: str, store: Store) -> list[str]:
    """Right below the prefix. Raises: UserError where that is no folder that can be read."""
    try:
        if store.local_path("") is not None and not Path(prefix).is_dir():
            raise UserError(
                f"retrain.prefix = {prefix!r} is no folder (from {Path.cwd()}): correct it, or make the folder"
            )
        return store.folders()
    except OSError as error:
        raise UserError(f"cannot read retrain.prefix = {prefix!r}: {error.strerror}; let this user read it") from None


def parse_span(folder: str) -> Span | None:
    """None: no date is in the folder's name, or one that no calendar has."""
    found = _SPAN.fullmatch(folder)
    order = re.sub(r"\D", "", found[1]) if found else ""
    return Span(order, folder) if _is_time(order) else None


def time_digits(scheduled_time: str) -> str:
    """The digits of a scheduled time, from the year to the second as far as it goes; "" of "".

    Kubeflow's [[ScheduledTime]] is 20261124020000; ISO 8601, as {{$.pipeline_job_schedule_time_utc}} gives, is read as
    well.
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
        datetime.strptime(digits, _FORMATS[len(digits)])
    except (KeyError, ValueError):
        return False
    return True
