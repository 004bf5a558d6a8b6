"""Paired comparison: against closed forms, scipy, and simulation."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from benchmarks.interval_coverage import coverage
from components.gate.comparison import PairedDocuments, figure_of, holm

# Multiples of 1/64: sums and differences of them are exact, so a tie stays a tie.
grid = st.integers(-256, 256).map(lambda number: number / 64)
question = st.tuples(st.integers(0, 9), st.integers(1, 8).map(float), grid, grid)
questions = st.lists(question, min_size=2, max_size=30).filter(lambda rows: len({row[0] for row in rows}) > 1)


def pair_of(rows, *, higher_is_better=True, bounded=False):
    documents, weights, values, others = (np.array(column) for column in zip(*rows, strict=True))
    return PairedDocuments.of(documents, weights, values, others, higher_is_better=higher_is_better, bounded=bounded)


def statement(pair, shift=0.0):
    return [pair.difference, pair.standard_error, pair.p_value(shift, resamples=99), *pair.interval(0.95)]


def one_each(differences, bounded=False):
    differences = np.array(differences, dtype=np.float64)
    return PairedDocuments(differences, np.ones_like(differences), bounded)


def test_the_difference_is_that_of_the_figures_and_oriented():
    rows = [(0, 2.0, 1.0, 1.5), (0, 1.0, 2.0, 2.0), (1, 3.0, 0.5, 1.0)]
    _, weights, values, others = (np.array(column) for column in zip(*rows, strict=True))
    difference = figure_of(weights, values) - figure_of(weights, others)
    assert pair_of(rows).difference == pytest.approx(difference)
    assert pair_of(rows, higher_is_better=False).difference == pytest.approx(-difference)


def test_with_one_question_a_document_the_standard_error_is_that_of_a_mean():
    differences = np.random.default_rng(0).normal(size=20)
    assert one_each(differences).standard_error == pytest.approx(stats.sem(differences))


def test_the_p_value_is_scipys_exact_permutation_test():
    generator = np.random.default_rng(1)
    for _ in range(5):
        pair = PairedDocuments(generator.normal(0.3, size=9), generator.uniform(1, 3, 9))
        for shift in (0.0, 0.2):
            contributions = pair.differences - shift * pair.weights
            expected = stats.permutation_test(
                (contributions,), lambda x, axis: x.sum(axis), permutation_type="samples", n_resamples=2**9
            )
            assert pair.p_value(shift) == pytest.approx(expected.pvalue)


@pytest.mark.parametrize(("better", "worse", "ties"), [(5, 1, 20), (3, 3, 4), (0, 7, 0), (9, 2, 100), (1, 0, 3)])
def test_on_right_and_wrong_the_random_signs_are_mcnemars_exact_test(better, worse, ties):
    pair = one_each([1] * better + [-1] * worse + [0] * ties, bounded=True)
    sums = [abs(sum(signs)) for signs in itertools.product((1, -1), repeat=better + worse)]
    by_signs = sum(total >= abs(better - worse) for total in sums) / len(sums)
    assert pair.p_value() == pytest.approx(by_signs)
    assert pair.p_value() == pytest.approx(stats.binomtest(better, better + worse).pvalue)


def test_drawn_signs_come_close_to_all_signs():
    pair = one_each(np.random.default_rng(3).normal(0.4, size=16))
    exact, drawn = pair.p_value(resamples=2**16), pair.p_value(resamples=9_999)
    assert drawn != exact
    assert drawn == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 9_999))


def test_a_p_value_is_never_zero():
    assert one_each(np.linspace(1, 2, 200)).p_value(resamples=999) == 1 / 1000


def test_the_same_model_is_no_different():
    pair = one_each(np.zeros(30))
    assert (pair.difference, pair.p_value(), pair.interval(0.95)) == (0.0, 1.0, (0.0, 0.0))


@pytest.mark.parametrize("n", [15, 30, 1000])
def test_without_a_discordant_document_the_interval_of_an_accuracy_still_has_a_width(n):
    """That of the two documents added: one discordant in n + 2, in mean square."""
    low, high = one_each(np.zeros(n), bounded=True).interval(0.95)
    assert high == pytest.approx(stats.t.ppf(0.975, n + 1) * math.sqrt(1 / (n + 2) / (n + 1)))
    assert low == pytest.approx(-high)


def test_an_interval_of_accuracies_stays_within_one():
    low, high = one_each([1.0, 1.0, 1.0], bounded=True).interval(0.99)
    assert low < 1.0 == high


def test_without_ties_agresti_and_mins_interval_is_theirs():
    """Their Wald interval with 1/2 added to each of the four cells, with Student's t in the place of the normal."""
    better, worse, n = 12, 5, 40
    b, c, total = better + 0.5, worse + 0.5, n + 2
    error = math.sqrt((b + c - (b - c) ** 2 / total) / total / (total - 1))
    half = stats.t.ppf(0.975, total - 1) * error
    low, high = one_each([1] * better + [-1] * worse + [0] * (n - better - worse), bounded=True).interval(0.95)
    assert (low, high) == pytest.approx(((b - c) / total - half, (b - c) / total + half))


