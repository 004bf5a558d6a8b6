"""Policies: every student is judged on its own, against its own settings and its own baseline."""

import json

import numpy as np
import pytest
from gate_support import BITS, TOKEN, Evaluation, check_of, failed

from components.gate.policy import MIN_DOCUMENTS, effective_policy
from matta_core.errors import UserError
from matta_core.recipe import GateConfig

ALL = ["s", "m", "l"]


def test_a_students_own_setting_takes_the_whole_place_of_the_general_one():
    config = GateConfig.from_dict(
        {
            "policy": {"minimum": {TOKEN: 0.4}, "maximum": {BITS: 2.0}, "max_bytes": 100, "min_documents": 12},
            "per_student": {"s": {"maximum": {BITS: 2.5}, "small_slices": "skip"}, "m": {"minimum": {}}},
        },
        "gate",
    )
    s, m, other = (effective_policy(config, name) for name in ("s", "m", "l"))
    assert (s.minimum, s.maximum, s.max_bytes, s.min_documents) == ({TOKEN: 0.4}, {BITS: 2.5}, 100, 12)
    assert (s.small_slices, m.small_slices) == ("skip", "refuse")
    assert m.minimum == {}
    assert other.maximum == {BITS: 2.0}
    assert effective_policy(GateConfig(), "s").min_documents == MIN_DOCUMENTS == 30


def test_each_student_is_blessed_on_its_own(evaluation):
    decision = evaluation.decide(
        policy={"maximum": {BITS: 2.3}}, per_student={"s": {"maximum": {BITS: 2.5}}, "m": {"max_parameters": 1}}
    )
    assert decision["blessed"] == ["s", "l"]
    assert failed(decision, "m") == [("max_parameters", None)]
    assert decision["policies"]["m"]["maximum"] == {BITS: 2.3}
    assert decision["policies"]["m"]["max_parameters"] == 1


def test_bounds_are_kept_where_the_figure_equals_them(evaluation):
    figures = evaluation.results["models"]["s"]["tasks"]
    bits, accuracy = figures[BITS]["value"], figures[TOKEN]["value"]
    per_student = {"s": {"maximum": {BITS: bits}, "minimum": {TOKEN: accuracy}, "max_parameters": 1000}}
    decision = evaluation.decide(per_student=per_student, policy={"maximum": {BITS: 9}})
    assert failed(decision, "s") == []


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (
            {"minimum": {BITS: 2.0}},
            r"gate.policy.minimum has matta_bits_per_byte: 2, .*lower is better: move it to max",
        ),
        (
            {"maximum": {TOKEN: 0.9}},
            r"gate.policy.maximum has matta_last_token: 0.9, .*higher is better: move it to min",
        ),
    ],
)
def test_a_bound_on_the_wrong_side_is_a_mistake(evaluation, policy, message):
    with pytest.raises(UserError, match=message):
        evaluation.decide(policy=policy)


def test_a_students_own_bound_on_the_wrong_side_names_the_student(evaluation):
    with pytest.raises(UserError, match=r"gate.per_student.m.minimum has matta_bits_per_byte"):
        evaluation.decide(per_student={"m": {"minimum": {BITS: 1.0}}})


@pytest.mark.parametrize("setting", ["minimum", "maximum", "non_inferior", "improve", "slices", "unseen_loss"])
def test_a_task_that_was_not_evaluated_is_a_no_with_the_remedy(evaluation, setting):
    decision = evaluation.decide(per_student={"m": {setting: {"lambada_openai": 0.1}}})
    assert decision["blessed"] == ["s", "l"]
    assert failed(decision, "m") == [(setting, "lambada_openai")]
    why = check_of(decision, "m", setting)["why"]
    assert "lambada_openai was not evaluated: add it to evaluate.tasks, or take it out of the policy" in why


@pytest.mark.parametrize(
    ("setting", "kept", "broken"),
    [
        ("max_parameters", 2000, 1999),
        ("max_bytes", 8000, 7999),
        ("max_flops_per_token", 4000, 3999),
        ("max_prefill_seconds", 0.01, 0.0099),
        ("max_decode_seconds", 0.002, 0.0019),
        ("max_memory_bytes", 1_000_000, 999_999),
    ],
)
def test_ceilings_are_kept_where_the_cost_equals_them(tmp_path, setting, kept, broken):
    for ceiling, blessed in ((kept, True), (broken, False)):
        (tmp_path / str(blessed)).mkdir()
        decision = Evaluation(tmp_path / str(blessed)).decide(per_student={"m": {setting: ceiling}})
        assert decision["students"]["m"]["blessed"] is blessed
        assert check_of(decision, "m", setting)["threshold"] == ceiling


