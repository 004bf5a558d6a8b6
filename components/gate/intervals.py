"""How far the difference of two models may lie from the one that was measured.

Each end of an interval is the farther of two ends: one by the spread of the documents that were seen, one by what
unseen documents could do. A sample shows less of a tail than there is, so its skewness and its worst document both
count twice.
"""

import math

import numpy as np

_SEEN_OF_A_TAIL = 2.0
# A document whose weight is below this share of the mean counts with this share: its rate is mostly noise.
_LEAST_WEIGHT = 0.25
# The least effective number of documents. Below it, rounding decides the quantile of Student's t.
_LEAST_DOCUMENTS = 1.5


def unseen_share(level: float, documents: float) -> float:
    """The largest share that a kind of documents may have without one among `documents` of them: at this level, a
    larger share would have shown up. For 95 % it is 3 / documents (the rule of three)."""
    return -math.expm1(math.log1p(-level) / documents)


def lower_end(
    differences: np.ndarray,
    weights: np.ndarray,
    level: float,
    *,
    span: float | None = None,
    unseen_loss: float = 0.0,
    times: float = 1.0,
) -> float:
    """The lower end of the interval: the true ratio of the sums is above it with probability `level`. It is -inf where
    the weights are so uneven that the documents are hardly worth more than one.

    `differences` and `weights` have one entry per document, shaped (documents,): its sum of weight * difference, and
    its sum of weights. `span` tells how far two values of a question can be apart, where that is known. `unseen_loss`
    is the least loss to expect of documents of an unseen kind. `times` multiplies the documents, as if there were more
    of the same.

    One end follows from the spread: Student's t with Johnson's correction for skewness (JASA 1978), both with Kish's
    effective number of documents, which uneven weights make smaller. Only skewness towards losses counts, so the
    correction can only widen. With a `span`, the documents of Agresti and Min (Statistics in Medicine 2005) are added:
    half a better one, half a worse one and a tie. Without them, no discordant document would mean no uncertainty.

    The other end follows from what was not seen: up to `unseen_share` of all documents may be of a kind of which none
    is here, and each of these loses `span`, or twice as much as the worst one here, or `unseen_loss`.

    docs/operations.md says how often it is wrong (`python -m benchmarks.interval_coverage`). For 50 documents with
    lognormal losses and uneven weights, Student's t is wrong in 14 of a hundred cases and a bootstrap-t in 8, where 2.5
    are nominal (`--methods`). The price is width: for 50 documents with normal differences the interval is 1.15 times
    as wide as Student's, for 200 as wide.

    The end cannot rise if the student gets worse on every document alike, or on its worst document, or, with 30
    documents and more, if a right answer turns wrong. It can rise a little if a document that was much better, or only
    a little worse, gets worse: the documents then agree more.
    """
    from scipy.special import stdtrit

    weight, measured = float(weights.mean()), math.fsum(differences) / math.fsum(weights)
    worst = float(((measured * weights - differences) / np.maximum(weights, _LEAST_WEIGHT * weight)).max())
    loss = _SEEN_OF_A_TAIL * worst if span is None else measured + span
    by_the_unseen = measured - unseen_share(level, times * len(differences)) * max(loss, unseen_loss)

    counts = np.full(len(differences), times)
    if span is not None:
        differences = np.append(differences, weight * span * np.array([1.0, -1.0, 0.0]))
        weights, counts = np.append(weights, np.full(3, weight)), np.append(counts, [0.5, 0.5, 1.0])
    number, total = math.fsum(counts), math.fsum(counts * weights)
    effective = total**2 / math.fsum(counts * weights**2)
    if effective < _LEAST_DOCUMENTS:
        return -math.inf
    by_spread = math.fsum(counts * differences) / total
    residuals = differences - by_spread * weights
    variance, cubes = (math.fsum(counts * residuals**power) / number for power in (2, 3))
    if variance > 0:
        quantile = float(stdtrit(effective - 1, level))
        tail = _SEEN_OF_A_TAIL * max(0.0, -cubes / variance / math.sqrt(variance))
        reach = quantile + tail * (2 * quantile**2 + 1) / (6 * math.sqrt(effective))
        by_spread -= reach * number * math.sqrt(variance / (number - 1)) / total
    low = min(by_spread, by_the_unseen)
    return low if span is None else max(low, -span)
