"""Against what is served: non-inferiority, improvement, slices, and where nothing is served."""

import numpy as np
import pytest
from gate_support import BITS, TOKEN, Evaluation, check_of, comparison_of, failed

ALL = ["s", "m", "l"]


def test_non_inferiority_holds_the_lower_end_of_the_interval_against_the_margin(evaluation):
    evaluation.shift("m", BITS, 0.22)  # about 0.02 worse than what is served
    low, high = comparison_of(evaluation.decide(), "m", BITS)["interval"]
    assert low < -0.02 < high < 0


@pytest.mark.parametrize(("beyond", "blessed"), [(1.001, True), (0.999, False)])
def test_a_margin_just_beyond_the_interval_blesses_and_just_within_refuses(tmp_path, beyond, blessed):
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    first, second = Evaluation(tmp_path / "first"), Evaluation(tmp_path / "second")
    for evaluation in (first, second):
        evaluation.shift("m", BITS, 0.22)
    low = comparison_of(first.decide(), "m", BITS)["interval"][0]
    decision = second.decide(per_student={"m": {"non_inferior": {BITS: -low * beyond}}}, monotone_tolerance=None)
    assert decision["students"]["m"]["blessed"] is blessed
    assert check_of(decision, "m", "non_inferior")["value"] == low


def test_improve_asks_for_more_than_noise_beyond_the_amount(evaluation):
    per_student = {"s": {"improve": {BITS: 0.15}}, "m": {"improve": {BITS: 0.2}}, "l": {"improve": {TOKEN: 0}}}
    decision = evaluation.decide(per_student=per_student)
    assert decision["blessed"] == ["s"]
    assert "better by more than 0.15" in check_of(decision, "s", "improve")["why"]
    assert "not shown to be better by more than 0.2" in check_of(decision, "m", "improve")["why"]
    assert "not shown to be better at all" in check_of(decision, "l", "improve")["why"]


def test_better_but_surely_by_less_than_the_amount_is_a_no(evaluation):
    decision = evaluation.decide(per_student={"m": {"improve": {BITS: 0.4}}})
    assert comparison_of(decision, "m", BITS)["verdict"] == "better"  # by 0.2
    assert failed(decision, "m") == [("improve", BITS)]


def test_a_difference_that_is_noise_is_called_noise(evaluation):
    evaluation.shift("m", BITS, 0.4)
    evaluation.values["l"] = list(evaluation.values["baseline-l"])  # identical
    evaluation.refigure("l")
    decision = evaluation.decide(monotone_tolerance=None)
    assert comparison_of(decision, "s", BITS)["verdict"] == "better"
    assert comparison_of(decision, "m", BITS)["verdict"] == "worse"
    for student in ALL:
        assert comparison_of(decision, student, TOKEN)["verdict"] == "noise"
    same = comparison_of(decision, "l", BITS)
    assert (same["verdict"], same["difference"], same["p_value"]) == ("noise", 0.0, 1.0)


def test_what_the_test_finds_but_the_interval_does_not_is_noise(evaluation):
    """Skewed differences whose long tail was hardly seen: a little better nearly everywhere, much worse in one."""
    generator = np.random.default_rng(36)
    for place in evaluation.places(BITS):
        evaluation.values["m"][place] = evaluation.values["baseline-m"][place] + generator.lognormal(-2.0, 1.0) - 0.25
    evaluation.refigure("m")
    found = comparison_of(evaluation.decide(), "m", BITS)
    assert found["p_adjusted"] <= 0.05
    assert found["interval"][0] < 0 < found["difference"]
    assert found["verdict"] == "noise"


def test_what_is_corrected_for_is_every_comparison_of_the_decision(evaluation):
    policy = {"improve": {BITS: 0.1}, "slices": {TOKEN: 0.9}, "min_documents": 6, "small_slices": "skip"}
    decision = evaluation.decide(per_student={"s": policy})
    # Three students on two tasks; s: an amount, and four slices (source=few has five documents).
    assert decision["hypotheses"] == 6 + 1 + 4
    compared = comparison_of(decision, "s", BITS)
    assert compared["p_adjusted"] >= compared["p_value"]
    assert comparison_of(decision, "s", TOKEN, "length=long")["documents"] == 13


def test_more_comparisons_widen_every_interval(tmp_path):
    widths = []
    for number, policy in enumerate([{}, {"slices": {BITS: 1.0}, "min_documents": 5}]):
        (tmp_path / str(number)).mkdir()
        low, high = comparison_of(Evaluation(tmp_path / str(number)).decide(policy=policy), "s", BITS)["interval"]
        widths.append(high - low)
    assert widths[1] > widths[0]


