"""Two models on the same questions: their difference, whether it is more than noise, and how sure its size is.

A document is one observation, because questions of one document stand or fall together. It counts with the sum of its
questions' weights and the sum of weight * difference. A figure is a ratio of sums over documents. A positive difference
always means that the first model is better.
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

# How many resamples are drawn unless more are needed. Their p-values reach down to 1 / (RESAMPLES + 1).
RESAMPLES = 9_999
_SEED = 20250623
_NUMBERS_AT_ONCE = 4_000_000  # signs of one batch: 32 MB as float64
_MOST_TIMES = 10_000.0  # as many documents as there are; nobody would evaluate more than that


def figure_of(weights: np.ndarray, values: np.ndarray) -> float:
    """sum(weight * value) / sum(weight)."""
    return math.fsum(weights * values) / math.fsum(weights)


@dataclass(frozen=True, eq=False)
class PairedDocuments:
    """Two models' answers by document: `differences` has each document's sum of weight * difference, `weights` its sum
    of weights, both shaped (documents,). `spans` tells how far two values of a question can be apart; None is any
    distance. Where this is not known, it holds several guesses, and the interval holds for each of them.
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
        """Group questions by document. Each argument is shaped (questions,): documents, weights, both models'
        values."""
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
        """The standard error of the difference; NaN where there is one document only."""
        return self._estimate[1]

    @cached_property
    def _estimate(self) -> tuple[float, float]:
        return ratio_estimate(self.differences.tolist(), self.weights.tolist())

    def p_value(self, shift: float = 0.0, *, resamples: int = RESAMPLES) -> float:
        """The two-sided p-value of the hypothesis that the difference is `shift`. It is never 0.

        This is the test of random signs. If the two models were the same, each document's contribution could as well
        have the other sign; so the sum's distribution over all choices of signs is known. The test is exact for `shift`
        0, whatever the distribution; with a shift it assumes contributions that are symmetric around it. All choices
        are counted where they are at most `resamples`; else that many are drawn with a fixed seed, and the observed one
        is added. Where all contributions have one size (a question per document, right or wrong), it is the exact
        binomial test of the discordant documents (McNemar), from scipy.

        Skewed differences with a mean of 0 are not "the same model", and the test rejects them too often: at level
        0.05, lognormal ones (skewness 6) in 0.14, 0.12 and 0.07 of 1,000 rounds with 15, 30 and 100 documents, nearly
        always on the side away from the rare large ones; 0/1 values with a shift of 0.1 in 0.09, 0.07 and 0.05.

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
        """The two-sided interval of the difference; see `lower_end`. It draws nothing, so it needs no seed.

        `unseen_loss` is the loss to expect of a document of a kind that was not seen. Nothing is assumed of its gain.
        """
        turned = dataclasses.replace(self, differences=-self.differences)
        return self._low(confidence, unseen_loss), 0.0 - turned._low(confidence)

    def documents_needed(self, above: float, confidence: float, *, unseen_loss: float = 0.0) -> int | None:
        """About how many documents like these would put the interval above `above`; None where no number would."""

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
    """p-values adjusted for their number (Holm 1979). If all those at or below a level are rejected, the chance of any
    wrong rejection is at most that level, however the hypotheses depend on one another.
    """
    p_sorted, order = np.sort(p_values), np.argsort(p_values)
    steps = np.maximum.accumulate(p_sorted * np.arange(len(p_sorted), 0, -1))
    adjusted = np.empty(len(p_sorted))
    adjusted[order] = np.minimum(steps, 1.0)
    return adjusted.tolist()


def _random_signs(contributions: np.ndarray, resamples: int) -> float:
    sizes = np.sort(np.abs(contributions))  # their order does not matter
    # A sum that differs from the observed one by rounding alone counts as reaching it.
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
