import math
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.evaluate.figures import BITS_PER_BYTE, LAST_TOKEN, ratio_estimate, summarise


def line(document, correct, log_likelihood=-1.0):
    return {
        "task": LAST_TOKEN,
        "document": document,
        "log_likelihood": log_likelihood,
        "correct": correct,
        "bytes": 4,
    }


def document(name, log_likelihood, num_bytes):
    return {
        "task": BITS_PER_BYTE,
        "document": name,
        "log_likelihood": log_likelihood,
        "correct": None,
        "bytes": num_bytes,
    }


LINES = [line("a", True), line("a", False), line("b", True)]
DOCUMENTS = [document("a", -2 * math.log(2), 1), document("b", -9 * math.log(2), 3)]


def test_bits_per_byte_of_two_documents_by_hand():
    # Bits 2 and 9 on 1 and 3 bytes: 11/4. Residuals -0.75 and 0.75: sqrt(2/1 * 2 * 0.75^2) / 4 = 0.375.
    assert summarise(LINES + DOCUMENTS)["bits_per_byte"] == {
        "value": pytest.approx(2.75),
        "standard_error": pytest.approx(0.375),
        "documents": 2,
    }


@given(st.lists(st.floats(-100, 100), min_size=2))
def test_with_equal_documents_it_is_the_mean_and_its_usual_standard_error(values):
    mean, error = ratio_estimate(values, [1] * len(values))
    assert mean == pytest.approx(statistics.fmean(values), abs=1e-9)
    assert error == pytest.approx(statistics.stdev(values) / math.sqrt(len(values)), abs=1e-9)


def test_with_one_line_per_document_the_accuracy_has_lm_evals_standard_error():
    from lm_eval.api.metrics import mean_stderr

    correct = [index % 3 == 0 for index in range(20)]
    accuracy = summarise([line(str(index), value) for index, value in enumerate(correct)] + DOCUMENTS)["accuracy"]
    assert accuracy["standard_error"] == pytest.approx(mean_stderr(correct))


def test_more_lines_of_the_same_documents_do_not_feign_certainty():
    once = [line(str(index), index % 2 == 0) for index in range(10)]
    many = summarise(once * 7 + DOCUMENTS)["accuracy"]
    assert many["standard_error"] == pytest.approx(summarise(once + DOCUMENTS)["accuracy"]["standard_error"])
    assert (many["documents"], many["lines"]) == (10, 70)


def test_the_standard_error_is_the_spread_over_redrawn_documents():
    rng = random.Random(0)

    def draw():
        sizes = [rng.randint(100, 1000) for _ in range(40)]
        return ratio_estimate([size * rng.gauss(2.0, 0.3) for size in sizes], sizes)

    estimates = [draw() for _ in range(2000)]
    spread = statistics.stdev(value for value, _ in estimates)
    # The spread of 2,000 draws is itself known to within 1/sqrt(2 * 2000) = 1.6 %; 40 documents bias it by about 1 %.
    assert statistics.fmean(error for _, error in estimates) == pytest.approx(spread, rel=0.06)


def test_a_log_likelihood_that_is_not_finite_leaves_no_figure():
    figures = summarise([*LINES, line("c", False, None), *DOCUMENTS, document("c", None, 5)])
    for name in ("bits_per_byte", "last_token_cross_entropy"):
        assert figures[name]["value"] is None
        assert figures[name]["standard_error"] is None
    assert figures["accuracy"]["value"] == 0.5