def test_symmetric_differences_have_students_interval():
    differences = np.array([-3.0, -2, -1, 1, 2, 3])
    expected = stats.t.interval(0.95, 5, loc=0, scale=stats.sem(differences))
    assert one_each(differences).interval(0.95) == pytest.approx(expected)


@settings(deadline=None, max_examples=50)
@given(rows=questions, shift=grid, bounded=st.booleans())
def test_exchanging_the_models_turns_every_sign(rows, shift, bounded):
    difference, error, p_value, low, high = statement(pair_of(rows, bounded=bounded), shift)
    turned = pair_of([(d, w, b, a) for d, w, a, b in rows], bounded=bounded)
    assert statement(turned, -shift) == pytest.approx([-difference, error, p_value, -high, -low], rel=1e-9, abs=1e-9)


@settings(deadline=None, max_examples=50)
@given(rows=questions, factor=st.floats(1e-3, 1e3), bounded=st.booleans())
def test_the_scale_of_all_weights_changes_nothing(rows, factor, bounded):
    scaled = [(d, w * factor, a, b) for d, w, a, b in rows]
    assert statement(pair_of(scaled, bounded=bounded)) == pytest.approx(
        statement(pair_of(rows, bounded=bounded)), rel=1e-9, abs=1e-9
    )


@settings(deadline=None, max_examples=50)
@given(rows=questions, data=st.data(), bounded=st.booleans())
def test_the_order_and_the_names_of_documents_change_nothing(rows, data, bounded):
    shuffled = data.draw(st.permutations([(f"d{97 * d % 11}", w, a, b) for d, w, a, b in rows]))
    assert statement(pair_of(shuffled, bounded=bounded)) == pytest.approx(
        statement(pair_of(rows, bounded=bounded)), rel=1e-9, abs=1e-9
    )


@settings(deadline=None, max_examples=50)
@given(rows=questions, constant=grid)
def test_a_constant_added_to_both_models_changes_nothing(rows, constant):
    moved = [(d, w, a + constant, b + constant) for d, w, a, b in rows]
    assert statement(pair_of(moved)) == pytest.approx(statement(pair_of(rows)), rel=1e-9, abs=1e-9)


def test_holm_by_hand():
    # Sorted 0.005 x 4, 0.01 x 3, 0.03 x 2, 0.04 x 1 = 0.02, 0.03, 0.06, 0.04; the last may not be below the third.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


# The docstring of PairedDocuments.interval states these. 2,000 rounds: two standard errors of 0.95 are 0.0097, of
# 0.9 are 0.013.
@pytest.mark.parametrize(
    ("distribution", "documents", "covered"),
    [
        ("normal", 15, 0.957),
        ("normal", 30, 0.963),
        ("normal, uneven weights", 15, 0.942),
        ("normal, uneven weights", 30, 0.941),
        ("lognormal", 15, 0.918),
        ("lognormal", 30, 0.929),
        ("lognormal, uneven weights", 15, 0.875),
        ("lognormal, uneven weights", 30, 0.899),
        ("0/1: 15 % better, 10 % worse", 30, 0.967),
        ("0/1: 6 % worse", 30, 1.0),
        pytest.param("normal", 100, 0.945, marks=pytest.mark.slow),
        pytest.param("lognormal", 100, 0.941, marks=pytest.mark.slow),
        pytest.param("lognormal, uneven weights", 100, 0.935, marks=pytest.mark.slow),
        pytest.param("0/1: 6 % worse", 100, 0.941, marks=pytest.mark.slow),
    ],
)
def test_intervals_cover_the_truth_as_often_as_was_measured(distribution, documents, covered):
    share, *_ = coverage(distribution, documents, PairedDocuments.interval, 0.95)
    assert share == pytest.approx(covered, abs=2 * math.sqrt(max(covered * (1 - covered), 0.001) / 2000))


def test_a_true_difference_of_one_standard_deviation_is_found_in_thirty_documents():
    generator = np.random.default_rng(5)
    p_values = [one_each(generator.normal(1.0, 1.0, 30)).p_value(resamples=999) for _ in range(200)]
    assert np.mean(np.array(p_values) <= 0.05) > 0.99  # power of the t test there: 0.9995


@pytest.mark.parametrize("kind", ["normal", pytest.param("right and wrong", marks=pytest.mark.slow)])
def test_where_nothing_differs_a_decision_claims_a_difference_in_at_most_one_of_twenty(kind):
    """Four students on three tasks, 12 documents: 600 decisions, so two standard errors are 0.018."""
    generator, wrong, rounds = np.random.default_rng(6), 0, 600
    for _ in range(rounds):
        if kind == "normal":
            drawn = generator.normal(size=(12, 12))
        else:
            drawn = generator.choice([-1.0, 0.0, 1.0], p=[0.3, 0.4, 0.3], size=(12, 40))
        wrong += min(holm([one_each(differences).p_value() for differences in drawn])) <= 0.05
    assert wrong / rounds <= 0.05 + 0.018
