"""Paired comparison: against closed forms, scipy, and simulation."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from benchmarks.interval_coverage import measure
from components.gate.comparison import PairedDocuments, figure_of, holm
from components.gate.intervals import unseen_share

# Multiples of 1/64: sums and differences of them are exact, so a tie stays a tie.
grid = st.integers(-256, 256).map(lambda number: number / 64)
question = st.tuples(st.integers(0, 9), st.integers(1, 8).map(float), grid, grid)
questions = st.lists(question, min_size=2, max_size=30).filter(lambda rows: len({row[0] for row in rows}) > 1)


def pair_of(rows, *, higher_is_better=True, spans=(None,)):
    documents, weights, values, others = (np.array(column) for column in zip(*rows, strict=True))
    return PairedDocuments.of(documents, weights, values, others, higher_is_better=higher_is_better, spans=spans)


def statement(pair, shift=0.0):
    return [pair.difference, pair.standard_error, pair.p_value(shift, resamples=99), *pair.interval(0.95)]


def one_each(differences, spans=(None,)):
    differences = np.array(differences, dtype=np.float64)
    return PairedDocuments(differences, np.ones_like(differences), spans)


RIGHT_OR_WRONG = (1.0,)
# The grid's values are within -4 and 4, so their differences within 8.
all_spans = st.sampled_from([(None,), (8.0,), (None, 8.0)])


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
    pair = one_each([1] * better + [-1] * worse + [0] * ties, spans=RIGHT_OR_WRONG)
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
def test_without_a_discordant_document_an_accuracy_may_still_be_worse_by_the_rule_of_three(n):
    """The exact bound: a loss in a larger share of documents would have shown itself with a probability of 97.5 %."""
    low, high = one_each(np.zeros(n), RIGHT_OR_WRONG).interval(0.95)
    assert (1 + low) ** n == pytest.approx(0.025)
    assert low == -high
    assert unseen_share(0.95, 1000) == pytest.approx(3 / 1000, rel=0.01)


def test_many_even_symmetric_documents_have_the_interval_of_students_t():
    differences = stats.norm.ppf((np.arange(400) + 0.5) / 400)
    expected = stats.t.interval(0.95, 399, loc=0, scale=stats.sem(differences))
    assert one_each(differences).interval(0.95) == pytest.approx(expected)


def test_few_documents_have_an_interval_that_twice_the_worst_one_would_reach():
    differences = np.array([-3.0, -2, -1, 1, 2, 3])
    share = 1 - 0.025 ** (1 / 6)
    assert one_each(differences).interval(0.95) == pytest.approx((-share * 6, share * 6))


def test_uneven_weights_count_as_the_fewer_documents_that_they_are_worth():
    weights = np.repeat([1.0, 3.0], 100)
    differences = np.tile(stats.norm.ppf((np.arange(100) + 0.5) / 100), 2) * weights
    error = np.sqrt(200 / 199 * (differences**2).sum()) / weights.sum()
    reach = stats.t.ppf(0.975, weights.sum() ** 2 / (weights**2).sum() - 1) * error
    assert PairedDocuments(differences, weights).interval(0.95) == pytest.approx((-reach, reach))


def test_a_longer_tail_of_losses_lowers_the_lower_end_and_leaves_the_upper_one():
    """By Johnson's correction, with twice the skewness that is seen."""
    differences = -stats.expon.ppf((np.arange(200) + 0.5) / 200)
    pair, t = one_each(differences), stats.t.ppf(0.975, 199)
    low, high = pair.interval(0.95)
    reach = t - 2 * stats.skew(differences) * (2 * t**2 + 1) / (6 * math.sqrt(200))
    worst = 2 * unseen_share(0.975, 200) * (differences.mean() - differences.min())
    assert low == pytest.approx(pair.difference - max(reach * pair.standard_error, worst))
    assert high == pytest.approx(pair.difference + t * pair.standard_error)


def test_a_known_loss_of_unseen_documents_must_be_carried_by_their_number():
    differences = np.random.default_rng(0).normal(size=50)
    low, high = one_each(differences).interval(0.95, unseen_loss=30.0)
    assert low == pytest.approx(differences.mean() - unseen_share(0.975, 50) * 30)
    assert high == one_each(differences).interval(0.95)[1]


@pytest.mark.parametrize("spans", [(None,), RIGHT_OR_WRONG])
def test_so_many_documents_as_are_said_to_be_needed_are_enough(spans):
    drawn = np.repeat([-1.0, 0.0, 1.0], [3, 34, 3])
    few = one_each(drawn, spans)
    assert few.interval(0.95)[0] < -0.05
    needed = few.documents_needed(-0.05, 0.95)
    times = needed / 40
    assert one_each(np.tile(drawn, math.ceil(times)), spans).interval(0.95)[0] > -0.05
    assert one_each(np.tile(drawn, math.floor(times / 1.05)), spans).interval(0.95)[0] <= -0.05
    assert few.documents_needed(0.0, 0.95) is None  # the difference is 0: no number shows that it is above


@settings(max_examples=50)
@given(rows=questions, shift=grid, spans=all_spans)
def test_exchanging_the_models_turns_every_sign(rows, shift, spans):
    difference, error, p_value, low, high = statement(pair_of(rows, spans=spans), shift)
    turned = pair_of([(d, w, b, a) for d, w, a, b in rows], spans=spans)
    assert statement(turned, -shift) == pytest.approx([-difference, error, p_value, -high, -low], rel=1e-9, abs=1e-9)


@settings(max_examples=50)
@given(rows=questions, factor=st.floats(1e-3, 1e3), spans=all_spans)
def test_the_scale_of_all_weights_changes_nothing(rows, factor, spans):
    scaled = [(d, w * factor, a, b) for d, w, a, b in rows]
    assert statement(pair_of(scaled, spans=spans)) == pytest.approx(
        statement(pair_of(rows, spans=spans)), rel=1e-9, abs=1e-9
    )


