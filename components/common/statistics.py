"""Standard errors and intervals of figures, for evaluation, gate, model card and report alike."""

import math
from collections.abc import Mapping, Sequence
from typing import Any


def ratio_estimate(numerators: Sequence[float], denominators: Sequence[float]) -> tuple[float, float]:
    """sum(numerators) / sum(denominators), and its standard error, which is NaN for a single entry.

    There is one entry per document, because documents are drawn, not the bytes or lines in them. The error is the root
    of a ratio's linearised variance, n / (n - 1) sum (y - r x)^2 / (sum x)^2 (Cochran, Sampling Techniques, chapter 6).
    If all denominators are 1, it is the usual standard error of a mean.
    """
    n, total = len(numerators), math.fsum(denominators)
    ratio = math.fsum(numerators) / total
    if n == 1:
        return ratio, math.nan
    squares = math.fsum((y - ratio * x) ** 2 for y, x in zip(numerators, denominators, strict=True))
    return ratio, math.sqrt(n / (n - 1) * squares) / total


def interval_95(entry: Mapping[str, Any], unit: str) -> tuple[float, float] | None:
    """The 95% interval of one figure, from its standard error over documents; None where that is not known.

    It uses Student's t with one degree of freedom less than there are documents. For an accuracy it is cut at 0 and 1.
    If all values are 0, or all are 1, nothing varied. It is then the exact interval for one question per document
    (Clopper and Pearson 1934). Whether two models differ is told by the gate's paired comparison, which is sharper.
    """
    from scipy.special import stdtrit

    value, error, documents = (entry.get(name) for name in ("value", "standard_error", "documents"))
    if value is None or error is None or documents is None or documents < 2:
        return None
    reach = float(stdtrit(documents - 1, 0.975)) * error
    if error == 0 and value in (0, 1):  # for any metric: none is exactly 0 or 1 by chance
        reach = 1 - 0.025 ** (1 / documents)
    low, high = value - reach, value + reach
    return (max(0.0, low), min(1.0, high)) if unit == "accuracy" else (low, high)
