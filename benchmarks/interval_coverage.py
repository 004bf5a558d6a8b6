"""How often the gate's intervals cover the true difference, and how often they bless a student that is worse.

Differences of documents are drawn from known distributions, many times each with a fixed seed. The student is worse by
exactly the margin, so every blessing is a false one: the interval's lower end lies above the truth. Printed in
percent, for the interval at 95 % and at the level that one of eight comparisons gets (99.375 %): the false blessings
(2.5 and 0.31 would be right), the intervals that cover the truth, and the median width. `--methods` compares with
others: minutes.
"""

import argparse
import math
import warnings
import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Column, Table

from components.common.parser import CommandParser
from components.gate.comparison import PairedDocuments

ROUNDS = 2000
DOCUMENTS = (20, 50, 200)
LEVELS = (0.95, 1 - 0.05 / 8)

Draw = Callable[[np.random.Generator, int], np.ndarray]
Method = Callable[[PairedDocuments, float], tuple[float, float]]


class Differences(NamedTuple):
    """`draw` gives those of n documents, `truth` is what they are on average (of n, where that decides)."""

    draw: Draw
    truth: Callable[[int], float]
    spans: tuple[float | None, ...] = (None,)
    uneven: bool = False
    unseen_loss: float = 0.0

    def sample(self, generator: np.random.Generator, n: int) -> PairedDocuments:
        """Uneven weights are lognormal: of 200 documents, the longest ten have a quarter of all bytes."""
        differences = self.draw(generator, n)
        weights = generator.lognormal(size=n) if self.uneven else np.ones(n)
        return PairedDocuments(weights * differences, weights, self.spans)


def _rare(generator: np.random.Generator, n: int) -> np.ndarray:
    """Three documents of a hundred are thirty times as much worse as the others vary."""
    return generator.normal(size=n) - 30.0 * (generator.random(n) < 0.03)


def _worse(documents: float) -> Differences:
    """So many of n are worse on average, none better."""
    return Differences(lambda g, n: -(g.random(n) < documents / n).astype(float), lambda n: -documents / n, (1.0,))


def _right_or_wrong(better: float, worse: float) -> Differences:
    shares = [worse, 1 - better - worse, better]
    return Differences(lambda g, n: g.choice([-1.0, 0.0, 1.0], p=shares, size=n), lambda n: better - worse, (1.0,))


_EVEN = {
    "normal": Differences(lambda g, n: g.normal(size=n), lambda n: 0.0),
    "exponential losses": Differences(lambda g, n: -g.exponential(size=n), lambda n: -1.0),
    "lognormal losses": Differences(lambda g, n: -g.lognormal(size=n), lambda n: -math.exp(0.5)),
    "3 % much worse": Differences(_rare, lambda n: -0.9),
}
DIFFERENCES = {
    **{
        f"{name}{end}": row._replace(uneven=uneven)
        for name, row in _EVEN.items()
        for end, uneven in (("", False), (", uneven", True))
    },
    "3 % much worse, unseen_loss says so": _EVEN["3 % much worse"]._replace(unseen_loss=30.0),
    "0/1: 15 % better, 10 % worse": _right_or_wrong(0.15, 0.10),
    "0/1: 3 % better, 3 % worse": _right_or_wrong(0.03, 0.03),
    "0/1: 2.5 documents worse": _worse(2.5),
    "0/1: 5.2 documents worse": _worse(5.2),
}


def student_t(pair: PairedDocuments, confidence: float) -> tuple[float, float]:
    from scipy.stats import t

    half = float(t.ppf((1 + confidence) / 2, pair.num_documents - 1)) * pair.standard_error
    return pair.difference - half, pair.difference + half


def bca(pair: PairedDocuments, confidence: float) -> tuple[float, float]:
    """scipy's; not a number where the draws are too alike."""
    from scipy.stats import bootstrap

    result = bootstrap(
        (pair.differences, pair.weights),
        lambda differences, weights, axis: differences.sum(axis) / weights.sum(axis),
        paired=True,
        n_resamples=2000,
        confidence_level=confidence,
        rng=np.random.default_rng(0),
    )
    return tuple(result.confidence_interval)


def bootstrap_t(pair: PairedDocuments, confidence: float) -> tuple[float, float]:
    n = pair.num_documents
    drawn = np.random.default_rng(0).integers(0, n, (2000, n))
    differences, weights = pair.differences[drawn], pair.weights[drawn]
    ratios = differences.sum(1) / weights.sum(1)
    squares = ((differences - ratios[:, None] * weights) ** 2).sum(1)
    errors = np.sqrt(n / (n - 1) * squares) / weights.sum(1)
    distance = ratios - pair.difference
    studentised = np.where(errors > 0, distance / np.where(errors > 0, errors, 1), np.where(distance, distance, 1e9))
    low, high = np.quantile(studentised, [(1 - confidence) / 2, (1 + confidence) / 2], method="inverted_cdf")
    return pair.difference - high * pair.standard_error, pair.difference - low * pair.standard_error


METHODS: dict[str, Method] = {"Student's t": student_t, "BCa": bca, "bootstrap-t": bootstrap_t}


def measure(
    differences: str, n: int, confidence: float, rounds: int = ROUNDS, method: Method | None = None
) -> tuple[float, float, float]:
    """Shares of false blessings and of intervals that cover the truth; median width. No method: the gate's."""
    row = DIFFERENCES[differences]
    generator, truth = np.random.default_rng([zlib.crc32(differences.encode()), n]), row.truth(n)
    pairs = (row.sample(generator, n) for _ in range(rounds))
    found = (
        method(pair, confidence) if method else pair.interval(confidence, unseen_loss=row.unseen_loss) for pair in pairs
    )
    low, high = np.array(list(found), dtype=np.float64).T
    # What is not a number blesses nothing, and covers nothing.
    blessed, covered = low > truth + 1e-9, (low <= truth + 1e-9) & (high >= truth - 1e-9)
    return float(blessed.mean()), float(covered.mean()), float(np.median(high - low))


def rows(methods: dict[str, Method | None], rounds: int) -> Iterator[list[str]]:
    for differences in DIFFERENCES:
        for n in DOCUMENTS:
            for name, method in methods.items():
                row = [differences, str(n), *([name] if len(methods) > 1 else [])]
                for level in LEVELS:
                    blessed, covered, width = measure(differences, n, level, rounds, method)
                    row += [f"{100 * blessed:.{1 + (level != LEVELS[0])}f}", f"{100 * covered:.1f}", f"{width:.3g}"]
                yield row


def main() -> None:
    parser = CommandParser(
        prog="python -m benchmarks.interval_coverage",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--methods", action="store_true", help="Student's t, BCa and bootstrap-t too")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"(default: {ROUNDS})")
    args = parser.parse_args()
    warnings.filterwarnings("ignore", message=".*BCa.*")
    methods: dict[str, Method | None] = {"the gate's": None, **(METHODS if args.methods else {})}
    table = Table(Column("differences", no_wrap=True), "documents", *(["method"] if args.methods else []))
    for level in LEVELS:
        for heading in (f"blessed falsely, {100 * level:.5g} %", "covered", "width"):
            table.add_column(heading, justify="right")
    for row in rows(methods, args.rounds):
        table.add_row(*row)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
