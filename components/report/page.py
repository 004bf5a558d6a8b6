"""The page: one file that needs no network and no script."""

from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from components.report.formats import duration, plain, scaled
from components.report.sections import SectionOfReport, headline, held_lines
from components.report.table import table_tasks
from matta_core.artifacts.kinds.report import ModelSummary, Summary


def render(summary: Summary, content: Sequence[SectionOfReport]) -> str:
    """The text of report.html."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.jinja").render(
        name=summary["name"],
        headline=headline(summary),
        held=held_lines(summary),
        range=_range(summary),
        content=content,
    )


def _range(summary: Summary) -> str:
    """The smallest, the largest and the Teacher, in a sentence."""
    task = table_tasks(summary)[0]
    unit = summary["tasks"][task]["unit"]
    ends = list(summary["students"].items())
    named = [ends[0], ends[-1]] if len(ends) > 1 else ends
    told = [
        f"{size} has {scaled(model['parameters'])} parameters"
        + (f" and {reached}" if (reached := _reached(model, task, unit)) else "")
        for size, model in named
    ]
    if reached := _reached(summary["teacher"], task, unit):
        told.append(f"the Teacher {reached}")
    return f"{'; '.join(told)}. All steps took {duration(summary['total_seconds'])}."


def _reached(model: ModelSummary, task: str, unit: str) -> str | None:
    value = model["tasks"][task]["value"]
    return None if value is None else f"reaches {plain(value, unit)} {unit}"
