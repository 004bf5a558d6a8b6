"""The benchmark's rows as a table in Markdown, and as a picture of quality against the cost of training."""

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scipy.stats import t as student_t

from components.common.statistics import ratio_estimate

Row = dict[str, Any]
_WIDTH, _HEIGHT = 720, 380  # of a picture of one regime and shape


def table(rows: Sequence[Row]) -> str:
    """One table for each regime and shape: mean losses over the seeds, and differences from teacher_only of the same
    size, paired by seed, with their 95 % intervals (Student's t) over seeds, then over documents where rows have
    them."""
    parts = []
    for regime, shape in _places(rows):
        mine = _of_place(rows, regime, shape)
        sizes = list(dict.fromkeys(row["size"] for row in mine))
        whole = _family_flops(mine, "equal_steps", "teacher_only")
        lines = [
            f"### {regime}, shape {shape}",
            "",
            f"| arm | FLOPs of the family | {' | '.join(sizes)} |",
            f"|---|---:|{'---:|' * len(sizes)}",
        ]
        for budget, arm in _ways(mine):
            cost = _family_flops(mine, budget, arm)
            share = f"{cost / whole:.2f}" if whole and cost else ""
            cells = [_cell(mine, budget, arm, size) for size in sizes]
            name = arm if budget == "equal_steps" else f"{arm}, {budget.split()[1]} of the compute"
            lines.append(f"| {name} | {share} | {' | '.join(cells)} |")
        parts.append("\n".join(lines))
        parts += _slices([row for row in rows if row.get("slice") and (row["regime"], row["shape"]) == (regime, shape)])
    return "\n\n".join(parts) + "\n"


def _slices(rows: Sequence[Row]) -> list[str]:
    """A table of the TA's slices, those of sizes and, halfway between two, of widths that were never trained."""
    names = list(dict.fromkeys(row["size"] for row in rows))
    between = [name for name in names if "-" in name]
    if not rows:
        return []
    lines = [
        "Slices of the TA, before sizes go on alone. Below zero, a width that was never trained is better than the "
        "mean of its neighbours:",
        "",
        f"| arm | {' | '.join(names)} |",
        f"|---|{'---:|' * len(names)}",
    ]
    for arm in dict.fromkeys(row["arm"] for row in rows):
        of_size = {
            name: _by_seed([row for row in rows if row["arm"] == arm], "equal_steps", arm, name) for name in names
        }
        means = {name: statistics.mean(row["loss"] for row in of_seed.values()) for name, of_seed in of_size.items()}
        cells = [f"{means[name]:.3f}" for name in names]
        for name in between:
            apart = means[name] - statistics.mean(means[neighbour] for neighbour in name.split("-"))
            cells[names.index(name)] += f" ({apart:+.3f})"
        lines.append(f"| {arm} | {' | '.join(cells)} |")
    return ["\n".join(lines)]


def _places(rows: Sequence[Row]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((row["regime"], row["shape"]) for row in rows))


def _of_place(rows: Sequence[Row], regime: str, shape: str) -> list[Row]:
    return [row for row in rows if (row["regime"], row["shape"]) == (regime, shape) and not row.get("slice")]


def _ways(rows: Sequence[Row]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((row["budget"], row["arm"]) for row in rows))


def _cell(rows: Sequence[Row], budget: str, arm: str, size: str) -> str:
    own, reference = (_by_seed(rows, *way, size) for way in ((budget, arm), ("equal_steps", "teacher_only")))
    if not own:
        return ""
    text = f"{statistics.mean(row['loss'] for row in own.values()):.3f}"
    shared = sorted(own.keys() & reference.keys())
    if (budget, arm) == ("equal_steps", "teacher_only") or len(shared) < 2:
        return text
    pairs = [(own[seed], reference[seed]) for seed in shared]
    differences = [one["loss"] - other["loss"] for one, other in pairs]
    told = f"{statistics.mean(differences):+.3f} ± {interval(differences):.3f}"
    if all("documents" in row for pair in pairs for row in pair):
        told += f", ± {interval_over_documents(pairs):.3f}"
    return f"{text} ({told})"


