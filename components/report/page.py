"""The page: one file that needs no network and no script."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from components.report.plot import Point, curves_plot, quality_plot
from components.report.summary import Curves, Summary
from components.report.table import COLUMNS, duration, pushed_lines, scaled, table_rows
from matta_core.artifacts import Artifact


def render(summary: Summary, decision: Mapping[str, Any], curves: Curves, artifacts: Mapping[str, Artifact]) -> str:
    """report.html. `decision` is the gate's decision.json, `artifacts` are by step, in the order of the steps."""
    points = quality_points(summary)
    makers = {artifact.digest: step for step, artifact in artifacts.items()}
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"scaled": scaled, "duration": duration, "figure": _figure}
    return environment.get_template("report.html.jinja").render(
        summary=summary,
        blessed=[size for size, model in summary["students"].items() if model["blessed"]],
        pushed=[size for size, model in summary["students"].items() if model["pushed_to"]],
        pushed_lines=pushed_lines(summary),
        columns=COLUMNS,
        rows=table_rows(summary),
        quality=quality_plot(points) if points else None,
        curves=curves_plot(curves) if curves else None,
        decision=decision,
        artifacts=artifacts,
        makers=makers,
    )


def quality_points(summary: Summary) -> list[Point]:
    """The models that have a figure."""
    models = {**summary["students"], "Teacher": summary["teacher"]}
    return [
        Point(
            name,
            model["parameters"],
            model["bits_per_byte"],
            model["bits_per_byte_standard_error"] or 0.0,
            is_teacher=model is summary["teacher"],
            blessed=bool(model["blessed"]),
        )
        for name, model in models.items()
        if model["parameters"] is not None and model["bits_per_byte"] is not None
    ]


def _figure(value: Any) -> str:
    """A threshold or a value of a check."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}" if isinstance(value, float) else str(value)
