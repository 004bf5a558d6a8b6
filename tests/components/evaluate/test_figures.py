import pytest

from components.evaluate.figures import summarise


def question(document, weight=1.0, task="t", **slices):
    return {"task": task, "question": 0, "document": document, "weight": weight, "slices": slices}


def figures(documents, values):
    """Of a task with one question per name in `documents`, weights 1."""
    return summarise([question(document) for document in documents], values)["t"]


def test_a_weighted_figure_of_two_documents_by_hand():
    # 2 and 9 bits on 1 and 3 bytes: 11/4. Residuals -0.75 and 0.75: sqrt(2/1 * 2 * 0.75^2) / 4 = 0.375.
    assert summarise([question("a", 1.0), question("b", 3.0)], [2.0, 3.0])["t"] == {
        "value": pytest.approx(2.75),
        "standard_error": pytest.approx(0.375),
        "questions": 2,
        "documents": 2,
        "slices": {},
    }


def test_a_slice_has_the_figure_of_its_questions_alone():
    questions = [question(str(index), length="short" if index < 4 else "long", source="x") for index in range(10)]
    values = [float(index) for index in range(10)]
    whole = summarise(questions, values)["t"]
    for name, part in (("short", values[:4]), ("long", values[4:])):
        alone = figures([str(index) for index in range(len(part))], part)
        assert whole["slices"]["length"][name] == {key: alone[key] for key in alone if key != "slices"}
    assert whole["slices"]["source"]["x"]["value"] == whole["value"] == 4.5


def test_tasks_are_apart():
    summary = summarise([question("a"), question("b"), question("a", task="u")], [1.0, 0.0, 7.0])
    assert (summary["t"]["value"], summary["u"]["value"]) == (0.5, 7.0)


def test_one_document_has_a_value_and_no_standard_error():
    summary = figures(["a", "a"], [1.0, 0.0])
    assert (summary["value"], summary["standard_error"], summary["questions"], summary["documents"]) == (
        0.5,
        None,
        2,
        1,
    )


def test_with_one_question_per_document_the_accuracy_has_lm_evals_standard_error():
    from lm_eval.api.metrics import mean_stderr

    correct = [float(index % 3 == 0) for index in range(20)]
    accuracy = figures([str(index) for index in range(20)], correct)
    assert accuracy["standard_error"] == pytest.approx(mean_stderr(correct))


def test_more_questions_on_the_same_documents_do_not_feign_certainty():
    documents, correct = [str(index) for index in range(10)], [float(index % 2 == 0) for index in range(10)]
    once, many = figures(documents, correct), figures(documents * 7, correct * 7)
    assert many["standard_error"] == pytest.approx(once["standard_error"])
    assert (many["documents"], many["questions"]) == (10, 70)


def test_a_value_that_is_none_leaves_no_figure_where_it_belongs():
    questions = [
        question("a", source="x"),
        question("b", source="x"),
        question("c", source="y"),
        question("d", source="y"),
    ]
    summary = summarise(questions, [1.0, None, 1.0, 0.0])["t"]
    assert summary["value"] is summary["standard_error"] is None
    assert summary["slices"]["source"]["x"]["value"] is None
    assert summary["slices"]["source"]["y"]["value"] == 0.5