def test_a_cost_that_was_not_measured_is_a_no(evaluation):
    evaluation.results["models"]["m"]["peak_memory_bytes"] = None
    del evaluation.results["models"]["l"]["prefill"]["1"]
    decision = evaluation.decide(policy={"max_memory_bytes": 10**9, "max_prefill_seconds": 1.0})
    assert decision["blessed"] == ["s"]
    assert "bytes of memory at the peak: not measured, got None" in check_of(decision, "m", "max_memory_bytes")["why"]
    assert failed(decision, "l") == [("max_prefill_seconds", None)]


@pytest.mark.parametrize("equal", [False, None, "true", 1])
def test_only_a_certificate_that_is_true_passes(evaluation, equal):
    evaluation.family["students"]["m"]["certificate"]["bitwise_equal"] = equal
    decision = evaluation.decide()
    assert decision["blessed"] == ["s", "l"]
    assert failed(decision, "m") == [("certificate", None)]


@pytest.mark.parametrize(("padded", "blessed"), [(True, ["s", "m", "l"]), (False, ["s", "l"]), ("true", ["s", "l"])])
def test_a_padded_student_passes_by_its_weights_where_its_logits_have_other_bits(evaluation, padded, blessed):
    evaluation.family["students"]["m"]["certificate"] = {"bitwise_equal": False, "padded_equal": padded}
    decision = evaluation.decide()
    assert decision["blessed"] == blessed
    assert ("with zeros beyond its widths" in check_of(decision, "m", "certificate")["why"]) == (padded is True)


# l is 0.2 better than m, and m than s.
@pytest.mark.parametrize(
    ("mix", "worse", "held"),
    [((), "l", ["l"]), (("m",), "l", []), (("m",), "m", ["m"])],
)
def test_a_size_is_not_held_for_being_worse_than_a_mix_but_a_mix_is_for_being_worse_than_a_size(
    evaluation, mix, worse, held
):
    for name in mix:
        evaluation.family["students"][name]["mix"] = {}
    evaluation.shift(worse, BITS, 0.25)
    decision = evaluation.decide(policy={"non_inferior": {}})
    assert [name for name in decision["students"] if failed(decision, name) == [("monotone", BITS)]] == held
    assert decision["blessed"] == [name for name in ("s", "m", "l") if name not in held]


def test_a_padded_student_has_the_place_of_what_it_learnt_with(evaluation):
    evaluation.family["students"]["m"] |= {"parameters": 9000, "compact": {"parameters": 2000}}
    assert list(evaluation.decide()["students"]) == ["s", "m", "l"]


def test_a_larger_student_worse_than_the_next_smaller_is_charged_and_the_smaller_is_not(evaluation):
    evaluation.shift("m", BITS, 0.5)
    decision = evaluation.decide(policy={"non_inferior": {}})
    assert failed(decision, "m") == [("monotone", BITS)]
    assert decision["blessed"] == ["s", "l"]
    assert "worse than s, the next smaller" in check_of(decision, "m", "monotone")["why"]


def test_the_monotone_tolerance_counts_standard_errors_of_the_paired_difference(tmp_path):
    """The documents differ by 0.3 in hardness, which both models share: unpaired, 0.03 worse would be far within."""
    blessed = {}
    for tolerance in (1.9, 2.1, None):
        (tmp_path / str(tolerance)).mkdir()
        evaluation = Evaluation(tmp_path / str(tolerance))
        places = evaluation.places(BITS)
        weights = np.array([evaluation.questions[place]["weight"] for place in places])
        s = np.array(evaluation.values["s"])[places]
        noise = np.random.default_rng(0).normal(0, 0.05, len(places))
        noise -= (weights * noise).sum() / weights.sum()
        error = np.sqrt(len(places) / (len(places) - 1) * ((weights * noise) ** 2).sum()) / weights.sum()
        for place, value in zip(places, s + noise + 2.0 * error, strict=True):
            evaluation.values["m"][place] = value
        evaluation.refigure("m")
        decision = evaluation.decide(monotone_tolerance=tolerance)
        blessed[tolerance] = decision["students"]["m"]["blessed"]
    assert blessed == {1.9: False, 2.1: True, None: True}


