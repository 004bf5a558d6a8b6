"""Two small figures as inline SVG: colours come from the page's CSS, so both work in light and dark.

Every figure has a title and a description, in which its figures stand as text.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from components.report.table import scaled, with_error

WIDTH, HEIGHT = 720, 400
LEFT, RIGHT, TOP, BOTTOM = 58, 24, 40, 52  # margins in pixels
CURVE_LABELS = 96  # pixels right of the curves, for their names
LINE_HEIGHT = 16  # of labels, in pixels


@dataclass(frozen=True)
class Point:
    """One model of the quality plot."""

    name: str
    parameters: int
    bits_per_byte: float
    standard_error: float
    is_teacher: bool = False
    blessed: bool = True


@dataclass(frozen=True)
class Axis:
    """Maps values between `low` and `high` to pixels between `start` and `end`."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def place(self, value: float) -> float:
        scale = math.log if self.logarithmic else float
        part = (scale(value) - scale(self.low)) / (scale(self.high) - scale(self.low))
        return round(self.start + part * (self.end - self.start), 1)

    def ticks(self) -> list[float]:
        return log_ticks(self.low, self.high) if self.logarithmic else nice_ticks(self.low, self.high)


def quality_plot(points: Sequence[Point]) -> Markup:
    """Bits per byte against parameters, with one standard error each way, and the students' Pareto front."""
    points = sorted(points, key=lambda point: point.parameters)
    counts = [point.parameters for point in points]
    x = _axis(counts, LEFT, WIDTH - RIGHT, logarithmic=max(counts) > 10 * min(counts), pad=(0.06, 0.14))
    ends = [point.bits_per_byte + side * point.standard_error for point in points for side in (-1, 1)]
    y = _axis(ends, HEIGHT - BOTTOM, TOP)
    front = pareto_front([point for point in points if not point.is_teacher])
    line = " ".join(f"{x.place(point.parameters)},{y.place(point.bits_per_byte)}" for point in front)
    parts = [
        _frame(x, y, "parameters" + (", logarithmic" if x.logarithmic else ""), "bits per byte: lower is better"),
        Markup('<polyline class="front" points="{}"/>').format(line),
        *(_marker(point, x, y) for point in points),
        *_point_labels(points, x, y),
    ]
    facts = (
        f"{_point_name(point)}: {scaled(point.parameters)} parameters, "
        f"{with_error(point.bits_per_byte, point.standard_error)} bits per byte"
        for point in points
    )
    return _svg("quality", "Quality against cost", "; ".join(facts), parts)


def curves_plot(curves: Mapping[str, Sequence[tuple[int, float]]]) -> Markup:
    """Held-out cross-entropy during training, one line per size, small sizes light and large ones dark.

    The first values of a training dwarf all that follows: the vertical axis ends where the lines are after a
    tenth of the steps, and they enter from above.
    """
    steps = [step for curve in curves.values() for step, _ in curve]
    later = [value for curve in curves.values() for step, value in curve if step >= max(steps) / 10]
    right = WIDTH - CURVE_LABELS
    x = Axis(min(0, *steps), max(*steps, 1), LEFT, right)
    y = _axis(later, HEIGHT - BOTTOM, TOP)
    clip = Markup('<clipPath id="inside"><rect x="{}" y="{}" width="{}" height="{}"/></clipPath>').format(
        LEFT, TOP, right - LEFT + 2, HEIGHT - TOP - BOTTOM
    )
    parts = [clip, _frame(x, y, "optimizer steps", "cross-entropy, nats per token")]
    last = [(y.place(curve[-1][1]), size, curve[-1][1]) for size, curve in curves.items()]
    label_places = dict(zip([size for _, size, _ in sorted(last)], _spread([at for at, *_ in last]), strict=True))
    for number, (_, size, value) in enumerate(last):
        shade = f"--shade: {100 * number // max(1, len(last) - 1)}%"
        line = " ".join(f"{x.place(step)},{y.place(value)}" for step, value in curves[size])
        parts.append(
            Markup('<polyline class="curve" clip-path="url(#inside)" style="{}" points="{}"/>').format(shade, line)
        )
        parts.append(_text(right + 8, label_places[size] + 4, f"{size} {value:.3f}", "label"))
    facts = (f"{size}: {value:.3f} nats per token at step {curves[size][-1][0]}" for _, size, value in last)
    return _svg("curves", "Training curves", "At the end, " + "; ".join(facts), parts)


def pareto_front(points: Sequence[Point]) -> list[Point]:
    """Those, by size, than which no other point is both no larger and at least as good."""
    front: list[Point] = []
    for point in sorted(points, key=lambda point: (point.parameters, point.bits_per_byte)):
        if not front or point.bits_per_byte < front[-1].bits_per_byte:
            front.append(point)
    return front


