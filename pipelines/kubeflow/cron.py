"""Cron expressions: the usual five fields are turned into Kubeflow's six, of which the first is seconds.

Kubeflow reads them with github.com/robfig/cron v1, which knows lists, ranges, steps, and names of months and days.
Sunday is 0, never 7. Where day of month and day of week are both given, a day that fits either is taken. The clock is
UTC unless the installation sets CRON_SCHEDULE_TIMEZONE.
"""

import re
from dataclasses import dataclass

from matta_core.errors import UserError

_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_DAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
_ITEM = re.compile(
    r"(?:(?P<all>[*?])|(?P<low>[0-9A-Za-z]{1,9})(?:-(?P<high>[0-9A-Za-z]{1,9}))?)(?:/(?P<step>[0-9]{1,9}))?"
)
_DAYS_OF_MONTH = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


@dataclass(frozen=True)
class _Field:
    name: str
    low: int
    high: int
    names: tuple[str, ...] = ()


_FIELDS = (
    _Field("second", 0, 59),
    _Field("minute", 0, 59),
    _Field("hour", 0, 23),
    _Field("day of month", 1, 31),
    _Field("month", 1, 12, _MONTHS),
    _Field("day of week", 0, 6, _DAYS),
)


def six_fields(expression: str) -> str:
    """Kubeflow's form of a five-field expression; six fields are checked and left as they are.

    Raises: UserError for what Kubeflow would refuse, or accept and never run.
    """
    parts = expression.split()
    if len(parts) == 5:
        parts = ["0", *parts]
    if len(parts) != 6:
        raise UserError(
            f"--cron must have five fields (minute, hour, day of month, month, day of week), for instance '0 3 * * *' "
            f"for every night at three, got {len(parts)}: {expression!r}"
        )
    values = [_values(part, field, expression) for part, field in zip(parts, _FIELDS, strict=True)]
    _, _, _, days, months, _ = values
    if parts[5] in ("*", "?") and all(min(days) > _DAYS_OF_MONTH[month - 1] for month in months):
        raise UserError(f"--cron {expression!r} names a day that never comes: day of month {parts[3]} in {parts[4]}")
    return " ".join(parts)


def _values(text: str, field: _Field, expression: str) -> set[int]:
    """All values that one field allows."""
    values: set[int] = set()
    for item in text.split(","):
        match = _ITEM.fullmatch(item)
        if match is None:
            raise UserError(f"--cron {expression!r}: {item!r} is no {field.name}: a number, a range 1-5, or */10")
        low, high = field.low, field.high
        if not match["all"]:
            low = _value(match["low"], field, expression)
            if match["high"]:
                high = _value(match["high"], field, expression)
            elif not match["step"]:  # 5/10 means every 10, from 5 on
                high = low
        step = int(match["step"] or 1)
        if step == 0 or high < low:
            raise UserError(f"--cron {expression!r}: {item!r} allows no {field.name}")
        if match["step"] and step > high - low:
            raise UserError(
                f"--cron {expression!r}: {item!r} steps beyond the range, and would run at {field.name} {low} only: "
                f"write {low} if that is meant, else a step of at most {field.high - field.low}"
            )
        values.update(range(low, high + 1, step))
    return values


def _value(text: str, field: _Field, expression: str) -> int:
    if text.upper() in field.names:
        return field.names.index(text.upper()) + field.low
    if not text.isdecimal() or not field.low <= int(text) <= field.high:
        hint = " (Sunday is 0)" if field.names == _DAYS and text == "7" else ""
        raise UserError(
            f"--cron {expression!r}: {field.name} must be from {field.low} to {field.high}{hint}, got {text!r}"
        )
    return int(text)