def interval(differences: Sequence[float]) -> float:
    """Half of the 95 % interval of the mean difference over seeds."""
    number = len(differences)
    return float(student_t.ppf(0.975, number - 1)) * statistics.stdev(differences) / math.sqrt(number)


def interval_over_documents(pairs: Sequence[tuple[Row, Row]]) -> float:
    """The same over held-out documents, for these trainings: each pair has the two rows of a seed."""
    numbers = [number for _, number in pairs[0][0]["documents"]]
    means = [
        [statistics.mean(row["documents"][place][0] for row in rows) for place in range(len(numbers))]
        for rows in zip(*pairs, strict=True)
    ]
    differences = [own - reference for own, reference in zip(*means, strict=True)]
    _, error = ratio_estimate(differences, numbers)
    return float(student_t.ppf(0.975, len(numbers) - 1)) * error


def _by_seed(rows: Sequence[Row], budget: str, arm: str, size: str) -> dict[int, Row]:
    return {row["seed"]: row for row in rows if (row["budget"], row["arm"], row["size"]) == (budget, arm, size)}


def _family_flops(rows: Sequence[Row], budget: str, arm: str) -> float | None:
    """A seed costs as much as another."""
    return next((row["flops"] for row in rows if (row["budget"], row["arm"]) == (budget, arm)), None)


def write_plot(rows: Sequence[Row], path: Path) -> None:
    """Mean loss over the sizes of a family against what the family costs: an SVG, one picture below the other for each
    regime and shape."""
    places = _places(rows)
    height = _HEIGHT * len(places)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif" '
        f'font-size="12"><rect width="{_WIDTH}" height="{height}" fill="white"/>'
    ]
    for number, (regime, shape) in enumerate(places):
        title = f"{regime}, shape {shape}: mean held-out nats per token of the family against its training FLOPs"
        picture = _picture(_of_place(rows, regime, shape), title)
        parts += [f'<g transform="translate(0 {_HEIGHT * number})">', *picture, "</g>"]
    path.write_text("\n".join([*parts, "</svg>\n"]))


def _picture(rows: Sequence[Row], title: str) -> list[str]:
    points: dict[str, list[tuple[float, float]]] = {}
    for budget, arm in _ways(rows):
        mine = [row for row in rows if (row["budget"], row["arm"]) == (budget, arm)]
        points.setdefault(arm, []).append((mine[0]["flops"], statistics.mean(row["loss"] for row in mine)))
    every = [point for of_arm in points.values() for point in of_arm]
    low, high = (limit(cost for cost, _ in every) for limit in (min, max))
    best, worst = (limit(loss for _, loss in every) for limit in (min, max))

    def place(cost: float, loss: float) -> tuple[float, float]:
        across = (cost - 0.9 * low) / max(1.1 * high - 0.9 * low, 1e-9)
        return 60 + 480 * across, 30 + 300 * (worst - loss + 0.02) / max(worst - best + 0.04, 1e-9)

    parts = [
        f'<text x="60" y="18">{title}</text><path d="M60 30V340H560" fill="none" stroke="black"/>',
        f'<text x="60" y="358">{low:.2g}</text><text x="520" y="358">{high:.2g} FLOPs</text>',
        f'<text x="8" y="40">{worst:.2f}</text><text x="8" y="336">{best:.2f}</text>',
    ]
    for number, (arm, of_arm) in enumerate(points.items()):
        shade = f"hsl({360 * number // len(points)} 70% 40%)"
        where = [place(*point) for point in sorted(of_arm)]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in where)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{shade}"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{shade}"/>' for x, y in where]
        x, y = where[-1]
        parts.append(f'<text x="{x + 7:.1f}" y="{y + 4:.1f}" fill="{shade}">{arm}</text>')
    return parts
