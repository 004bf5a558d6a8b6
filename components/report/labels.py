"""Names beside marks, placed so that no name covers another one, a mark, or the edge of the plot."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

Box = tuple[float, float, float, float]  # left, right, top, bottom

ASCENT, DESCENT = 12.6, 3.4  # of a line of 13.5 pixels, above and below its base, in DejaVu Sans
FONT_PIXELS = 13.5
LEADER_FROM = 20.0  # pixels; a line ties a name that is further away to its mark
# Widths in em in DejaVu Sans Bold, the widest of the common system fonts. Other fonts leave more room.
_NARROW, _WIDE, _USUAL = 0.42, 1.12, 0.79
_NARROW_LETTERS, _WIDE_LETTERS = frozenset("fijlrtI.,:;|!'() -"), frozenset("mwMW%@")


@dataclass(frozen=True)
class Label:
    """The left end of a name's base line, the name's box, and the end of a leader line, if it needs one."""

    x: float
    y: float
    box: Box
    leader: tuple[float, float] | None


def text_width(name: str, pixels: float = FONT_PIXELS) -> float:
    """An upper bound of a name's width in pixels, in bold."""
    ems = (
        _NARROW if letter in _NARROW_LETTERS else _WIDE if letter in _WIDE_LETTERS or ord(letter) > 0x2FF else _USUAL
        for letter in name
    )
    return pixels * sum(ems)


def place_labels(
    names: Sequence[str], marks: Sequence[tuple[float, float]], lines: Sequence[Box], bounds: Box, radius: float = 9.0
) -> list[Label | None]:
    """Places for all names, near their marks. None means that no place is left, as names fill the plot.

    A name never covers a mark, another name or the edge of `bounds`. It covers one of `lines` (error bars), or lies
    nearer to another mark, only if no other place is close.
    """
    taken: list[Box] = [(x - radius, x + radius, y - radius, y + radius) for x, y in marks]
    labels: list[Label | None] = []
    for name, (x, y) in zip(names, marks, strict=True):
        best: tuple[float, Box] | None = None
        for distance, box in _candidates(x, y, text_width(name), radius, bounds):
            if best is not None and distance >= best[0]:
                break  # they come in ascending order of distance
            if not _inside(box, bounds) or any(overlap(box, other) for other in taken):
                continue
            ambiguous = any(_gap(box, other) <= _gap(box, (x, y)) for other in marks if other != (x, y))
            cost = distance + 12.0 * sum(overlap(box, line) for line in lines) + 30.0 * ambiguous
            if best is None or cost < best[0]:
                best = cost, box
        if best is None:
            labels.append(None)
            continue
        box = best[1]
        taken.append(box)
        leader = _nearest(box, (x, y)) if _gap(box, (x, y)) > LEADER_FROM else None
        labels.append(Label(box[0] + 1, box[3] - DESCENT, box, leader))
    return labels


def overlap(a: Box, b: Box) -> bool:
    return a[0] < b[1] and b[0] < a[1] and a[2] < b[3] and b[2] < a[3]


def spread(places: Sequence[float], line_height: float, lowest: float) -> list[float]:
    """The places in ascending order, moved as little as is needed to lie a line apart and not below `lowest`."""
    moved: list[float] = []
    for place in sorted(places):
        moved.append(max(place, moved[-1] + line_height) if moved else place)
    for number in range(len(moved) - 1, -1, -1):
        moved[number] = min(moved[number], lowest - line_height * (len(moved) - 1 - number))
    return moved


def _candidates(x: float, y: float, width: float, radius: float, bounds: Box) -> Iterator[tuple[float, Box]]:
    """Boxes that touch ever larger squares around a mark, the near ones first, with their distance from it."""
    half_width, half_height = width / 2 + 1, (ASCENT + DESCENT) / 2
    reach = max(bounds[1] - bounds[0], bounds[3] - bounds[2])
    distance = 0.0
    while distance < reach:
        gap = radius + distance
        steps = 8 if distance < 4 * half_height else 24
        for step in range(steps):
            # Clockwise, beginning at the upper right.
            angle = 2 * math.pi * step / steps - math.pi / 4
            across, down = math.cos(angle), math.sin(angle)
            longer = max(abs(across), abs(down))
            middle_x = x + across / longer * (gap + half_width)
            middle_y = y + down / longer * (gap + half_height)
            left, right = round(middle_x - half_width, 2), round(middle_x + half_width, 2)
            yield distance, (left, right, round(middle_y - half_height, 2), round(middle_y + half_height, 2))
        distance += 6.0


def _nearest(box: Box, mark: tuple[float, float]) -> tuple[float, float]:
    """The point of a box that is nearest to a mark."""
    return min(max(mark[0], box[0]), box[1]), min(max(mark[1], box[2]), box[3])


def _gap(box: Box, mark: tuple[float, float]) -> float:
    return math.dist(mark, _nearest(box, mark))


def _inside(box: Box, bounds: Box) -> bool:
    return bounds[0] <= box[0] and box[1] <= bounds[1] and bounds[2] <= box[2] and box[3] <= bounds[3]
