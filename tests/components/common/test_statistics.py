import math
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.common.statistics import interval_95, ratio_estimate


@given(st.lists(st.floats(-100, 100), min_size=2))
def test_with_equal_documents_it_is_the_mean_and_its_usual_standard_error(values):
    mean, error = ratio_estimate(values, [1] * len(values))
    assert mean == pytest.approx(statistics.fmean(values), abs=1e-9)
    assert error == pytest.approx(statistics.stdev(values) / math.sqrt(len(values)), abs=1e-9)


def test_the_standard_error_is_the_spread_over_redrawn_documents():
    rng = random.Random(0)

    def draw():
        sizes = [rng.randint(100, 1000) for _ in range(40)]
        return ratio_estimate([size * rng.gauss(2.0, 0.3) for size in sizes], sizes)

    estimates = [draw() for _ in range(2000)]
    spread = statistics.stdev(value for value, _ in estimates)
    # The spread of 2,000 draws is itself known to within 1/sqrt(2 * 2000) = 1.6 %; 40 documents bias it by about 1 %.
    assert statistics.fmean(error for _, error in estimates) == pytest.approx(spread, rel=0.06)


def test_an_interval_is_students_t_on_the_documents():
    # The 97.5% quantile of Student's t with 9 degrees of freedom is 2.262 (any table).
    low, high = interval_95({"value": 2.0, "standard_error": 0.1, "documents": 10}, "bits per byte")
    assert (low, high) == (pytest.approx(2 - 0.2262, abs=1e-4), pytest.approx(2 + 0.2262, abs=1e-4))


def test_an_accuracy_of_nothing_but_wrong_or_right_answers_is_not_certain():
    # scipy.stats.binomtest(0, 30).proportion_ci() gives the same.
    low, high = interval_95({"value": 0.0, "standard_error": 0.0, "documents": 30}, "accuracy")
    assert (low, high) == (0.0, pytest.approx(0.11570, abs=1e-5))
    low, high = interval_95({"value": 1.0, "standard_error": 0.0, "documents": 30}, "accuracy")
    assert (low, high) == (pytest.approx(1 - 0.11570, abs=1e-5), 1.0)


def test_nor_is_a_metric_of_another_name_that_is_nothing_but_zeros():
    low, high = interval_95({"value": 0.0, "standard_error": 0.0, "documents": 30}, "strict match")
    assert high == -low == pytest.approx(0.11570, abs=1e-5)


def test_an_interval_of_an_accuracy_ends_at_zero_and_one():
    assert interval_95({"value": 0.01, "standard_error": 0.02, "documents": 90}, "accuracy")[0] == 0.0
    assert interval_95({"value": 0.01, "standard_error": None, "documents": 90}, "accuracy") is None
    assert interval_95({"value": 0.01, "standard_error": 0.1, "documents": 1}, "accuracy") is None
