"""The report's content, section by section: text, tables and figures. `page` and `markdown` write it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from markupsafe import Markup

from components.common.statistics import interval_95
from components.report.details import (
    ReportGrid,
    comparison_grid,
    models_grid,
    reasons_grid,
    slice_grid,
    speed_grid,
    task_grid,
    widths_grid,
)
from components.report.formats import task_name
from components.report.origins import lineage_grid, pushed_grid, serving_grid, tasks_grid
from components.report.plot import DECODE, PARAMETERS, SMALL, Cost, Point, curves_plot, quality_plot
from components.report.summary import Curves, decode_seconds
from components.report.table import table_tasks
from matta_core.artifacts import Artifact
from matta_core.artifacts.kinds.decision import Decision
from matta_core.artifacts.kinds.evaluation import Results
from matta_core.artifacts.kinds.push_record import PushRecord
from matta_core.artifacts.kinds.report import BaselineSummary, ModelSummary, Summary

QUALITY_CAPTION = (
    "Bars: the 95% interval of each figure by itself (Student's t on its standard error over documents); whether a "
    "student differs from what is served is told by the paired comparison below. Dots: students, a ring where one was "
    "not blessed. Squares: what is served now. Diamond: the Teacher. Dashed: the Pareto front, the students than "
    "which no other one costs no more and is at least as good, by the figures alone."
)
CURVES_CAPTION = (
    "Each size on held-out text, first inside the TA and then alone, with its last value. The lines enter from above: "
    "the first tenth of the steps may lie beyond the axis."
)


@dataclass(frozen=True)
class ReportPart:
    """A part of a section: a heading of its own, if any, then text, figures side by side, and tables."""

    heading: str = ""
    text: tuple[str, ...] = ()
    figures: tuple[Markup, ...] = ()
    small: bool = False
    caption: str = ""
    grids: tuple[ReportGrid, ...] = ()


@dataclass(frozen=True)
class SectionOfReport:
    name: str
    heading: str
    parts: list[ReportPart] = field(default_factory=list)


def headline(summary: Summary) -> str:
    students = summary["students"].values()
    blessed, pushed = sum(bool(model["blessed"]) for model in students), sum(bool(m["pushed_to"]) for m in students)
    left_on = "; gate.without_baseline is left on bless_on_thresholds" if summary["left_on"] else ""
    if not blessed:
        return f"No student was blessed, and none was pushed{left_on}"
    return f"{blessed} of {len(students)} students blessed, {pushed} pushed{left_on}"


def held_lines(summary: Summary) -> list[str]:
    """Why each student that was not blessed was held."""
    return [
        f"{size} was held: {'; '.join(dict.fromkeys(model['held_because'] or ()))}"
        for size, model in summary["students"].items()
        if not model["blessed"]
    ]


def sections(
    summary: Summary,
    results: Results,
    decision: Decision,
    record: PushRecord,
    curves: Curves,
    artifacts: Mapping[str, Artifact],
) -> list[SectionOfReport]:
    """The whole report. `results`, `decision` and `record` are the steps' own files; `artifacts` are by step."""
    tasks = list(summary["tasks"])
    per_task = [
        ReportPart(
            task_name(task),
            grids=tuple(
                grid for grid in (task_grid(summary, task, number), slice_grid(summary, results, task, number)) if grid
            ),
        )
        for number, task in enumerate(tasks)
    ]
    models = models_grid(summary, table_tasks(summary)), widths_grid(summary)
    pushed = pushed_grid(summary, record), serving_grid(summary, record, artifacts["push"].path)
    return [
        SectionOfReport("models", "Models", [ReportPart(grids=tuple(grid for grid in models if grid.rows))]),
        SectionOfReport("quality", "Quality against cost", quality_parts(summary)),
        SectionOfReport("served", "Compared with what is served", [_served(summary, decision)]),
        SectionOfReport("gate", "The gate's reasons", [_reasons(summary, decision)]),
        SectionOfReport("pushed", "What was pushed", [ReportPart(grids=tuple(grid for grid in pushed if grid.rows))]),
        SectionOfReport("tasks", "Task by task", per_task),
        SectionOfReport("speed", "Latency, throughput and memory", [ReportPart(grids=(speed_grid(summary),))]),
        SectionOfReport("training", "Training", [_training(curves, artifacts["train"].metadata["figure_title"])]),
        SectionOfReport("lineage", "Lineage", [ReportPart(grids=(lineage_grid(artifacts), tasks_grid(summary)))]),
    ]


def quality_parts(summary: Summary) -> list[ReportPart]:
    """Two plots per task, by parameters and by latency: large for the first task, small for the others."""
    parts = []
    for number, task in enumerate(summary["tasks"]):
        figures = []
        for cost in (PARAMETERS, DECODE):
            if points := quality_points(summary, task, cost):
                size = {} if number == 0 else {"canvas": SMALL}
                figures.append(
                    quality_plot(
                        points, task, summary["tasks"][task], cost, name=f"quality-{number}-{cost.key}", **size
                    )
                )
        if not figures:
            parts.append(ReportPart(task_name(task), ("No model has a figure for it.",)))
            continue
        parts.append(
            ReportPart(
                task_name(task),
                figures=tuple(figures),
                small=number > 0,
                caption=QUALITY_CAPTION if number == 0 else "Marks and bars as above.",
            )
        )
    return parts


def quality_points(summary: Summary, task: str, cost: Cost) -> list[Point]:
    """The models that have the task's figure and the cost."""
    unit, points = summary["tasks"][task]["unit"], []

    def add(name: str, model: ModelSummary | BaselineSummary, role: str, *, blessed: bool = False) -> None:
        value, seconds = model["tasks"][task]["value"], decode_seconds(model)
        price = model["parameters"] if cost is PARAMETERS else seconds and 1000 * seconds
        if price is not None and value is not None:
            points.append(Point(name, price, value, interval_95(model["tasks"][task], unit), role, blessed))

    for size, model in summary["students"].items():
        add(size, model, "student", blessed=bool(model["blessed"]))
        compact = model["compact"]
        # The compact form answers the same at its own cost. Its latency is not known: only the padded one was timed.
        if cost is PARAMETERS and compact and "path" in compact and points and points[-1].name == size:
            points.append(replace(points[-1], name=f"{size} compact", cost=compact["parameters"]))
    for size, model in summary["students"].items():
        if model["baseline"]:
            add(f"{size} served", model["baseline"], "served")
    add("Teacher", summary["teacher"], "teacher")
    return points


def _served(summary: Summary, decision: Decision) -> ReportPart:
    """The comparisons, and the students that have nothing to be compared with."""
    grid = comparison_grid(summary, decision)
    none = [size for size, model in summary["students"].items() if model["baseline"] is None]
    versions = [
        f"{size}: {model['baseline']['version']}" for size, model in summary["students"].items() if model["baseline"]
    ]
    text = []
    if none:
        text.append(f"Nothing else was served as {', '.join(none)}: there was nothing to compare with.")
    if versions:
        text.append(f"Served under {summary['baseline_target']} before these students: {'; '.join(versions)}.")
    return ReportPart(text=tuple(text), grids=(grid,) if grid.rows else ())


def _reasons(summary: Summary, decision: Decision) -> ReportPart:
    warnings = tuple(f"Warning: {warning}." for warning in decision["warnings"])
    return ReportPart(text=warnings, grids=(reasons_grid(summary, decision),))


def _training(curves: Curves, title: str) -> ReportPart:
    if not curves:
        return ReportPart(text=("No validation was recorded during this training.",))
    return ReportPart(figures=(curves_plot(curves, title),), caption=CURVES_CAPTION)