def test_a_loss_in_one_slice_alone_is_found(evaluation):
    for place in evaluation.places(BITS):
        if evaluation.questions[place]["slices"]["length"] == "long":
            evaluation.values["m"][place] += 0.4
        else:
            evaluation.values["m"][place] -= 0.4
    evaluation.refigure("m")
    asked = {"non_inferior": {BITS: 0.1}, "slices": {BITS: 0.1}, "min_documents": 10, "small_slices": "skip"}
    decision = evaluation.decide(policy=asked, monotone_tolerance=None)
    assert decision["blessed"] == ["s", "l"]
    (found,) = [check for check in decision["students"]["m"]["checks"] if not check["passed"]]
    assert (found["check"], found["slice"]) == ("slices", "length=long")


@pytest.mark.parametrize(("small_slices", "blessed"), [("refuse", []), ("skip", ALL)])
def test_a_slice_with_too_few_documents_is_refused_or_skipped_by_name(evaluation, small_slices, blessed):
    policy = {"slices": {BITS: 0.1}, "min_documents": 10, "small_slices": small_slices}
    decision = evaluation.decide(policy=policy)
    assert decision["blessed"] == blessed
    check = check_of(decision, "s", "slices", BITS, "source=few")
    assert check["passed"] is (small_slices == "skip")
    assert "source=few: 5 documents, fewer than min_documents = 10" in check["why"]


def test_slices_that_are_all_too_small_are_told(evaluation):
    decision = evaluation.decide(policy={"slices": {BITS: 0.1}, "min_documents": 40, "small_slices": "skip"})
    assert decision["blessed"] == ALL
    assert f"no slice of {BITS} has min_documents = 40: none is looked at for s" in decision["warnings"]


def test_a_task_without_slices_cannot_be_asked_for_them(evaluation):
    for question in evaluation.questions:
        question["slices"] = {}
    decision = evaluation.decide(per_student={"s": {"slices": {BITS: 0.1}}})
    assert decision["blessed"] == ["m", "l"]
    assert "has no slices" in check_of(decision, "s", "slices")["why"]


def test_without_a_baseline_a_student_is_refused_and_told_how_to_begin(evaluation):
    evaluation.without_baselines("m")
    decision = evaluation.decide(policy={"maximum": {BITS: 9.0}})
    assert decision["blessed"] == ["s", "l"]
    assert failed(decision, "m") == [("baseline", None)]
    why = check_of(decision, "m", "baseline")["why"]
    assert "nothing of the size m was served under pushed before it" in why
    assert "For a first push set it to bless_on_thresholds" in why
    assert decision["students"]["m"]["comparisons"] == []


def test_without_a_baseline_thresholds_alone_can_decide_and_what_is_left_out_is_said(evaluation):
    evaluation.without_baselines()
    decision = evaluation.decide(
        without_baseline="bless_on_thresholds",
        policy={"maximum": {BITS: 2.3}, "non_inferior": {TOKEN: 0.0}, "improve": {BITS: 1.0}},
    )
    assert decision["blessed"] == ["m", "l"]
    assert failed(decision, "s") == [("maximum", BITS)]
    assert decision["hypotheses"] == 0
    assert check_of(decision, "m", "baseline")["why"].endswith("; left out: non_inferior, improve")


def test_a_policy_of_comparisons_alone_asks_nothing_where_nothing_is_served(evaluation):
    evaluation.without_baselines("s")
    decision = evaluation.decide(without_baseline="bless_on_thresholds", policy={"non_inferior": {BITS: 0.1}})
    assert decision["blessed"] == ALL
    _, warning = decision["warnings"]
    assert "asked of s" in warning
    assert "left out without a baseline" in warning


def test_that_the_setting_for_a_first_push_is_left_on_is_said_while_anything_is_served(evaluation):
    """Were the pointer of s lost, or the size new, it would be blessed by thresholds alone, night after night."""
    evaluation.without_baselines("s")
    decision = evaluation.decide(without_baseline="bless_on_thresholds", policy={"maximum": {BITS: 9.0}})
    assert decision["left_on"] is True
    (warning,) = decision["warnings"]
    assert warning.startswith(
        "gate.without_baseline is left on bless_on_thresholds, though something is served under m, l: "
    )


