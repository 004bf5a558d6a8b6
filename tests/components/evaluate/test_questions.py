"""The evaluation set: its digest, its documents, its slices."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.evaluate.catalogue import load_tasks
from components.evaluate.questions import build, cut_questions, length_slices, source_slices
from matta_core.errors import UserError
from matta_core.recipe import TaskConfig

ROWS = [
    {"text": "the quick brown fox jumps"},
    {"text": "over the lazy dog"},
    {"text": "and a much longer line follows the other two of them"},
]


def evaluation_set(tmp_path, rows, **config):
    """lambada_openai's definition, fed with our rows."""
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    tasks = load_tasks({"lambada_openai": TaskConfig(data_files=str(file), **config)}, tmp_path / "work")
    return build(tasks)


def test_the_digest_is_that_of_the_questions(tmp_path):
    digest = evaluation_set(tmp_path, ROWS).digest
    assert evaluation_set(tmp_path, ROWS).digest == digest
    changed = [*ROWS[:2], {"text": ROWS[2]["text"] + "!"}]
    assert evaluation_set(tmp_path, changed).digest != digest
    assert evaluation_set(tmp_path, ROWS, limit=2).digest != digest
    # A column that no model sees is no part of it.
    assert evaluation_set(tmp_path, [row | {"note": "x"} for row in ROWS]).digest == digest


def test_the_digest_knows_which_answer_is_right(tmp_path):
    def digest(gold):
        rows = [{"query": query, "choices": ["a", "b"], "gold": [gold]} for query in "QR"]
        file = tmp_path / "rows.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        config = {"agieval_sat_math": TaskConfig(data_files=str(file))}
        return build(load_tasks(config, tmp_path / "work")).digest

    assert digest(0) != digest(1)


def test_the_digest_knows_task_version_and_metric(tmp_path):
    asked = evaluation_set(tmp_path, ROWS)
    (task,) = asked.tasks
    task.task.VERSION = "2.0"
    assert build([task]).digest != asked.digest
    assert build([task._replace(metric="perplexity")]).digest != build([task]).digest


def test_a_question_is_a_document_unless_its_row_says_otherwise(tmp_path):
    alone = evaluation_set(tmp_path, ROWS).questions
    assert len({question["document"] for question in alone}) == 3
    passages = evaluation_set(
        tmp_path, [row | {"passage": "one story"} for row in ROWS[:2]] + [ROWS[2] | {"passage": "another"}]
    )
    documents = [question["document"] for question in passages.questions]
    assert documents[0] == documents[1] != documents[2]
    assert passages.descriptions["lambada_openai"]["documents"] == 2


def test_a_limit_takes_the_first_questions(tmp_path):
    two = evaluation_set(tmp_path, ROWS, limit=2)
    assert [question["document"] for question in two.questions] == [
        question["document"] for question in evaluation_set(tmp_path, ROWS).questions[:2]
    ]
    assert two.descriptions["lambada_openai"]["questions"] == 2
    assert len(evaluation_set(tmp_path, ROWS, limit=7).questions) == 3


def test_asking_other_questions_is_noticed(tmp_path):
    asked = evaluation_set(tmp_path, ROWS)
    asked.check_same()
    asked.tasks[0].task.build_all_requests(samples=[0, 1])
    with pytest.raises(AssertionError, match="lambada_openai asked other questions"):
        asked.check_same()


def test_slices_are_by_length_and_by_the_rows_source(tmp_path):
    rows = [{"text": "word " * count + "end", "source": f"{kind}/{count}.txt"} for count in (3, 6, 9) for kind in "ab"]
    questions = evaluation_set(tmp_path, rows).questions
    assert [question["slices"] for question in questions] == [
        {"length": length, "source": kind} for length in ("short", "medium", "long") for kind in "ab"
    ]


def test_a_kind_with_one_slice_is_left_out(tmp_path):
    rows = [{"text": f"five words make line {number}", "source": f"news.jsonl:{number}"} for number in range(3)]
    assert [question["slices"] for question in evaluation_set(tmp_path, rows).questions] == [{}, {}, {}]


@pytest.mark.parametrize(
    ("sources", "slices"),
    [
        (["a/x.py", "a/y.py", "z.py", "w.py"], ["a", "a", ".", "."]),
        (
            ["/data/web/a/1.txt", "/data/web/b/2.txt", "/data/web/a/3.txt", "/data/web/b/deep/4.txt"],
            ["a", "b", "a", "b"],
        ),
        (
            ["/d/news.jsonl:1", "/d/books.jsonl:1", "/d/news.jsonl:2", "/d/books.jsonl:7"],
            ["news.jsonl", "books.jsonl"] * 2,
        ),
        (["a/x.py", "a/y.py", "b/z.py", "c/w.py"], ["a", "a", "other", "other"]),
    ],
)
def test_a_source_slice_is_a_folder_or_a_file_of_rows(sources, slices):
    assert source_slices(sources, [str(number) for number in range(4)]) == slices


def test_two_questions_on_one_document_are_no_slice_of_two_documents():
    assert source_slices(["a/x", "a/x", "b/y", "b/z"], ["1", "1", "2", "3"]) == ["other", "other", "b", "b"]


def test_many_sources_are_the_largest_and_the_rest():
    sources = [f"p{number:02}/{document}" for number in range(20) for document in range(2)]
    slices = source_slices(sources, sources)
    assert len(set(slices)) == 13
    assert slices.count("other") == 16


@given(st.lists(st.integers(1, 1000), min_size=3, max_size=60))
def test_longer_questions_are_never_in_a_shorter_slice(lengths):
    order = {"short": 0, "medium": 1, "long": 2}
    slices = [order[name] for name in length_slices(lengths)]
    ranked = sorted(zip(lengths, slices, strict=True))
    assert [rank for _, rank in ranked] == sorted(slices)
    if len(set(lengths)) == len(lengths):
        assert max(slices.count(rank) for rank in range(3)) - min(slices.count(rank) for rank in range(3)) <= 2


def test_questions_longer_than_the_models_see_are_counted(tmp_path):
    """`len` takes characters for tokens. The last token is predicted, so it need not be seen."""
    asked = evaluation_set(tmp_path, ROWS)
    lengths = sorted(len(row["text"]) for row in ROWS)
    for max_length in (lengths[0] - 2, lengths[0] - 1, lengths[1] - 1, lengths[2] - 2, lengths[2] - 1):
        expected = sum(length > max_length + 1 for length in lengths)
        assert cut_questions(asked, len, max_length) == {"lambada_openai": expected}


@pytest.mark.parametrize(
    ("passages", "limit", "message"),
    [
        (
            ["one"] * 4,
            None,
            "its 4 questions are about 1 passage, and a standard error needs 2: give it more questions",
        ),
        (
            ["one", "one", "two"],
            2,
            "its limit of 2 questions are about 1 passage, .*: raise the limit, or leave it out",
        ),
    ],
)
def test_questions_about_one_passage_are_refused_before_they_are_asked(tmp_path, passages, limit, message):
    rows = [{"passage": passage, "question": f"is it {n}", "label": 0} for n, passage in enumerate(passages)]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    tasks = load_tasks({"boolq": TaskConfig(data_files=str(file), limit=limit)}, tmp_path / "work")
    with pytest.raises(UserError, match=rf"evaluate\.tasks\.boolq: {message}"):
        build(tasks)
