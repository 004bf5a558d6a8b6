"""The gate: every student is judged on its own, and whatever cannot be checked is a "no"."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.gate.checks import decide, thresholds_of
from components.gate.step import gate
from matta_core.artifacts import finish_artifact, open_artifact
from matta_core.config import GateConfig
from matta_core.errors import UserError

PARAMETERS = {"s": 1000, "m": 2000, "xl": 4000}


def family_of(parameters=PARAMETERS, bitwise_equal=True):
    students = {
        name: {"path": name, "parameters": count, "certificate": {"bitwise_equal": bitwise_equal}}
        for name, count in parameters.items()
    }
    return {"student": "s", "ta": "xl", "students": students}


def model(bits_per_byte, accuracy=0.5, error=0.1):
    return {
        "bits_per_byte": {"value": bits_per_byte, "standard_error": error, "documents": 32},
        "accuracy": {"value": accuracy, "standard_error": 0.03, "documents": 200},
    }


def results_of(**models):
    return {"evaluation_set": "e" * 64, "models": models}


def good_results():
    return results_of(s=model(2.4), m=model(2.2), xl=model(2.0), teacher=model(1.9))


def config_of(**values):
    return GateConfig.from_dict(values, "gate")


def failed(decision, name):
    return [check["check"] for check in decision["students"][name]["checks"] if not check["passed"]]


def artifacts(folder, results=None, family=None):
    """A StudentFamily and its EvaluationReport on disk; their paths."""
    students, evaluation = folder / "students", folder / "evaluation"
    for path in (students, evaluation):
        path.mkdir(parents=True)
    (students / "family.json").write_text(json.dumps(family or family_of()))
    (evaluation / "results.json").write_text(json.dumps(results or good_results()))
    made = finish_artifact(students, "StudentFamily", key="f")
    finish_artifact(evaluation, "EvaluationReport", key="e", inputs={"students": made.digest})
    return evaluation, students


def test_a_family_that_passes_every_check_is_blessed_in_ascending_order():
    decision = decide(config_of(), family_of(), good_results())
    assert decision["blessed"] == ["s", "m", "xl"]
    assert decision["evaluation_set"] == "e" * 64


def test_each_student_is_blessed_on_its_own():
    decision = decide(
        config_of(thresholds={"max_bits_per_byte": 2.3, "max_parameters": 3000}), family_of(), good_results()
    )
    assert decision["blessed"] == ["m"]
    assert failed(decision, "s") == ["max_bits_per_byte"]
    assert failed(decision, "xl") == ["max_parameters"]


def test_a_bound_is_kept_where_the_value_equals_it():
    bounds = {"max_bits_per_byte": 2.4, "min_accuracy": 0.5, "max_parameters": 4000}
    assert decide(config_of(thresholds=bounds), family_of(), good_results())["blessed"] == ["s", "m", "xl"]


def test_a_students_own_bound_takes_the_place_of_the_general_one():
    config = config_of(
        thresholds={"max_bits_per_byte": 2.1, "min_accuracy": 0.4},
        per_student={"s": {"max_bits_per_byte": 2.5}},
    )
    assert thresholds_of(config, "s").max_bits_per_byte == 2.5
    assert thresholds_of(config, "s").min_accuracy == 0.4
    assert thresholds_of(config, "m").max_bits_per_byte == 2.1
    assert decide(config, family_of(), good_results())["blessed"] == ["s", "xl"]


@pytest.mark.parametrize("equal", [False, None, "true", 1])
def test_only_a_certificate_that_is_true_passes(equal):
    decision = decide(config_of(), family_of(bitwise_equal=equal), good_results())
    assert decision["blessed"] == []
    assert failed(decision, "s") == ["certificate"]


def test_a_larger_student_worse_than_the_next_smaller_is_charged_and_the_smaller_is_not():
    decision = decide(config_of(), family_of(), results_of(s=model(2.4), m=model(2.5), xl=model(2.45)))
    assert failed(decision, "m") == ["monotone"]
    assert decision["blessed"] == ["s", "xl"]  # xl is compared with m, the next smaller, alone


def test_the_monotone_tolerance_counts_standard_errors_of_the_difference():
    errors = math.hypot(0.3, 0.4)  # 0.5
    results = results_of(s=model(2.0, error=0.3), m=model(2.0 + 1.9 * errors, error=0.4), xl=model(1.0))
    assert failed(decide(config_of(monotone_tolerance=2.0), family_of(), results), "m") == []
    assert failed(decide(config_of(monotone_tolerance=1.8), family_of(), results), "m") == ["monotone"]
    assert failed(decide(config_of(monotone_tolerance=None), family_of(), results), "m") == []


def test_sizes_are_compared_by_parameters_whatever_their_names_or_order():
    family = family_of({"big": 4000, "a_small": 1000, "medium": 2000})
    results = results_of(big=model(2.0), medium=model(2.2), a_small=model(2.4))
    assert decide(config_of(), family, results)["blessed"] == ["a_small", "medium", "big"]


unusable = st.one_of(
    st.sampled_from([math.nan, math.inf, -math.inf, None, "nan", True, -0.1, 1.5e300 * -1]),
    st.text(max_size=3),
    st.lists(st.just(math.nan), max_size=2),
)


@given(
    value=unusable,
    metric=st.sampled_from(["bits_per_byte", "accuracy"]),
    part=st.sampled_from(["value", "standard_error"]),
)
def test_a_figure_that_is_no_number_in_range_is_a_no_and_the_decision_is_strict_json(value, metric, part):
    results = good_results()
    results["models"]["xl"][metric][part] = value
    decision = decide(config_of(), family_of(), results)
    assert decision["blessed"] == ["s", "m"]
    (reason, *_) = [check["why"] for check in decision["students"]["xl"]["checks"] if not check["passed"]]
    assert metric.replace("_", " ") in reason
    json.dumps(decision, allow_nan=False)


def test_an_accuracy_in_percent_is_a_no():
    results = good_results()
    results["models"]["xl"]["accuracy"]["value"] = 57.0
    assert failed(decide(config_of(), family_of(), results), "xl") == ["measured_accuracy"]


def test_a_model_that_was_not_evaluated_is_a_no_for_it_and_for_the_next_larger():
    results = good_results()
    del results["models"]["m"]
    decision = decide(config_of(thresholds={"max_bits_per_byte": 9.0}), family_of(), results)
    assert decision["blessed"] == ["s"]
    assert "m was not evaluated" in decision["students"]["m"]["checks"][0]["why"]
    assert failed(decision, "xl") == ["monotone"]


def test_the_step_writes_the_decision_and_says_a_line_per_student(tmp_path, capsys):
    evaluation, students = artifacts(tmp_path)
    config = config_of(per_student={"m": {"min_accuracy": 0.9}})
    artifact = gate(config, evaluation, students, output=tmp_path / "gate")
    decision = json.loads((artifact.path / "decision.json").read_text())
    assert decision["blessed"] == ["s", "xl"]
    assert open_artifact(artifact.path, "GateDecision").metadata["blessed"] == ["s", "xl"]
    check = decision["students"]["m"]["checks"][-2]
    assert (check["check"], check["threshold"], check["value"]) == ("min_accuracy", 0.9, 0.5)
    assert check["passed"] is False
    said = capsys.readouterr().out
    assert "[gate] s: blessed, 3 checks passed" in said
    assert "[gate] m: NOT blessed: accuracy 0.5 is below the bound 0.9" in said
    gate(config, evaluation, students, output=tmp_path / "gate")
    said = capsys.readouterr().out
    assert "reused" in said
    assert "m: NOT blessed" in said  # a reused decision is told again


def test_no_blessed_student_is_a_result(tmp_path, capsys):
    evaluation, students = artifacts(tmp_path)
    artifact = gate(config_of(thresholds={"max_bits_per_byte": 0.1}), evaluation, students, output=tmp_path / "gate")
    assert artifact.metadata["blessed"] == []
    assert "nothing will be pushed" in capsys.readouterr().out


def test_an_evaluation_of_another_family_is_refused_and_nothing_is_written(tmp_path):
    evaluation, _ = artifacts(tmp_path / "a")
    _, others = artifacts(tmp_path / "b", family=family_of({"s": 1, "xl": 2}))
    with pytest.raises(UserError, match="was made of the StudentFamily with digest"):
        gate(config_of(), evaluation, others, output=tmp_path / "gate")
    assert not (tmp_path / "gate").exists()