@pytest.mark.parametrize(("without_baseline", "served"), [("refuse", True), ("bless_on_thresholds", False)])
def test_nothing_is_left_on_at_the_first_push_nor_where_the_setting_is_out(evaluation, without_baseline, served):
    if not served:
        evaluation.without_baselines()
    decision = evaluation.decide(without_baseline=without_baseline, policy={"maximum": {BITS: 9.0}})
    assert decision["left_on"] is False
    assert decision["warnings"] == []


def test_a_version_that_a_rollback_made_current_counts_as_served(evaluation):
    evaluation.without_baselines()
    evaluation.results["baselines"]["m"] = "m"
    evaluation.results["models"]["m"]["version"] = "0123456789abcdef"
    decision = evaluation.decide(without_baseline="bless_on_thresholds", policy={"maximum": {BITS: 9.0}})
    assert decision["left_on"] is True


def renamed(evaluation, values, candidate=None):
    """The last-token task as a metric whose name says nothing of its range, with the same values for all models."""
    evaluation.results["tasks"][TOKEN] |= {"metric": "strict", "unit": "strict"}
    for name in evaluation.values:
        for place, value in zip(evaluation.places(TOKEN), values, strict=True):
            evaluation.values[name][place] = value
    for place, value in (candidate or {}).items():
        evaluation.values["m"][evaluation.places(TOKEN)[place]] = value
    evaluation.refigure()


def test_a_metric_of_zeros_and_ones_is_told_from_its_values_whatever_its_name(evaluation):
    """40 documents, none discordant: up to 14 % of all may be, with 6 comparisons in the decision."""
    renamed(evaluation, [float(n % 3 > 0) for n in range(120)])
    by_values = comparison_of(evaluation.decide(), "m", TOKEN)["interval"]
    assert by_values[0] == -by_values[1] == pytest.approx((0.05 / 6 / 2) ** (1 / 40) - 1)


def test_a_metric_between_zero_and_one_has_an_interval_where_no_document_differs(evaluation):
    """An F1: a whole answer may be lost where none was, or more than the two that were seen suggest."""
    renamed(evaluation, [(n % 7) / 6 for n in range(120)])
    low, high = comparison_of(evaluation.decide(), "m", TOKEN)["interval"]
    assert low == -high == pytest.approx((0.05 / 6 / 2) ** (1 / 40) - 1)


def test_percentages_are_known_by_how_far_they_are_apart(evaluation):
    renamed(evaluation, [100.0 * (n % 3 > 0) for n in range(120)])
    low, high = comparison_of(evaluation.decide(), "m", TOKEN)["interval"]
    assert low == -high == pytest.approx(100 * ((0.05 / 6 / 2) ** (1 / 40) - 1))


@pytest.mark.parametrize("value", [0.0, 1.0, 37.5])
def test_a_metric_that_is_the_same_in_every_answer_tells_nothing_and_blesses_nothing(evaluation, value):
    renamed(evaluation, [value] * 120)
    decision = evaluation.decide(policy={"non_inferior": {TOKEN: 0.9}})
    assert decision["blessed"] == []
    why = check_of(decision, "m", "non_inferior")["why"]
    assert f"matta_last_token: both have {value:g} in every answer, which does not tell how far two answers" in why


def test_an_accuracy_of_zero_everywhere_has_its_known_range(evaluation):
    for name in evaluation.values:
        for place in evaluation.places(TOKEN):
            evaluation.values[name][place] = 0.0
    evaluation.refigure()
    assert evaluation.decide(policy={"non_inferior": {TOKEN: 0.15}})["blessed"] == ALL
    (evaluation.folder / "again").mkdir()
    evaluation.folder = evaluation.folder / "again"
    decision = evaluation.decide(policy={"non_inferior": {TOKEN: 0.1}})
    assert decision["blessed"] == []
    assert check_of(decision, "m", "non_inferior")["why"].endswith(
        "no difference (-0.128 to +0.128, positive is better), beyond the margin 0.1, which 40 documents cannot tell: "
        "about 53 like these would"
    )


def test_a_margin_that_the_documents_cannot_carry_is_refused_with_how_many_would(evaluation):
    evaluation.shift("m", BITS, 0.2)  # about as good as what is served
    decision = evaluation.decide(policy={"non_inferior": {BITS: 0.004}}, monotone_tolerance=None)
    assert decision["blessed"] == ["s", "l"]
    why = check_of(decision, "m", "non_inferior")["why"]
    assert "beyond the margin 0.004, which 40 documents cannot tell: about" in why


