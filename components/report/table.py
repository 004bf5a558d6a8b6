"""The final table: the same rows for the terminal and for the page, in units that a person reads."""

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

COLUMNS = (
    "size",
    "parameters",
    "bytes",
    "FLOPs per token",
    "tokens per second here",
    "bits per byte",
    "accuracy",
    "blessed",
    "pushed",
)
UNKNOWN = "–"  # noqa: RUF001 - a dash for what is not known or does not apply


def table_rows(summary: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """One tuple of texts per model, in the order of COLUMNS: students by size, then the Teacher."""
    students = sorted(summary["students"].items(), key=lambda item: item[1]["parameters"])
    ta = summary["ta"] and summary["ta"]["size"]
    roles = {summary["student"]: " (Student)", ta: " (TA)"}
    rows = [_row(size + roles.get(size, ""), model) for size, model in students]
    return [*rows, _row("Teacher", summary["teacher"])]


def summary_table(summary: Mapping[str, Any]) -> Table:
    """The table of summary.json for a terminal of 80 columns or more. `pushed_lines` tell what was pushed."""
    table = Table(title=f"MatTA: {summary['name']}", box=box.SIMPLE_HEAD, title_justify="left", padding=0)
    for heading in ("size", "params", "bytes", "FLOPs/\ntoken", "tok/s\nhere", "bits per\nbyte", "accuracy", "blessed"):
        table.add_column(heading, justify="left" if heading in ("size", "blessed") else "right", vertical="bottom")
    for row in table_rows(summary):
        table.add_row(*(Text(cell.replace(" ± ", "±"), no_wrap=True) for cell in row[:-1]))
    return table


def pushed_lines(summary: Mapping[str, Any]) -> list[str]:
    """Where the pushed students lie, one line each."""
    students = sorted(summary["students"].items(), key=lambda item: item[1]["parameters"])
    lines = [f"{size}: {model['pushed_to']}" for size, model in students if model["pushed_to"]]
    return lines or ["no student was pushed"]


def scaled(value: float | None, unit: str = "") -> str:
    """1234567 -> "1.2 M", with a unit "1.2 MB"."""
    if value is None:
        return UNKNOWN
    prefixes = iter(("", "k", "M", "G", "T", "P"))
    prefix = next(prefixes)
    while round(abs(value), 1) >= 1000:
        value, prefix = value / 1000, next(prefixes)
    return f"{value:.1f} {prefix}{unit}" if prefix else f"{value:.0f} {unit}".strip()


def with_error(value: float | None, error: float | None, digits: str = ".3f") -> str:
    """A figure and its standard error."""
    if value is None:
        return UNKNOWN
    return f"{value:{digits}}" if error is None else f"{value:{digits}} ± {error:{digits}}"


def duration(seconds: float) -> str:
    """75 -> "1 min 15 s"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _row(name: str, model: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        name,
        scaled(model["parameters"]),
        scaled(model["bytes"], "B"),
        scaled(model["flops_per_token"]),
        scaled(model["tokens_per_second"]),
        with_error(model["bits_per_byte"], model["bits_per_byte_standard_error"]),
        with_error(model["accuracy"], model["accuracy_standard_error"], ".1%"),
        {None: UNKNOWN, True: "yes", False: "no"}[model["blessed"]],
        UNKNOWN if model["blessed"] is None else "yes" if model["pushed_to"] else "no",
    )