@settings(max_examples=50)
@given(rows=questions, data=st.data(), spans=all_spans)
def test_the_order_and_the_names_of_documents_change_nothing(rows, data, spans):
    shuffled = data.draw(st.permutations([(f"d{97 * d % 11}", w, a, b) for d, w, a, b in rows]))
    assert statement(pair_of(shuffled, spans=spans)) == pytest.approx(
        statement(pair_of(rows, spans=spans)), rel=1e-9, abs=1e-9
    )


@settings(max_examples=50)
@given(rows=questions, constant=grid)
def test_a_constant_added_to_both_models_changes_nothing(rows, constant):
    moved = [(d, w, a + constant, b + constant) for d, w, a, b in rows]
    assert statement(pair_of(moved)) == pytest.approx(statement(pair_of(rows)), rel=1e-9, abs=1e-9)


def test_holm_by_hand():
    # Sorted 0.005 x 4, 0.01 x 3, 0.03 x 2, 0.04 x 1 = 0.02, 0.03, 0.06, 0.04; the last may not be below the third.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


@settings(max_examples=50)
@given(rows=questions, guess=st.floats(8.0, 100.0))
def test_a_range_that_is_a_guess_never_narrows_an_interval(rows, guess):
    low, high = pair_of(rows, spans=(None, guess)).interval(0.95)
    for spans in ((None,), (guess,)):
        other_low, other_high = pair_of(rows, spans=spans).interval(0.95)
        assert low <= other_low
        assert high >= other_high


@settings(max_examples=50)
@given(
    rows=st.lists(question, min_size=30, max_size=60),
    by=st.integers(1, 256).map(lambda number: number / 64),
    spans=st.sampled_from([(None,), (16.0,)]),
)
def test_a_student_that_is_worse_on_every_document_never_has_a_higher_interval(rows, by, spans):
    rows = [(place, *row[1:]) for place, row in enumerate(rows)]
    worse = [(d, w, a - by, b) for d, w, a, b in rows]
    ends, lower_ends = (np.array(pair_of(each, spans=spans).interval(0.99)) for each in (rows, worse))
    assert (lower_ends <= ends + 1e-9).all()


@settings(max_examples=50)
@given(rows=st.lists(question, min_size=30, max_size=60), by=st.integers(1, 256).map(lambda number: number / 64))
def test_a_worst_document_that_is_worse_still_never_raises_the_lower_end(rows, by):
    rows = [(place, *row[1:]) for place, row in enumerate(rows)]
    worst = min(range(len(rows)), key=lambda place: rows[place][2] - rows[place][3])
    worse = [(d, w, a - by * (d == worst), b) for d, w, a, b in rows]
    assert pair_of(worse).interval(0.99)[0] <= pair_of(rows).interval(0.99)[0] + 1e-9


@pytest.mark.parametrize("n", [30, 60, 200])
@pytest.mark.parametrize("confidence", [0.95, 1 - 0.05 / 8, 0.999])
def test_a_right_answer_turned_wrong_never_raises_the_lower_end(n, confidence):
    def low(better, worse):
        differences = [1] * better + [-1] * worse + [0] * (n - better - worse)
        return one_each(differences, RIGHT_OR_WRONG).interval(confidence)[0]

    for better, worse in itertools.product(range(0, 13, 2), repeat=2):
        lower = [low(better, worse + 1)] + [low(better - 1, worse), low(better - 1, worse + 1)] * (better > 0)
        assert max(lower) <= low(better, worse) + 1e-12


# What docs/operations.md says of it: false blessings per hundred. 1,000 rounds: two standard errors of 2.5 are 1.0.
@pytest.mark.parametrize("differences", ["normal", "exponential losses", "lognormal losses"])
@pytest.mark.parametrize("weights", ["", ", uneven"])
@pytest.mark.parametrize("documents", [50, pytest.param(200, marks=pytest.mark.slow)])
def test_a_student_worse_by_the_margin_is_blessed_in_at_most_one_and_a_half_times_the_nominal_share(
    differences, weights, documents
):
    blessed, covered, _ = measure(differences + weights, documents, 0.95, rounds=1000)
    assert blessed <= 1.5 * 0.025 + 0.012
    assert covered > 0.925


@pytest.mark.parametrize("documents", [20, 50, 200])
@pytest.mark.parametrize("differences", ["0/1: 2.5 documents worse", "0/1: 5.2 documents worse"])
def test_right_or_wrong_is_no_exception_where_no_document_is_better(differences, documents):
    blessed, covered, _ = measure(differences, documents, 0.95, rounds=500)
    assert blessed <= 1.5 * 0.025 + 0.017
    assert covered > 0.925


def test_a_rare_catastrophe_is_missed_unless_the_policy_says_how_large_it_may_be():
    """No figure can know of documents that are not there: of 50, none is of a kind of 3 % in one night of five."""
    blessed, *_ = measure("3 % much worse", 50, 0.95, rounds=500)
    assert blessed == pytest.approx(0.97**50, abs=0.05)
    assert measure("3 % much worse, unseen_loss says so", 50, 0.95, rounds=500)[0] == 0
    assert measure("3 % much worse", 200, 0.95, rounds=500)[0] < 0.0125


def test_the_certainty_costs_a_normal_task_little():
    for documents, factor in ((50, 1.2), (200, 1.02)):
        *_, width = measure("normal", documents, 0.95, rounds=300)
        assert width < factor * 2 * stats.t.ppf(0.975, documents - 1) / math.sqrt(documents)


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
