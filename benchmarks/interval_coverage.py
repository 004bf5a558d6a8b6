"""How often the gate's intervals cover the true difference, and how wide they are, against other methods.

Differences of documents are drawn from known distributions, 2,000 times each with a fixed seed: a share of 0.95
covered has a standard error of 0.005. Printed for the interval at 95 %, and at the level that one of eight
comparisons gets (99.375 %): the share that covers, the shares whose lower end lies above the truth and whose upper
end lies below it (half of the rest would be right), and the median width. `--bootstrap` adds the bootstraps: minutes.
"""

import argparse
import math
import warnings
from collections.abc import Callable, Iterator

import numpy as np
from rich.console import Console
from rich.table import Table

from components.gate.comparison import PairedDocuments
from components.parser import CommandParser

ROUNDS = 2000
DOCUMENTS = (15, 30, 100)
LEVELS = (0.95, 1 - 0.05 / 8)

Draw = Callable[[np.random.Generator, int], tuple[np.ndarray, np.ndarray]]
Method = Callable[[PairedDocuments, float], tuple[float, float]]


def _ones(differences: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return differences, np.ones_like(differences)


def _weighted(generator: np.random.Generator, n: int, differences: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Documents of uneven lengths, cut at four times the median, as evaluate cuts them."""
    weights = np.minimum(generator.lognormal(size=n), 4.0)
    return weights * differences, weights


def _signs(better: float, worse: float) -> Draw:
    shares = [worse, 1 - better - worse, better]
    return lambda generator, n: _ones(generator.choice([-1.0, 0.0, 1.0], p=shares, size=n))


# By name: what draws (differences, weights) of n documents, whether values are within 0 and 1, and the true difference.
DISTRIBUTIONS: dict[str, tuple[Draw, bool, float]] = {
    "normal": (lambda g, n: _ones(g.normal(size=n)), False, 0.0),
    "normal, uneven weights": (lambda g, n: _weighted(g, n, g.normal(0.1, 0.3, size=n)), False, 0.1),
    "lognormal": (lambda g, n: _ones(-g.lognormal(size=n)), False, -math.exp(0.5)),
    "lognormal, uneven weights": (lambda g, n: _weighted(g, n, -g.lognormal(size=n)), False, -math.exp(0.5)),
    "0/1: 15 % better, 10 % worse": (_signs(0.15, 0.10), True, 0.05),
    "0/1: 3 % better, 3 % worse": (_signs(0.03, 0.03), True, 0.0),
    "0/1: 6 % worse": (_signs(0.0, 0.06), True, -0.06),
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


METHODS: dict[str, Method] = {"the gate's": PairedDocuments.interval, "Student's t": student_t}
BOOTSTRAPS: dict[str, Method] = {"BCa": bca, "bootstrap-t": bootstrap_t}


def coverage(
    distribution: str, n: int, method: Method, confidence: float, rounds: int = ROUNDS
) -> tuple[float, float, float, float]:
    """Share that covers the truth; shares that miss it from above and from below; median width."""
    draw, bounded, truth = DISTRIBUTIONS[distribution]
    generator = np.random.default_rng(1)
    ends = np.array(
        [method(PairedDocuments(*draw(generator, n), bounded), confidence) for _ in range(rounds)], dtype=np.float64
    )
    # An interval that is not a number covers nothing.
    above, below = float((~(ends[:, 0] <= truth + 1e-9)).mean()), float((~(ends[:, 1] >= truth - 1e-9)).mean())
    covered = float(((ends[:, 0] <= truth + 1e-9) & (ends[:, 1] >= truth - 1e-9)).mean())
    return covered, above, below, float(np.median(ends[:, 1] - ends[:, 0]))


def rows(methods: dict[str, Method], rounds: int = ROUNDS) -> Iterator[list[str]]:
    for distribution in DISTRIBUTIONS:
        for n in DOCUMENTS:
            for name, method in methods.items():
                row = [distribution, str(n), name]
                for level in LEVELS:
                    covered, above, below, width = coverage(distribution, n, method, level, rounds)
                    row += [f"{covered:.3f}", f"{above:.3f} {below:.3f}", f"{width:.3g}"]
                yield row


def main() -> None:
    parser = CommandParser(
        prog="python -m benchmarks.interval_coverage",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--bootstrap", action="store_true", help="BCa and bootstrap-t too")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"(default: {ROUNDS})")
    args = parser.parse_args()
    warnings.filterwarnings("ignore", message=".*BCa.*")
    table = Table("differences", "documents", "method")
    for level in LEVELS:
        table.add_column(f"{level:.4g}", justify="right")
        table.add_column("misses", justify="right")
        table.add_column("width", justify="right")
    for row in rows(METHODS | BOOTSTRAPS if args.bootstrap else METHODS, args.rounds):
        table.add_row(*row)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
