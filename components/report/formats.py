"""How figures are written, alike in the terminal, on the page and in Markdown."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matta_core.recipe import BUILT_IN_TASKS

UNKNOWN = "–"  # noqa: RUF001 - a dash where a figure is not known or does not apply
BITS_PER_BYTE, LAST_TOKEN = BUILT_IN_TASKS
_BUILT_IN = {BITS_PER_BYTE: "bits per byte", LAST_TOKEN: "last token"}


def task_name(task: str) -> str:
    """A task's name for people: our own in plain words, others as lm-eval calls them."""
    return _BUILT_IN.get(task, task)


def scaled(value: float | None, unit: str = "") -> str:
    """1234567 -> "1.2 M", with a unit "1.2 MB"."""
    if value is None:
        return UNKNOWN
    prefixes = iter(("", "k", "M", "G", "T", "P", "E", "Z", "Y", "R", "Q"))
    prefix = next(prefixes)
    while round(abs(value), 1) >= 1000:
        value, prefix = value / 1000, next(prefixes)
    return f"{value:.1f} {prefix}{unit}" if prefix else f"{value:.0f} {unit}".strip()


def plain(value: float | None, unit: str) -> str:
    """A task's figure: accuracies in percent, all else with three decimals."""
    if value is None:
        return UNKNOWN
    return f"{value:.1%}" if unit == "accuracy" else f"{value:,.3f}"


def with_error(entry: Mapping[str, Any] | None, unit: str) -> str:
    """A figure and its standard error, from an entry {"value", "standard_error"}."""
    if not entry or entry["value"] is None:
        return UNKNOWN
    figure, error = plain(entry["value"], unit), entry["standard_error"]
    return figure if error is None else f"{figure} ± {plain(error, unit)}"


def signed(value: Any, unit: str) -> str:
    """A difference with its sign; that of accuracies is in percentage points."""
    if finite(value) is None:
        return UNKNOWN
    return f"{100 * value:+.1f} points" if unit == "accuracy" else f"{value:+.3f}"


def signed_interval(interval: Sequence[Any] | None, unit: str) -> str:
    """Both ends of a difference's interval; a dash where either is no finite number."""
    if not interval or any(finite(end) is None for end in interval):
        return UNKNOWN
    low, high = (signed(end, unit) for end in interval)
    return f"{low.removesuffix(' points')} to {high}"


def probability(value: Any) -> str:
    """A p-value, which is never written as zero."""
    if finite(value) is None:
        return UNKNOWN
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def milliseconds(seconds: float | None) -> str:
    """0.0123 -> "12.3 ms"."""
    if seconds is None:
        return UNKNOWN
    return f"{f'{1000 * seconds:#.3g}'.rstrip('.') if seconds < 1 else f'{1000 * seconds:,.0f}'} ms"


def duration(seconds: float) -> str:
    """75 -> "1 min 15 s"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def yes_no(value: bool | None) -> str:
    return {None: UNKNOWN, True: "yes", False: "no"}[value]


def setting_text(value: Any) -> str:
    """A threshold or a value of a check."""
    if value is None:
        return UNKNOWN
    if isinstance(value, bool):
        return yes_no(value)
    if isinstance(value, list | tuple):
        return " to ".join(setting_text(item) for item in value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}" if isinstance(value, float) else str(value)


def finite(value: Any) -> float | None:
    """The number; None for what is no finite number: null, NaN, an infinity, the decision's "nan"."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_number and math.isfinite(value) else None
