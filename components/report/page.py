"""The page: one file that needs no network and no script."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from components.report.formats import duration, plain, scaled
from components.report.sections import SectionOfReport, headline, held_lines
from components.report.summary import Summary
from components.report.table import table_tasks


def render(summary: Summary, content: Sequence[SectionOfReport]) -> str:
    """report.html."""
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
        + (f" and reaches {_told(model['tasks'][task]['value'], unit)}" if _known(model, task) else "")
        for size, model in named
    ]
    teacher = summary["teacher"]
    if _known(teacher, task):
        told.append(f"the Teacher reaches {_told(teacher['tasks'][task]['value'], unit)}")
    return f"{'; '.join(told)}. All steps took {duration(summary['total_seconds'])}."


def _known(model: Mapping[str, Any], task: str) -> bool:
    return model["tasks"][task]["value"] is not None


def _told(value: float, unit: str) -> str:
    return f"{plain(value, unit)} {unit}"