def test_a_smaller_student_without_figures_is_passed_over_by_name(evaluation):
    del evaluation.results["models"]["m"]
    decision = evaluation.decide()
    assert decision["blessed"] == ["s", "l"]
    assert "than s, the next smaller with a usable figure (not m)" in check_of(decision, "l", "monotone")["why"]


def test_a_smallest_student_without_figures_charges_itself_alone(evaluation):
    del evaluation.results["models"]["s"]
    decision = evaluation.decide()
    assert decision["blessed"] == ["m", "l"]
    assert "no smaller student has a usable figure" in check_of(decision, "m", "monotone")["why"]


def test_a_monotone_task_that_was_not_evaluated_is_a_no_where_it_is_needed(evaluation):
    decision = evaluation.decide(monotone_task="lambada_openai")
    assert decision["blessed"] == ["s"]  # nothing is smaller than s
    assert "gate.monotone_task" in check_of(decision, "m", "monotone")["why"]


def test_sizes_are_ordered_by_parameters_whatever_their_names(evaluation):
    evaluation.family["students"]["s"]["parameters"] = 9000
    evaluation.shift("s", BITS, -1.0)
    assert evaluation.decide()["blessed"] == ["m", "l", "s"]


def test_a_policy_that_asks_nothing_is_told_loudly(evaluation):
    decision = evaluation.decide(per_student={"m": {"maximum": {BITS: 9.0}}})
    assert [warning.split(" is asked of ")[1][:1] for warning in decision["warnings"]] == ["s", "l"]
    assert decision["warnings"][0].startswith("nothing but measured, baseline, not_worse, certificate is asked of s")
    assert "gate.policy sets no minimum, maximum, non_inferior, improve or slices" in decision["warnings"][0]


def test_a_students_own_problem_is_told_by_its_checks_alone(evaluation):
    del evaluation.results["models"]["m"]
    decision = evaluation.decide(policy={"maximum": {BITS: 9.0}})
    assert decision["warnings"] == []
    assert decision["students"]["m"]["comparisons"] == []


def test_a_decision_holds_what_it_was_made_with_and_is_strict_json(evaluation):
    decision = evaluation.decide(policy={"maximum": {BITS: 2.3}}, confidence=0.9)
    assert decision["config"]["policy"]["maximum"] == {BITS: 2.3}
    assert (decision["confidence"], decision["evaluation_set"]) == (0.9, evaluation.results["evaluation_set"])
    assert json.loads(json.dumps(decision, allow_nan=False)) == decision


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ({"non_inferior": {BITS: -0.1}}, r"gate.policy.non_inferior.matta_bits_per_byte must be >= 0, got -0.1"),
        ({"unseen_loss": {BITS: -0.1}}, r"gate.policy.unseen_loss.matta_bits_per_byte must be >= 0, got -0.1"),
        ({"slices": {BITS: -0.1}}, r"gate.policy.slices.matta_bits_per_byte must be >= 0"),
        ({"maximum": {BITS: float("nan")}}, r"gate.policy.maximum.matta_bits_per_byte must be finite, got nan"),
        ({"small_slices": "ignore"}, r"gate.policy.small_slices must be one of refuse, skip, got 'ignore'"),
    ],
)
def test_a_policy_checks_itself(policy, message):
    with pytest.raises(UserError, match=message):
        GateConfig.from_dict({"policy": policy}, "gate")


def test_the_evaluation_set_that_the_recipe_names_passes(evaluation):
    wanted = evaluation.results["evaluation_set"]
    assert evaluation.decide(evaluation_set=wanted[:12])["blessed"] == ["s", "m", "l"]


def test_another_evaluation_set_than_the_recipe_names_is_a_no(evaluation):
    decision = evaluation.decide(evaluation_set="0123456789ab")
    assert decision["blessed"] == []
    assert "gate.evaluation_set asks for 0123456789ab" in check_of(decision, "s", "evaluation_set")["why"]


@pytest.mark.parametrize(("task", "higher"), [(BITS, True), (TOKEN, False)])
def test_a_task_that_is_said_to_get_better_the_other_way_is_not_believed(evaluation, task, higher):
    evaluation.results["tasks"][task]["higher_is_better"] = higher
    decision = evaluation.decide()
    assert decision["blessed"] == []
    assert f"higher_is_better: {higher}" in check_of(decision, "s", "measured", task)["why"]
