"""Two models on the same questions: their difference, whether it is more than noise, and how sure its size is.

What varies is the document: questions of one document stand or fall together, so a document is one observation, with
the sum of its questions' weights and of weight * difference. A figure is a ratio of sums over documents; its
linearised standard error is Cochran's (Sampling Techniques, chapter 6). All differences are oriented: positive is
better for the first model.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np

# p-values by resampling reach down to 1 / (RESAMPLES + 1) at least; so many are drawn where nothing asks for more.
RESAMPLES = 9_999
_SEED = 20250623
_NUMBERS_AT_ONCE = 4_000_000  # signs of one batch: 32 MB as float64


def figure_of(weights: np.ndarray, values: np.ndarray) -> float:
    """sum(weight * value) / sum(weight)."""
    return math.fsum(weights * values) / math.fsum(weights)


@dataclass(frozen=True, eq=False)
class PairedDocuments:
    """One entry per document: `differences` is its sum of weight * difference, `weights` its sum of weights, both
    shaped (documents,). `bounded`: the values lie within 0 and 1, so a document's difference within its weight.
    """

    differences: np.ndarray
    weights: np.ndarray
    bounded: bool = False

    @classmethod
    def of(
        cls,
        documents: np.ndarray,
        weights: np.ndarray,
        values: np.ndarray,
        other_values: np.ndarray,
        *,
        higher_is_better: bool,
        bounded: bool = False,
    ) -> Self:
        """From one entry per question, all shaped (questions,): its document, weight, and both models' values."""
        _, place = np.unique(documents, return_inverse=True)
        gains = weights * (values - other_values) * (1 if higher_is_better else -1)
        return cls(np.bincount(place, weights=gains), np.bincount(place, weights=weights), bounded)

    @property
    def num_documents(self) -> int:
        return len(self.differences)

    @cached_property
    def difference(self) -> float:
        """The first model's figure minus the other's, positive where the first is better."""
        return math.fsum(self.differences) / math.fsum(self.weights)

    @property
    def _residuals(self) -> np.ndarray:
        """Linearised deviations of the documents, shaped (documents,); they sum to 0."""
        return self.differences - self.difference * self.weights

    @cached_property
    def standard_error(self) -> float:
        """Of the difference. Needs two documents."""
        n = self.num_documents
        return math.sqrt(n / (n - 1) * math.fsum(self._residuals**2)) / math.fsum(self.weights)

    def p_value(self, shift: float = 0.0, *, resamples: int = RESAMPLES) -> float:
        """Two-sided, of the hypothesis that the difference is `shift`. Never 0.

        The test of random signs: were the two models the same, each document's contribution could as well have had
        the other sign, so the sum's distribution over all choices of signs is known. Exact for `shift` 0, whatever
        the distribution; with a shift it takes the contributions as symmetric around it. All choices are counted
        where they are no more than `resamples`, else that many are drawn with a fixed seed and the observed one is
        counted in. Where all contributions have one size (a question per document, right or wrong), it is the exact
        binomial test of the discordant documents (McNemar), from scipy.

        Differences that are 0 on average but skewed are not "the same model": at level 0.05 lognormal ones (skewness 6)
        were rejected in 0.14, 0.12 and 0.07 of 1,000 rounds with 15, 30 and 100 documents, nearly always on the side
        away from the rare large ones; with a shift of 0.1, 0/1 values in 0.09, 0.07 and 0.05.

        `scipy.stats.permutation_test` gives the same (a test compares them) but takes 7 to 25 times as long.
        """
        contributions = self.differences - shift * self.weights
        sizes = np.abs(contributions)
        negligible = 1e-12 * (sizes.max() + abs(shift) * self.weights.max())
        moving = contributions[sizes > negligible]
        if len(moving) == 0:
            return 1.0
        if np.ptp(np.abs(moving)) <= 1e-9 * np.abs(moving).max():
            from scipy.stats import binomtest

            return float(binomtest(int((moving > 0).sum()), len(moving)).pvalue)
        return _random_signs(moving, resamples)

    def interval(self, confidence: float) -> tuple[float, float]:
        """Of the difference; two-sided. Needs two documents. No resampling, so no seed.

        Values within 0 and 1: Agresti and Min's (Statistics in Medicine 2005), which adds two documents of mean
        weight, half a better one, half a worse one and a tie; with Student's t. Without those, no discordant document
        would mean no uncertainty. With several questions a document it is wide, for nothing says that they would not
        all go one way.

        Other values: at each end the wider one of Student's t and Hall's correction of it for skewness (JRSS B 1992),
        both with Kish's effective number of documents, which their weights, where they are uneven, make smaller.

        Covered, of nominal 95 %, for 15, 30 and 100 documents (`python -m benchmarks.interval_coverage`, 2,000 rounds
        each, so +-0.01): normal 0.957, 0.963, 0.945; normal with uneven weights 0.942, 0.941, 0.945; 0/1 with a
        quarter discordant 0.983, 0.967, 0.960; 0/1 with 6 % worse and none better 1.000, 1.000, 0.941. It falls short
        for lognormal differences (skewness 6): 0.918, 0.929, 0.941, and with uneven weights 0.875, 0.899, 0.935.
        There nearly all misses are on one side: a rare document that is much worse has not been seen, and the
        difference is thought better than it is. That is what `min_documents` guards.

        Others, measured by the same script, with 30 documents: Student's t 0.841 for lognormal with uneven weights and
        0.849 for 0/1 with 6 % worse; scipy's BCa bootstrap 0.852, and no number for many 0/1 draws; a bootstrap-t
        0.900 and 0.540.
        """
        return self._agresti_min(confidence) if self.bounded else self._skewed(confidence)

    def _agresti_min(self, confidence: float) -> tuple[float, float]:
        from scipy.stats import t

        n, weight = self.num_documents + 2, float(self.weights.mean())
        centre = math.fsum(self.differences) / (n * weight)
        # Cochran's residuals; the added documents have the weights `weight` and the differences +-weight and 0.
        squares = math.fsum((self.differences - centre * self.weights) ** 2)
        squares += weight**2 * ((1 - centre) ** 2 / 2 + (1 + centre) ** 2 / 2 + centre**2)
        half = float(t.ppf((1 + confidence) / 2, n - 1)) * math.sqrt(squares / (n * (n - 1))) / weight
        return max(centre - half, -1.0), min(centre + half, 1.0)

    def _skewed(self, confidence: float) -> tuple[float, float]:
        from scipy.stats import t

        if self.standard_error == 0:
            return self.difference, self.difference
        residuals = self._residuals
        n = math.fsum(self.weights) ** 2 / math.fsum(self.weights**2)  # Kish's effective number of documents
        skewness = float((residuals**3).mean() / (residuals**2).mean() ** 1.5)
        quantile = float(t.ppf((1 + confidence) / 2, n - 1))
        below, above = max(quantile, _hall(quantile, skewness, n)), max(quantile, -_hall(-quantile, skewness, n))
        return self.difference - below * self.standard_error, self.difference + above * self.standard_error


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for their number (Holm 1979): reject those at or below the level, and the chance of any
    wrong rejection stays at or below it, however they depend on one another.
    """
    p_sorted, order = np.sort(p_values), np.argsort(p_values)
    steps = np.maximum.accumulate(p_sorted * np.arange(len(p_sorted), 0, -1))
    adjusted = np.empty(len(p_sorted))
    adjusted[order] = np.minimum(steps, 1.0)
    return adjusted.tolist()


def _random_signs(contributions: np.ndarray, resamples: int) -> float:
    sizes = np.sort(np.abs(contributions))  # their order decides nothing
    # A sum that is the observed one but for rounding counts as reaching it.
    reached = abs(math.fsum(contributions)) - 1e-10 * math.fsum(sizes)
    if 2 ** len(sizes) <= resamples:
        sums = np.zeros(1)
        for size in sizes:
            sums = np.concatenate([sums + size, sums - size])
        return float((np.abs(sums) >= reached).mean())
    generator, total, drawn, hits = np.random.default_rng(_SEED), float(sizes.sum()), 0, 0
    while drawn < resamples:
        rows = min(resamples - drawn, max(1, _NUMBERS_AT_ONCE // len(sizes)))
        positive = generator.integers(0, 2, (rows, len(sizes)), dtype=np.int8)
        hits += int((np.abs(2 * (positive @ sizes) - total) >= reached).sum())
        drawn += rows
    return (hits + 1) / (resamples + 1)


def _hall(quantile: float, skewness: float, n: float) -> float:
    """The inverse of Hall's cubic transformation of a mean's t statistic, at a quantile of the symmetric one."""
    a = skewness / (3 * math.sqrt(n))
    return quantile if abs(a) < 1e-12 else (math.cbrt(1 + 3 * a * (quantile - a / 2)) - 1) / a