def test_an_improvement_that_the_documents_cannot_show_is_refused_with_how_many_would(evaluation):
    decision = evaluation.decide(per_student={"m": {"improve": {BITS: 0.195}}})
    assert "which 40 documents cannot tell: about" in check_of(decision, "m", "improve")["why"]
    assert failed(decision, "m") == [("improve", BITS)]


def test_a_loss_beyond_the_margin_is_not_put_on_the_number_of_documents(evaluation):
    evaluation.shift("m", BITS, 0.5)
    decision = evaluation.decide(policy={"non_inferior": {BITS: 0.1}}, monotone_tolerance=None)
    assert check_of(decision, "m", "non_inferior")["why"].endswith("beyond the margin 0.1")


def test_a_loss_that_unseen_documents_may_have_must_fit_the_margin(evaluation):
    asked = {"non_inferior": {BITS: 0.1}, "unseen_loss": {BITS: 3.0}}
    decision = evaluation.decide(per_student={"s": asked, "m": {"non_inferior": {BITS: 0.1}}})
    assert decision["blessed"] == ["m", "l"]
    low, high = comparison_of(decision, "s", BITS)["interval"]
    assert low == pytest.approx(comparison_of(decision, "s", BITS)["difference"] - (1 - (0.05 / 12) ** (1 / 40)) * 3.0)
    assert high < 0.25
    assert (
        ", which 40 documents cannot tell: about 53 like these would" in check_of(decision, "s", "non_inferior")["why"]
    )


def test_a_baseline_that_cannot_be_compared_with_is_told_where_no_policy_asks_for_it(evaluation):
    evaluation.values["baseline-m"][0] = None
    decision = evaluation.decide(policy={"maximum": {BITS: 9.0}})
    assert decision["blessed"] == ALL
    (warning,) = decision["warnings"]
    assert warning.startswith("m is not compared with baseline-m: baseline-m, matta_bits_per_byte: question 0")
    assert [one["task"] for one in decision["students"]["m"]["comparisons"]] == [TOKEN]


def test_without_a_word_of_it_no_student_may_be_shown_to_be_worse(evaluation):
    evaluation.shift("m", BITS, 0.5)
    decision = evaluation.decide(monotone_tolerance=None)
    assert decision["blessed"] == ["s", "l"]
    assert failed(decision, "m") == [("not_worse", BITS)]
    assert (
        "shown to be worse. A margin in gate.policy.non_inferior" in check_of(decision, "m", "not_worse", BITS)["why"]
    )
    assert "not shown to be worse" in check_of(decision, "m", "not_worse", TOKEN)["why"]


def test_a_loss_is_allowed_where_the_policy_says_that_nothing_is_asked(evaluation):
    evaluation.shift("m", BITS, 0.5)
    decision = evaluation.decide(monotone_tolerance=None, per_student={"m": {"non_inferior": {}}})
    assert decision["blessed"] == ALL


def test_a_student_that_a_rollback_made_current_is_told_so_and_compared_with_nothing(evaluation):
    evaluation.without_baselines("m")
    evaluation.results["baselines"]["m"] = "m"
    evaluation.results["models"]["m"]["version"] = "0123456789abcdef"
    decision = evaluation.decide(policy={"non_inferior": {BITS: 0.1}})
    assert decision["blessed"] == ALL
    assert (decision["students"]["m"]["baseline"], decision["students"]["m"]["comparisons"]) == (None, [])
    assert "m is what is served, version 0123456789abcdef, by a rollback" in check_of(decision, "m", "baseline")["why"]


@pytest.mark.parametrize(
    ("baseline", "changes"),
    [
        ("s", {}),  # compared with itself, though no version of it is served
        ("baseline-m", {}),  # another size's
        ("teacher", {}),
        ("baseline-s", {"version": None}),
        ("baseline-s", {"role": "student"}),
        ("baseline-s", {"size": "l"}),
    ],
)
def test_a_baseline_that_is_no_pushed_version_of_the_size_is_a_no_for_that_student_alone(evaluation, baseline, changes):
    evaluation.results["baselines"]["s"] = baseline
    evaluation.results["models"][baseline] |= changes
    decision = evaluation.decide()
    assert decision["blessed"] == ["m", "l"]
    assert ("baseline", None) in failed(decision, "s")
    assert "is no pushed version of s" in check_of(decision, "s", "baseline")["why"]