def nice_ticks(low: float, high: float, at_most: int = 6) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten, within the bounds."""
    power = 10.0 ** math.floor(math.log10((high - low) / at_most))
    step = next(step * power for step in (1, 2, 5, 10, 20) if (high - low) / (step * power) <= at_most)
    return [round(number * step, 12) for number in range(math.ceil(low / step), math.floor(high / step) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten within the bounds; over more than three decades, powers of ten alone."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1, 2, 5) if high / low <= 1000 else (1,)
    return [factor * 10.0**power for power in powers for factor in factors if low <= factor * 10.0**power <= high]


def _axis(
    values: Sequence[float],
    start: float,
    end: float,
    *,
    logarithmic: bool = False,
    pad: tuple[float, float] = (0.08, 0.08),
) -> Axis:
    """An axis over the values, with room on both sides as fractions of their span."""
    low, high = min(values), max(values)
    if logarithmic:
        span = math.log(high / low)
        return Axis(low * math.exp(-pad[0] * span), high * math.exp(pad[1] * span), start, end, True)
    span = (high - low) or abs(high) or 1.0
    return Axis(low - pad[0] * span, high + pad[1] * span, start, end)


def _frame(x: Axis, y: Axis, x_title: str, y_title: str) -> Markup:
    """Horizontal grid lines, ticks with their numbers, the names of the axes."""
    parts = []
    decimals = max((len(f"{tick:g}".partition(".")[2]) for tick in y.ticks()), default=0)
    for tick in y.ticks():
        at = y.place(tick)
        parts.append(Markup('<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(x.start, x.end, at, at))
        parts.append(_text(x.start - 8, at + 4, f"{tick:.{decimals}f}", "tick", "end"))
    for tick in x.ticks():
        at = x.place(tick)
        parts.append(
            Markup('<line class="axis" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(at, at, y.start, y.start + 5)
        )
        parts.append(_text(at, y.start + 20, _short(tick), "tick", "middle"))
    parts.append(
        Markup('<line class="axis" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(x.start, x.end, y.start, y.start)
    )
    parts.append(_text((x.start + x.end) / 2, HEIGHT - 10, x_title, "title", "middle"))
    parts.append(_text(8, 18, y_title, "title"))
    return Markup("").join(parts)


def _short(value: float) -> str:
    """A tick's number without needless digits: 1500000 -> "1.5 M"."""
    for unit, prefix in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= unit:
            return f"{value / unit:g}{prefix}"
    return f"{value:g}"


def _marker(point: Point, x: Axis, y: Axis) -> Markup:
    """A dot for a student (a ring where it is not blessed), a diamond for the Teacher; its error bar."""
    at, middle = x.place(point.parameters), y.place(point.bits_per_byte)
    role = "teacher" if point.is_teacher else "student"
    high, low = (y.place(point.bits_per_byte + side * point.standard_error) for side in (1, -1))
    bar = Markup('<path class="{} error" d="M{} {}V{}M{} {}h8M{} {}h8"/>').format(
        role, at, high, low, at - 4, high, at - 4, low
    )
    if point.is_teacher:
        shape = Markup('<path class="{}" d="M{} {}l7 7l-7 7l-7 -7z"/>').format(role, at, middle - 7)
    else:
        held = "" if point.blessed else " held"
        shape = Markup('<circle class="{}{}" cx="{}" cy="{}" r="5.5"/>').format(role, held, at, middle)
    return bar + shape


def _point_labels(points: Sequence[Point], x: Axis, y: Axis) -> list[Markup]:
    """Each name beside its marker, at the first of four places where it covers no marker and no other name."""
    marks = [(x.place(point.parameters), y.place(point.bits_per_byte)) for point in points]
    taken = [(at - 8, at + 8, middle - 8, middle + 8) for at, middle in marks]
    labels = []
    for point, (at, middle) in zip(points, marks, strict=True):
        name = _point_name(point)
        width = 7.5 * len(name)
        for right, up in ((True, True), (True, False), (False, False), (False, True)):
            left_edge = at + 9 if right else at - 9 - width
            base = middle - 9 if up else middle + 19
            box = (left_edge, left_edge + width, base - 11, base + 3)
            if box[1] <= WIDTH and not any(_overlap(box, other) for other in taken):
                break
        taken.append(box)
        labels.append(_text(left_edge, base, name, "label"))
    return labels


def _point_name(point: Point) -> str:
    return point.name if point.blessed or point.is_teacher else f"{point.name} (not blessed)"


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[1] and b[0] < a[1] and a[2] < b[3] and b[2] < a[3]


def _spread(places: Sequence[float]) -> list[float]:
    """The places in ascending order, moved as little as is needed to lie a line apart."""
    spread: list[float] = []
    for place in sorted(places):
        spread.append(max(place, spread[-1] + LINE_HEIGHT) if spread else place)
    excess = max(0.0, spread[-1] - (HEIGHT - BOTTOM)) if spread else 0.0
    return [place - excess for place in spread]


def _text(x: float, y: float, text: str, role: str, anchor: str = "start") -> Markup:
    return Markup('<text class="{}" x="{}" y="{}" text-anchor="{}">{}</text>').format(role, x, y, anchor, text)


def _svg(name: str, title: str, description: str, parts: Sequence[Markup]) -> Markup:
    return Markup(
        '<svg viewBox="0 0 {} {}" role="img" aria-labelledby="{}-title {}-desc">'
        '<title id="{}-title">{}</title><desc id="{}-desc">{}</desc>{}</svg>'
    ).format(WIDTH, HEIGHT, name, name, name, title, name, description, Markup("\n").join(parts))
