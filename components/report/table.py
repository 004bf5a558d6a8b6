"""The final table for the terminal. It fits into 80 columns; summary.md has all tasks and comparisons."""

from rich import box
from rich.table import Table
from rich.text import Text

from components.report.formats import BITS_PER_BYTE, LAST_TOKEN, milliseconds, scaled, task_name, with_error, yes_no
from components.report.summary import decode_seconds
from matta_core.artifacts.kinds.report import ModelSummary, Summary

MOST_TASKS = 2  # more do not fit beside the cost


def summary_table(summary: Summary) -> Table:
    """The table of summary.json for a terminal of 80 columns or more. `pushed_lines` says what was pushed."""
    table = Table(
        title=f"MatTA: {summary['name']}",
        caption="gate.without_baseline is left on bless_on_thresholds" if summary["left_on"] else None,
        box=box.SIMPLE_HEAD,
        title_justify="left",
        caption_justify="left",
        padding=0,
    )
    for heading in terminal_columns(summary):
        table.add_column(heading, justify="left" if heading in ("size", "blessed") else "right", vertical="bottom")
    for row in terminal_rows(summary):
        table.add_row(*(Text(cell.replace(" ± ", "±"), no_wrap=True) for cell in row))
    return table


def terminal_columns(summary: Summary) -> list[str]:
    tasks = [task_name(task) for task in table_tasks(summary)]
    return ["size", "params", "bytes", "FLOPs/\ntoken", "ms per\ntoken", *tasks, "blessed"]


def terminal_rows(summary: Summary) -> list[tuple[str, ...]]:
    """One tuple of texts per model, students by size, then the Teacher."""
    return [
        (
            name,
            scaled(model["parameters"]),
            scaled(model["bytes"], "B"),
            scaled(model["flops_per_token"]),
            milliseconds(decode_seconds(model)).removesuffix(" ms"),
            *(with_error(model["tasks"][task], summary["tasks"][task]["unit"]) for task in table_tasks(summary)),
            yes_no(model["blessed"]),
        )
        for name, model in named_models(summary)
    ]


def named_models(summary: Summary) -> list[tuple[str, ModelSummary]]:
    """Students in ascending order, with the Student and the TA marked as such, then the Teacher."""
    ta = summary["ta"] and summary["ta"]["size"]
    roles = {summary["student"]: " (Student)", ta: " (TA)"}
    students = [(size + roles.get(size, ""), model) for size, model in summary["students"].items()]
    return [*students, ("Teacher", summary["teacher"])]


def pushed_lines(summary: Summary) -> list[str]:
    """A line per student: where it was pushed, or why it was not."""
    return [
        f"{size}: " + (model["pushed_to"] or f"not pushed, {model['not_pushed_because']}")
        for size, model in summary["students"].items()
    ]


def table_tasks(summary: Summary) -> list[str]:
    """The two tasks of the table: our own where they were evaluated, else the first ones."""
    own = [task for task in (BITS_PER_BYTE, LAST_TOKEN) if task in summary["tasks"]]
    return [*own, *(task for task in summary["tasks"] if task not in own)][:MOST_TASKS]
