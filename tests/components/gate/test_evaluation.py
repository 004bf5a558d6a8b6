"""Fail closed: whatever cannot be believed turns the students that it concerns to "no", and no others."""

import json
import math
import re

import pytest
from gate_support import BITS, DOCUMENTS, TOKEN, Evaluation, failed
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from components.evaluate.figures import summarise
from components.gate.evaluation import read_report
from matta_core.artifacts import finish_artifact, open_artifact
from matta_core.errors import UserError

POLICY = {
    "maximum": {BITS: 2.6},
    "minimum": {TOKEN: 0.4},
    "non_inferior": {BITS: 0.05},
    "improve": {BITS: 0},
    "slices": {BITS: 0.1},
    "min_documents": 10,
    "small_slices": "skip",
}
FIRST_TOKEN = DOCUMENTS  # the place of the first question of the last-token task


def set_value(model, place, value):
    def change(evaluation):
        evaluation.values[model][place] = value

    return change


def set_figure(model, task, key, value):
    def change(evaluation):
        evaluation.results["models"][model]["tasks"][task][key] = value

    return change


def alter_rows(model, alter):
    def change(evaluation):
        evaluation.altered_rows[model] = alter

    return change


def delete(*path):
    def change(evaluation):
        *parents, last = path
        target = evaluation.results
        for parent in parents:
            target = target[parent]
        del target[last]

    return change


def set_task(key, value, task=BITS):
    def change(evaluation):
        evaluation.results["tasks"][task][key] = value

    return change


def set_question(key, value, place=3):
    def change(evaluation):
        evaluation.questions[place][key] = value

    return change


def remove_file(model):
    def change(evaluation):
        del evaluation.values[model]

    return change


def seal_another_set(evaluation):
    evaluation.sealed_set = "0" * 64


def swap(rows):
    return [rows[1], rows[0], *rows[2:]]


def without_value(rows):
    return [{key: value for key, value in rows[0].items() if key != "value"}, *rows[1:]]


M, ALL = ["m"], ["s", "m", "l"]
CORRUPTIONS = {
    "a value is null": (set_value("m", 3, None), M, "question 3 has no finite value"),
    "a value is NaN": (set_value("m", 3, math.nan), M, "question 3 has the value nan, which is not finite"),
    "a value is infinite": (set_value("m", 3, math.inf), M, "question 3 has the value inf"),
    "bits per byte are negative": (set_value("m", 3, -0.1), M, "-0.1, which is out of range for bits per byte"),
    "an accuracy is above 1": (set_value("m", FIRST_TOKEN, 1.5), M, "question 0 has the value 1.5, .* accuracy"),
    "a value is text": (set_value("m", 3, "2.1"), M, "'2.1', which is not a number"),
    "a value is a truth value": (set_value("m", FIRST_TOKEN, True), M, "True, which is not a number"),
    "a row is missing": (alter_rows("m", lambda rows: rows[:-1]), M, "has 159 rows for 160 questions"),
    "a row too many": (alter_rows("m", lambda rows: [*rows, rows[-1]]), M, "has 161 rows for 160 questions"),
    "two rows are exchanged": (alter_rows("m", swap), M, "line 1 is question 1 of .*has question 0"),
    "a row has no value": (alter_rows("m", without_value), M, "line 1 holds no value"),
    "a row is no object": (alter_rows("m", lambda rows: [7, *rows[1:]]), M, "line 1 holds no value"),
    "the rows' file is missing": (remove_file("m"), M, "cannot read .*m.jsonl"),
    "the model is missing": (delete("models", "m"), M, "m was not evaluated"),
    "its tasks are missing": (delete("models", "m", "tasks"), M, "has no figure"),
    "a metric is missing": (delete("models", "m", "tasks", TOKEN), M, "has no figure"),
    "a figure is null": (set_figure("m", BITS, "value", None), M, "value is missing in results.json"),
    "a figure is NaN": (set_figure("m", BITS, "value", math.nan), M, "value is nan in results.json, but its rows"),
    "a figure is not that of its rows": (set_figure("m", BITS, "value", 1.5), M, "value is 1.5 in results.json, but"),
    "a standard error is null": (set_figure("m", TOKEN, "standard_error", None), M, "standard_error is missing"),
    "a standard error is too small": (set_figure("m", BITS, "standard_error", 1e-9), M, "standard_error is 1e-09"),
    "documents are miscounted": (set_figure("m", BITS, "documents", 41), M, "documents is 41 .* rows give 40"),
    "the baseline is missing": (delete("models", "baseline-m"), M, "is said to be served, but was not evaluated"),
    "the baseline's rows are missing": (remove_file("baseline-m"), M, "what is served cannot be compared with"),
    "the baseline has a NaN": (set_value("baseline-m", 3, math.nan), M, r"per_student.m for one run \({}\)"),
    "the baseline's figure is not that of its rows": (set_figure("baseline-m", BITS, "value", 9.0), M, "value is 9"),
    "nothing is said of a baseline": (delete("baselines", "m"), M, "does not say what is served as m"),
    "a task has no version": (set_task("version", None), ALL, "does not say its version"),
    "a task has another digest": (set_task("digest", "0" * 64), ALL, "the tasks' digests make the evaluation set"),
    "a task has no direction": (set_task("higher_is_better", None), ALL, "no usable 'higher_is_better'"),
    "a task's questions are miscounted": (set_task("questions", 41), ALL, "counts 41 questions, .* has 40"),
    "another evaluation set is sealed": (seal_another_set, ALL, "the manifest says '0000000"),
    "a weight is 0": (set_question("weight", 0.0), ALL, "the weight 0.0, which must be above 0"),
    "a weight is NaN": (set_question("weight", math.nan), ALL, "the weight nan"),
    "a question has no document": (set_question("document", None), ALL, "names no document of question 3"),
    "a question is out of place": (set_question("question", 7), ALL, "has question 7 in the place of question 3"),
}


