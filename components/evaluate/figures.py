"""Figures with standard errors, from per-document results.

A row is one question to one model: `task`, `doc_id` (its place in the task's file), `document` (the digest of the
held-out document that it comes from), `log_likelihood` (nats; None where the model gave no finite number),
`correct` (of the last-token task) and `bytes` (of what was predicted).
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

LAST_TOKEN = "matta_last_token"
BITS_PER_BYTE = "matta_bits_per_byte"

Row = Mapping[str, Any]


def summarise(rows: Iterable[Row]) -> dict[str, Any]:
    """bits_per_byte, accuracy and last_token_cross_entropy (nats), with standard errors and sample sizes.

    A figure that is not finite is None, which is JSON's way to say so; the gate takes it for a "no".
    """
    by_task: dict[str, list[Row]] = {LAST_TOKEN: [], BITS_PER_BYTE: []}
    for row in rows:
        by_task[row["task"]].append(row)
    lines, documents = by_task[LAST_TOKEN], by_task[BITS_PER_BYTE]
    return {
        "bits_per_byte": _figure(documents, lambda row: _nats(row) / math.log(2), lambda row: row["bytes"]),
        "accuracy": _figure(lines, lambda row: row["correct"], lambda row: 1) | {"lines": len(lines)},
        "last_token_cross_entropy": _figure(lines, _nats, lambda row: 1) | {"lines": len(lines)},
    }


def ratio_estimate(numerators: Sequence[float], denominators: Sequence[float]) -> tuple[float, float]:
    """sum(numerators) / sum(denominators), and its standard error.

    One entry per document. Documents are drawn, not the bytes or lines in them, so they are what varies: the
    linearised variance of a ratio, n / (n - 1) sum (y - r x)^2 / (sum x)^2 (Cochran, Sampling Techniques,
    chapter 6). With all denominators 1 it is the usual standard error of a mean.
    """
    n, total = len(numerators), math.fsum(denominators)
    ratio = math.fsum(numerators) / total
    squares = math.fsum((y - ratio * x) ** 2 for y, x in zip(numerators, denominators, strict=True))
    return ratio, math.sqrt(n / (n - 1) * squares) / total


def _figure(
    rows: Sequence[Row], numerator: Callable[[Row], float], denominator: Callable[[Row], float]
) -> dict[str, Any]:
    """The ratio estimate, rows of the same document added up first."""
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for row in rows:
        sums[row["document"]][0] += numerator(row)
        sums[row["document"]][1] += denominator(row)
    value, standard_error = ratio_estimate(*zip(*sums.values(), strict=True))
    finite = math.isfinite(value)
    return {
        "value": value if finite else None,
        "standard_error": standard_error if finite else None,
        "documents": len(sums),
    }


def _nats(row: Row) -> float:
    return math.nan if row["log_likelihood"] is None else -row["log_likelihood"]
