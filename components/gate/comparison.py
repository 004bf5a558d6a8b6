"""Two models on the same questions: their difference, whether it is more than noise, and how sure its size is.

What varies is the document: questions of one document stand or fall together, so a document is one observation, with
the sum of its questions' weights and of weight * difference. A figure is a ratio of sums over documents. All
differences are oriented: positive is better for the first model.
"""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np

from components.common.statistics import ratio_estimate
from components.gate.intervals import lower_end

# p-values by resampling reach down to 1 / (RESAMPLES + 1) at least; so many are drawn where nothing asks for more.
RESAMPLES = 9_999
_SEED = 20250623
_NUMBERS_AT_ONCE = 4_000_000  # signs of one batch: 32 MB as float64
_MOST_TIMES = 10_000.0  # the documents at hand: whoever needs more will not evaluate them


def figure_of(weights: np.ndarray, values: np.ndarray) -> float:
    """sum(weight * value) / sum(weight)."""
    return math.fsum(weights * values) / math.fsum(weights)


@dataclass(frozen=True, eq=False)
class PairedDocuments:
    """One entry per document: `differences` is its sum of weight * difference, `weights` its sum of weights, both
    shaped (documents,). `spans`: how far two values of a question can be apart, None: any distance. Where it is
    not known there are several, and the interval holds with each.
    """

    differences: np.ndarray
    weights: np.ndarray
    spans: tuple[float | None, ...] = (None,)

    @classmethod
    def of(
        cls,
        documents: np.ndarray,
        weights: np.ndarray,
        values: np.ndarray,
        other_values: np.ndarray,
        *,
        higher_is_better: bool,
        spans: tuple[float | None, ...] = (None,),
    ) -> Self:
        """From one entry per question, all shaped (questions,): its document, weight, and both models' values."""
        _, place = np.unique(documents, return_inverse=True)
        gains = weights * (values - other_values) * (1 if higher_is_better else -1)
        return cls(np.bincount(place, weights=gains), np.bincount(place, weights=weights), spans)

    @property
    def num_documents(self) -> int:
        return len(self.differences)

    @property
    def difference(self) -> float:
        """The first model's figure minus the other's, positive where the first is better."""
        return self._estimate[0]

    @property
    def standard_error(self) -> float:
        """Of the difference. NaN where there is one document only."""
        return self._estimate[1]

    @cached_property
    def _estimate(self) -> tuple[float, float]:
        return ratio_estimate(self.differences.tolist(), self.weights.tolist())

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

    def interval(self, confidence: float, *, unseen_loss: float = 0.0) -> tuple[float, float]:
        """Of the difference; two-sided; see `lower_end`. No resampling, so no seed.

        `unseen_loss`: what a document of an unseen kind may lose at least; nothing is said of what it may gain.
        """
        turned = dataclasses.replace(self, differences=-self.differences)
        return self._low(confidence, unseen_loss), 0.0 - turned._low(confidence)

    def documents_needed(self, above: float, confidence: float, *, unseen_loss: float = 0.0) -> int | None:
        """With about so many documents like these the interval would be above `above`; None: with no number of them."""

        def is_above(times: float) -> bool:
            return self._low(confidence, unseen_loss, times) > above

        few, many = 1.0, 2.0
        while not is_above(many):
            few, many = many, 2 * many
            if many > _MOST_TIMES:
                return None
        while many / few > 1.02:
            middle = math.sqrt(few * many)
            few, many = (few, middle) if is_above(middle) else (middle, many)
        return math.ceil(many * self.num_documents)

    def _low(self, confidence: float, unseen_loss: float = 0.0, times: float = 1.0) -> float:
        asked = {"level": (1 + confidence) / 2, "unseen_loss": unseen_loss, "times": times}
        return min(lower_end(self.differences, self.weights, span=span, **asked) for span in self.spans)


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
