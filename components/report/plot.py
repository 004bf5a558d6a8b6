"""The figures as inline SVG. Colours come from the page's CSS, so they work in light, in dark and in print.

Every figure has a title, and a description that holds its numbers as text.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from components.report.axes import Canvas, PlotAxis, axis, frame, svg, text, tick_text
from components.report.formats import plain, scaled, task_name
from components.report.labels import Box, place_labels, spread

LARGE, SMALL = Canvas(720, 400), Canvas(480, 320)
CURVE_LABELS = 110  # pixels right of the curves, for their names
LINE_HEIGHT = 16  # of labels, in pixels
MARK = 7.0  # pixels from a mark's middle to its edge, at most
LOGARITHMIC_FROM = 4  # times the smallest cost: from there on, students would crowd at one end of a linear axis
CAP, SERVED_CAP = 4, 7  # half the width of an error bar's ends


@dataclass(frozen=True)
class Point:
    """One model of a quality plot. `interval` is None where it is not known; `role` is student, teacher or served."""

    name: str
    cost: float
    value: float
    interval: tuple[float, float] | None = None
    role: str = "student"
    blessed: bool = True

    @property
    def ends(self) -> tuple[float, float]:
        return self.interval or (self.value, self.value)

    @property
    def label(self) -> str:
        return self.name if self.blessed or self.role != "student" else f"{self.name} (not blessed)"


@dataclass(frozen=True)
class Cost:
    """What the horizontal axis shows."""

    key: str
    title: str
    unit: str


PARAMETERS = Cost("parameters", "parameters", "parameters")
DECODE = Cost("decode", "decode, ms per token at batch 1", "ms per token")


def quality_plot(
    points: Sequence[Point], task: str, entry: Mapping[str, Any], cost: Cost, *, name: str, canvas: Canvas = LARGE
) -> Markup:
    """A task's figure against a cost, with intervals, and the Pareto front of this run's students.

    `entry` is the task's in summary.json. `name` is the prefix of the ids in the figure.
    """
    points = sorted(points, key=lambda point: (point.cost, point.name))
    left, right, top, bottom = canvas.plot
    costs = [point.cost for point in points]
    logarithmic = min(costs) > 0 and max(costs) > LOGARITHMIC_FROM * min(costs)
    x = axis(costs, left, right, logarithmic=logarithmic)
    y = axis([end for point in points for end in point.ends], bottom, top)
    better = "higher is better" if entry["higher_is_better"] else "lower is better"
    accuracy = entry["unit"] == "accuracy"
    titles = (
        cost.title + (", logarithmic" if logarithmic else ""),
        f"{f'{task_name(task)}, accuracy' if accuracy else entry['unit']}: {better}",
    )
    front = pareto_front(points, higher_is_better=entry["higher_is_better"])
    line = " ".join(f"{x.place(point.cost)},{y.place(point.value)}" for point in front)
    labels, leaders = _labels(points, x, y, canvas.plot)
    parts = [
        frame(canvas, x, y, titles, tick_text(y, percent=accuracy)),
        Markup('<polyline class="front" points="{}"/>').format(line) if len(front) > 1 else Markup(""),
        *leaders,
        *(_bar(point, x, y) for point in points),
        *(_mark(point, x, y) for point in points),
        *labels,
    ]
    facts = "; ".join(_fact(point, entry["unit"], cost) for point in points)
    title = f"{task_name(task)} against {cost.unit}"
    return svg(canvas, name, title[0].upper() + title[1:], f"{titles[1]}. {facts}.", parts)


def curves_plot(curves: Mapping[str, Sequence[tuple[int, float]]], title: str, canvas: Canvas = LARGE) -> Markup:
    """The held-out figure during training, called `title`, one line per size, small sizes light and large ones dark.

    The first values of a training dwarf all that follows. So the vertical axis ends where the lines are after a tenth
    of the steps, and the lines enter from above.
    """
    steps = [step for curve in curves.values() for step, _ in curve]
    later = [value for curve in curves.values() for step, value in curve if step >= max(steps) / 10]
    left, _, top, bottom = canvas.plot
    right = canvas.width - CURVE_LABELS
    x = PlotAxis(min(0, *steps), max(*steps, 1), left, right)
    y = axis(later, bottom, top)
    clip = Markup('<clipPath id="inside"><rect x="{}" y="{}" width="{}" height="{}"/></clipPath>').format(
        left, top, right - left + 2, bottom - top
    )
    titles = ("optimizer steps", f"{title}: lower is better")
    parts = [clip, frame(canvas, x, y, titles, tick_text(y))]
    last = [(y.place(curve[-1][1]), size, curve[-1][1]) for size, curve in curves.items()]
    places = spread([at for at, *_ in last], LINE_HEIGHT, bottom)
    label_places = dict(zip([size for _, size, _ in sorted(last)], places, strict=True))
    for number, (_, size, value) in enumerate(last):
        shade = f"--shade: {100 * number // max(1, len(last) - 1)}%"
        line = " ".join(f"{x.place(step)},{y.place(value)}" for step, value in curves[size])
        parts.append(
            Markup('<polyline class="curve" clip-path="url(#inside)" style="{}" points="{}"/>').format(shade, line)
        )
        parts.append(text(right + 8, label_places[size] + 4, f"{size} {value:.3f}", "label"))
    facts = (f"{size}: {value:.3f} at step {curves[size][-1][0]}" for _, size, value in last)
    return svg(canvas, "curves", "Training curves", f"{titles[1]}. At the end, {'; '.join(facts)}.", parts)


def pareto_front(points: Sequence[Point], *, higher_is_better: bool) -> list[Point]:
    """The Pareto front of this run's students, by cost: no other student costs as little and is as good."""
    sign = -1 if higher_is_better else 1
    front: list[Point] = []
    for point in sorted(points, key=lambda point: (point.cost, sign * point.value)):
        if point.role == "student" and (not front or sign * point.value < sign * front[-1].value):
            front.append(point)
    return front


