"""Axes of a figure: values to pixels, ticks at round numbers, the frame around a plot."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

TICK_SPACE = 52  # pixels that the number of a tick on the horizontal axis may take


@dataclass(frozen=True)
class Canvas:
    """A figure's size and margins, in pixels; the plot is what the margins leave."""

    width: int
    height: int
    left: int = 62
    right: int = 20
    top: int = 40
    bottom: int = 52

    @property
    def plot(self) -> tuple[float, float, float, float]:
        """Left, right, top and bottom edge of the plot."""
        return self.left, self.width - self.right, self.top, self.height - self.bottom


@dataclass(frozen=True)
class PlotAxis:
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

    def ticks(self, at_most: int = 6) -> list[float]:
        return (log_ticks if self.logarithmic else nice_ticks)(self.low, self.high, at_most)


def axis(
    values: Sequence[float], start: float, end: float, *, logarithmic: bool = False, pad: float = 0.08
) -> PlotAxis:
    """An axis over the values, with room on both sides as a fraction of their span."""
    low, high = min(values), max(values)
    if logarithmic:
        span = math.log(high / low)
        return PlotAxis(low * math.exp(-pad * span), high * math.exp(pad * span), start, end, True)
    # All but equal values get a span of their own: rounding must not become the picture.
    span = high - low if high - low > 1e-9 * abs(high) else abs(high) or 1.0
    return PlotAxis(low - pad * span, high + pad * span, start, end)


def nice_ticks(low: float, high: float, at_most: int = 6) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten, within the bounds."""
    power = 10.0 ** math.floor(math.log10((high - low) / at_most))
    step = next(step * power for step in (1, 2, 5, 10, 20) if (high - low) / (step * power) <= at_most)
    digits = 12 - math.floor(math.log10(step))
    return [round(number * step, digits) for number in range(math.ceil(low / step), math.floor(high / step) + 1)]


def log_ticks(low: float, high: float, at_most: int = 9) -> list[float]:
    """Round numbers within the bounds: 1, 2 and 5 times powers of ten, more where few of these fit, else fewer."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    finest = (((1, 1.5, 2, 3, 4, 5, 7), 1), ((1, 2, 5), 1))
    for factors, stride in (*finest, *(((1,), stride) for stride in range(1, len(powers) + 1))):
        ticks = [f * 10.0**power for power in powers if power % stride == 0 for f in factors]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) <= at_most:
            return ticks
    raise AssertionError("one power of ten is never too many")


def frame(canvas: Canvas, x: PlotAxis, y: PlotAxis, titles: tuple[str, str], y_text: Callable[[float], str]) -> Markup:
    """Horizontal grid lines, ticks with their numbers, the names of the axes."""
    parts = []
    for tick in y.ticks():
        at = y.place(tick)
        parts.append(Markup('<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(x.start, x.end, at, at))
        parts.append(text(x.start - 8, at + 4, y_text(tick), "tick", "end"))
    for tick in x.ticks(int((x.end - x.start) / TICK_SPACE)):
        at = x.place(tick)
        parts.append(
            Markup('<line class="axis" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(at, at, y.start, y.start + 5)
        )
        parts.append(text(at, y.start + 20, short(tick), "tick", "middle"))
    parts.append(
        Markup('<line class="axis" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(x.start, x.end, y.start, y.start)
    )
    parts.append(text((x.start + x.end) / 2, canvas.height - 10, titles[0], "title", "middle"))
    parts.append(text(8, 18, titles[1], "title"))
    return Markup("").join(parts)


def tick_text(y: PlotAxis, *, percent: bool = False) -> Callable[[float], str]:
    """How the ticks of an axis are written: all with the decimals that the longest needs."""
    factor, sign = (100, "%") if percent else (1, "")
    decimals = max((len(f"{factor * tick:g}".partition(".")[2]) for tick in y.ticks()), default=0)
    return lambda tick: f"{factor * tick:.{decimals}f}{sign}"


def short(value: float) -> str:
    """A tick's number without needless digits: 1500000 -> "1.5 M"."""
    for unit, prefix in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= unit:
            return f"{value / unit:g}{prefix}"
    return f"{value:g}"


def text(x: float, y: float, content: str, role: str, anchor: str = "start") -> Markup:
    return Markup('<text class="{}" x="{}" y="{}" text-anchor="{}">{}</text>').format(role, x, y, anchor, content)


def svg(canvas: Canvas, name: str, title: str, description: str, parts: Sequence[Markup]) -> Markup:
    """The figure, named and described for those who do not see it."""
    return Markup(
        '<svg viewBox="0 0 {} {}" role="img" aria-labelledby="{}-title" aria-describedby="{}-desc">'
        '<title id="{}-title">{}</title><desc id="{}-desc">{}</desc>{}</svg>'
    ).format(canvas.width, canvas.height, name, name, name, title, name, description, Markup("\n").join(parts))