def test_uncorrupted_all_are_blessed(evaluation):
    decision = evaluation.decide(policy=POLICY)
    assert decision["blessed"] == ALL
    assert decision["warnings"] == []


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_each_corruption_alone_turns_those_it_concerns_to_no(evaluation, name):
    change, concerned, reason = CORRUPTIONS[name]
    change(evaluation)
    decision = evaluation.decide(policy=POLICY)
    assert [name for name in ALL if not decision["students"][name]["blessed"]] == concerned
    for name in concerned:
        reasons = [check["why"] for check in decision["students"][name]["checks"] if not check["passed"]]
        assert any(re.search(reason, why) for why in reasons), reasons
    json.dumps(decision, allow_nan=False)


def test_too_few_documents_are_a_no_for_all(evaluation):
    decision = evaluation.decide(policy={"maximum": {BITS: 2.6}, "min_documents": DOCUMENTS + 1})
    assert decision["blessed"] == []
    assert failed(decision, "s") == [("documents", BITS)]
    assert "has 40 documents, fewer than min_documents = 41" in str(decision["students"]["s"]["checks"])


junk = st.one_of(
    st.none(),
    st.booleans(),
    st.floats(),
    st.text(max_size=5),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=3), st.floats(), max_size=2),
)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    path=st.sampled_from(
        [
            (),
            ("tasks",),
            ("tasks", BITS),
            ("tasks", TOKEN, "value"),
            ("tasks", BITS, "standard_error"),
            ("prefill",),
            ("decode", "1"),
            ("peak_memory_bytes",),
        ]
    ),
    value=junk,
)
def test_whatever_stands_in_the_place_of_a_students_figures_the_others_are_judged(tmp_path_factory, path, value):
    evaluation = Evaluation(tmp_path_factory.mktemp("junk"))
    target, steps = evaluation.results["models"], ("m", *path)
    for step in steps[:-1]:
        target = target[step]
    target[steps[-1]] = value
    asked = POLICY | {"max_prefill_seconds": 1.0, "max_decode_seconds": 1.0, "max_memory_bytes": 10**7}
    decision = evaluation.decide(policy=asked)
    assert {"s", "l"} <= set(decision["blessed"])
    if not path or path[0] == "tasks":
        assert "m" not in decision["blessed"]
    json.dumps(decision, allow_nan=False)


WHERE = [
    *(("results", "tasks", BITS, key) for key in ("higher_is_better", "unit", "metric", "version", "digest")),
    *(("results", "tasks", BITS, key) for key in ("questions", "documents")),
    *(("questions", 3, key) for key in ("task", "question", "document", "weight", "slices")),
    *(("results", key) for key in ("tasks", "models", "baselines", "evaluation_set", "baseline_target")),
    *(("results", "baselines", "m"), ("results", "models", "baseline-m"), ("results", "tasks", BITS)),
    *(("family", "students", "m", key) for key in ("parameters", "bytes", "certificate")),
    *(("family", "students", "m"), ("family", "students")),
]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=st.sampled_from(WHERE), value=junk)
@example(where=("family", "students"), value={})
def test_whatever_stands_anywhere_there_is_a_decision_or_a_mistake_that_is_told(tmp_path_factory, where, value):
    evaluation = Evaluation(tmp_path_factory.mktemp("junk"))
    *parents, last = where[1:]
    target = getattr(evaluation, where[0])
    for step in parents:
        target = target[step]
    target[last] = value
    try:
        decision = evaluation.decide(policy=POLICY | {"max_bytes": 10**9})
    except UserError:
        return
    json.dumps(decision, allow_nan=False)
    assert set(decision["students"]) == set(ALL)


def test_the_figures_of_the_evaluate_step_are_those_that_the_rows_give(evaluation):
    for name, values in evaluation.values.items():
        evaluation.results["models"][name]["tasks"] = summarise(evaluation.questions, values)
    assert evaluation.decide(policy=POLICY)["blessed"] == ALL


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("results.json", "{", "cannot read .*results.json"),
        ("results.json", "[]", "does not hold a JSON object"),
        ("results.json", '{"evaluation_set": "e", "tasks": {}, "models": []}', "no usable 'models', got \\[\\]"),
        ("questions.jsonl", '{"task": "matta_bi', "cannot read .*questions.jsonl"),
        ("questions.jsonl", '{"task": "other"}\n', "line 1 is no question of a task in results.json"),
    ],
)
def test_a_report_that_cannot_be_read_at_all_is_an_error(evaluation, file, text, message):
    path, _ = evaluation.write()
    (path / file).write_text(text)
    finish_artifact(path, "EvaluationReport", key="e")
    with pytest.raises(UserError, match=message):
        read_report(open_artifact(path, "EvaluationReport"))