def _fact(point: Point, unit: str, cost: Cost) -> str:
    """The point in words."""
    place = scaled(point.cost) if cost is PARAMETERS else f"{point.cost:.3g}"
    ends = "" if point.interval is None else " ({} to {})".format(*(plain(end, unit) for end in point.interval))
    return f"{point.label}: {place} {cost.unit}, {plain(point.value, unit)}{ends}"


def _bar(point: Point, x: PlotAxis, y: PlotAxis) -> Markup:
    if point.interval is None:
        return Markup("")
    at, cap = x.place(point.cost), SERVED_CAP if point.role == "served" else CAP
    low, high = (y.place(end) for end in point.interval)
    return Markup('<path class="{} error" d="M{} {}V{}M{} {}h{}M{} {}h{}"/>').format(
        point.role, at, high, low, round(at - cap, 1), high, 2 * cap, round(at - cap, 1), low, 2 * cap
    )


def _mark(point: Point, x: PlotAxis, y: PlotAxis) -> Markup:
    """A dot for a student (a ring where it is not blessed), a diamond for the Teacher, a square for what is served."""
    at, middle = x.place(point.cost), y.place(point.value)
    if point.role == "teacher":
        shape = '<path class="mark teacher" d="M{} {}l{} {}l-{} {}l-{} -{}z"/>'
        return Markup(shape).format(at, round(middle - MARK, 1), *[MARK] * 7)
    if point.role == "served":
        shape = '<rect class="mark served" x="{}" y="{}" width="{}" height="{}"/>'
        return Markup(shape).format(round(at - MARK, 1), round(middle - MARK, 1), 2 * MARK, 2 * MARK)
    held = "" if point.blessed else " held"
    return Markup('<circle class="mark student{}" cx="{}" cy="{}" r="5"/>').format(held, at, middle)


def _labels(points: Sequence[Point], x: PlotAxis, y: PlotAxis, bounds: Box) -> tuple[list[Markup], list[Markup]]:
    """The names, and the lines that tie distant names to their marks."""
    marks = [(x.place(point.cost), y.place(point.value)) for point in points]
    bars = [
        (at - CAP, at + CAP, y.place(point.ends[1]), y.place(point.ends[0]))
        for point, (at, _) in zip(points, marks, strict=True)
    ]
    places = place_labels([point.label for point in points], marks, bars, bounds)
    labels, leaders = [], []
    for point, mark, place in zip(points, marks, places, strict=True):
        if place is None:
            continue
        labels.append(text(round(place.x, 1), round(place.y, 1), point.label, f"label {point.role}-label"))
        if place.leader:
            line = Markup('<line class="leader" x1="{}" y1="{}" x2="{}" y2="{}"/>')
            leaders.append(line.format(*mark, *(round(end, 1) for end in place.leader)))
    return labels, leaders
