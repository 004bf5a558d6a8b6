"""How far the difference of two models may lie from the one that was measured.

An end of an interval is the farther one of two: how far the documents that were seen vary, and what documents that were
not seen could do. A sample shows less of a tail than there is, so what it shows of one is taken twice: its
skewness, and its worst document.
"""

import math

import numpy as np

_SEEN_OF_A_TAIL = 2.0
# A document of fewer questions or bytes than this share of the mean counts as one of so many: its rate is mostly noise.
_LEAST_WEIGHT = 0.25
# Of documents, effectively: with fewer, Student's t has so few degrees of freedom that rounding decides its quantile.
_LEAST_DOCUMENTS = 1.5


def unseen_share(level: float, documents: float) -> float:
    """So large a share of all documents may be of a kind of which none is among so many: more would, at the level,
    have shown up. For 95 % it is 3 / documents (the rule of three)."""
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
    """The number that the true ratio of the sums is above with probability `level`; -inf where the documents, their
    weights being so uneven, are hardly worth more than one.

    One entry per document, shaped (documents,): its sum of weight * difference, and of weights. `span`: how far two
    values of a question can be apart, where that is known. `unseen_loss`: what documents of an unseen kind may lose at
    least. `times`: as if there were so many times the documents, all alike.

    By spread: Student's t with Johnson's correction for skewness (JASA 1978), both with Kish's effective number of
    documents, which their weights, where they are uneven, make smaller. Only skewness towards losses counts; the
    correction can but widen. With a `span`, Agresti and Min's (Statistics in Medicine 2005) documents are
    added, half a better one, half a worse one and a tie: else no discordant document would mean no uncertainty.

    By the unseen: documents of a kind of which none is here may be `unseen_share` of all; each loses `span`, or twice
    as much as the worst one here, or `unseen_loss`.

    docs/operations.md says how often it is wrong (`python -m benchmarks.interval_coverage`). For 50 documents with
    lognormal losses and uneven weights, of nominal 2.5 in a hundred, Student's t is wrong in 14 and a bootstrap-t in 8
    (`--methods`). The price: with 50 documents whose differences are normal the interval is 1.15 times as wide as
    Student's, with 200 as wide.

    It cannot rise where the student is worse on every document alike, nor where its worst document is worse still, nor,
    with 30 documents and more, where a right answer turns wrong. It can rise a little where a document that
    was much better, or only a little worse, gets worse: the documents then agree more.
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
