"""lm-eval's tasks by name, from local files; from the hub: test_hub.py."""

import json
from pathlib import Path

import pytest
from lm_eval.tasks import TaskManager

from components.evaluate import agieval
from components.evaluate.catalogue import EvaluationTask, load_tasks
from components.evaluate.definitions import DEFAULT_METRICS, MEAN_BY_DEFAULT, check_tasks, definition, read_definition
from components.evaluate.questions import build
from matta_core.errors import UserError
from matta_core.recipe import TaskConfig

SHARED = Path(__file__).parents[4] / "shared" / "data" / "eval"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"the tasks' own files are not at {SHARED}")

ORIGINAL = {
    "passage": None,
    "question": "What is 1+1?",
    "options": ["(A)1", "(B)2", "(C)3"],
    "label": "B",
    "other": None,
}


def load(tmp_path, name, rows=None, suffix=".jsonl", **config):
    if rows is not None:
        file = tmp_path / f"rows{suffix}"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        config["data_files"] = str(file)
    (task,) = load_tasks({name: TaskConfig(**config)}, tmp_path / "work")
    return task


def asked(task):
    build([task])
    return [instance.args for instance in task.task.instances]


@needs_shared
def test_lambada_from_its_file_is_the_task_as_lm_eval_defines_it(tmp_path):
    task = load(tmp_path, "lambada_openai", data_files=str(SHARED / "lambada_test.jsonl"), limit=20)
    assert (task.metric, task.unit, task.higher_is_better, task.version) == ("acc", "accuracy", True, "1.0")
    texts = [json.loads(line)["text"] for line in (SHARED / "lambada_test.jsonl").read_text().splitlines()]
    assert len(task.task.eval_docs) == len(texts) == 5153
    pairs = asked(task)
    assert len(pairs) == 20
    for text, (context, target) in zip(texts, pairs, strict=False):
        assert context + target == text
        assert target == " " + text.split(" ")[-1]


@needs_shared
def test_agieval_from_its_file_is_the_task_as_lm_eval_defines_it(tmp_path):
    file = SHARED / "agieval_sat_math.jsonl"
    task = load(tmp_path, "agieval_sat_math", data_files=str(file))
    assert (task.metric, task.unit, len(task.task.eval_docs)) == ("acc", "accuracy", 220)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    requests = iter(asked(task))
    for row, doc in zip(rows, task.task.eval_docs, strict=True):
        for option in row["options"]:
            context, target = next(requests)
            assert context.startswith(f"{row['passage']}Q: {row['question']}")
            assert target == " " + option
        assert row["options"][doc["gold"][0]].startswith(f"({row['label']})")


def test_agievals_prompt_is_the_published_one():
    assert agieval.as_on_the_hub(ORIGINAL | {"passage": "A story. "}) == {
        "query": "A story. Q: What is 1+1? Answer Choices: (A)1 (B)2 (C)3\nA: Among A through C, the answer is",
        "choices": ["(A)1", "(B)2", "(C)3"],
        "gold": [1],
        "passage": "A story. ",
    }


def test_agieval_rows_as_on_the_hub_are_taken_as_they_are(tmp_path):
    rows = [ORIGINAL, ORIGINAL | {"passage": "Another story. "}]
    converted = [agieval.as_on_the_hub(row) for row in rows]
    (tmp_path / "original").mkdir()
    ours = load(tmp_path / "original", "agieval_sat_math", rows)
    hub_rows = [{key: row[key] for key in ("query", "choices", "gold")} for row in converted]
    theirs = load(tmp_path, "agieval_sat_math", hub_rows)
    assert asked(ours) == asked(theirs)


@pytest.mark.parametrize("bad", [{"label": "Z"}, {"label": "D"}, {"label": None}, {"options": None}])
def test_an_agieval_row_that_is_none_is_named(tmp_path, bad):
    with pytest.raises(UserError, match=r"data_files: .*rows.jsonl:2 is no row of AGIEval"):
        load(tmp_path, "agieval_sat_math", [ORIGINAL, ORIGINAL | bad])


def test_the_definition_is_that_of_lm_evals_own_index():
    assert definition("agieval_sat_math").name == "sat-math.yaml"
    assert definition("lambada_openai").parent.name == "lambada"


@pytest.mark.slow  # it reads all of lm-eval's definitions
def test_definitions_found_in_the_text_are_those_of_the_index():
    index = TaskManager().task_index
    for name in ("hellaswag", "arc_easy", "piqa", "mmlu_abstract_algebra", "gsm8k", "wikitext", "blimp_npi_present_1"):
        assert index[name].kind.name == "TASK"
        assert definition(name) == index[name].yaml_path


@pytest.mark.slow  # it reads all of lm-eval's definitions
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lambada", "evaluate.tasks.lambada is a group of lm-eval tasks"),
        ("mmlu", "evaluate.tasks.mmlu is a group of lm-eval tasks"),
        ("lambada_opanai", "evaluate.tasks.lambada_opanai: lm-eval has no such task; `lm_eval ls subtasks` lists"),
    ],
)
def test_a_name_that_is_no_task_is_a_mistake(name, message):
    with pytest.raises(UserError, match=message):
        definition(name)


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("lambada_openai", {"data_files": "/nowhere/x.jsonl"}, r"data_files: there is no file /nowhere/x.jsonl"),
        ("lambada_openai", {"data_files": "/nowhere/x.csv"}, r"data_files must end in .json, .jsonl, .parquet, got"),
        (
            "lambada_openai",
            {"rows": [{"words": "a b"}]},
            r"cannot load it \(UndefinedError: 'text' is undefined\): the file",
        ),
        (
            "lambada_openai",
            {"rows": [{"text": "a b"}], "metric": "perplexity"},
            r"metric must be one of acc, got 'perplexity'",
        ),
        ("lambada_openai", {"rows": [{"text": "a b"}], "metric": "f1"}, r"metric must be one of acc, got 'f1'"),
        (
            "lambada_openai",
            {"rows": [{"text": "a b"}], "num_fewshot": 2},
            r"the 2 examples of its prompt come from another",
        ),
        (
            "gsm8k",
            {"rows": [{"question": "a", "answer": "b"}]},
            r"the 5 examples of its prompt .*num_fewshot to 0, or leave",
        ),
        ("squadv2", {"rows": [{"question": "a"}]}, r"squadv2 is a program that fetches its data itself"),
    ],
)
def test_what_cannot_be_had_is_a_mistake_that_names_the_setting(tmp_path, name, config, message):
    with pytest.raises(UserError, match=f"^evaluate.tasks.{name}.*{message}"):
        load(tmp_path, name, **config)


def test_a_file_that_is_not_json_is_named(tmp_path):
    file = tmp_path / "broken.jsonl"
    file.write_text("{")
    with pytest.raises(UserError, match=r"lambada_openai.data_files = .*broken.jsonl: lm-eval cannot load it"):
        load(tmp_path, "lambada_openai", data_files=str(file))


def test_another_metric_of_the_task_can_be_chosen(tmp_path):
    task = load(tmp_path, "agieval_sat_math", [ORIGINAL] * 2, metric="acc_norm")
    assert (task.metric, task.unit) == ("acc_norm", "accuracy")


@pytest.mark.parametrize(
    ("metric", "unit"),
    [
        ("prompt_level_strict_acc", "accuracy"),
        ("non_greedy_accuracy", "accuracy"),
        ("acc_norm", "accuracy"),
        ("em", "accuracy"),
        ("f1", "f1"),
        ("bits_per_byte", "bits per byte"),
        ("numerical_match", "numerical match"),
    ],
)
def test_an_accuracy_is_one_wherever_its_name_says_so(metric, unit):
    assert EvaluationTask("ifeval", None, metric).unit == unit


def test_a_task_that_writes_says_how_much(tmp_path):
    task = load(tmp_path, "gsm8k", [{"question": "a", "answer": "b #### 2"}] * 2, num_fewshot=0)
    assert (task.metric, task.unit, task.new_tokens) == ("exact_match", "accuracy", 256)


def test_names_metrics_and_files_are_checked_without_a_model(tmp_path):
    def check(name, **config):
        check_tasks({name: TaskConfig(**config)}, files=True)

    check("lambada_openai")
    check("lambada_openai", metric="acc")
    check("gsm8k", metric="exact_match")
    missing = str(tmp_path / "nope.jsonl")
    for name, config, message in (
        ("lambada_openai", {"metric": "perplexity"}, r"lambada_openai\.metric must be one of acc, got 'perplexity'"),
        ("wikitext", {"metric": "acc"}, r"wikitext\.metric must be one of bits_per_byte, got 'acc' \(of the task's"),
        ("lambada_openai", {"data_files": missing}, r"lambada_openai\.data_files: there is no file .*nope\.jsonl"),
        ("lambada_openai", {"data_files": "x.csv"}, r"lambada_openai\.data_files must end in .json"),
        ("gsm8k", {"data_files": missing}, r"gsm8k\.data_files: the 5 examples of its prompt"),
        ("squadv2", {"data_files": missing}, r"squadv2\.data_files: squadv2 is a program"),
    ):
        with pytest.raises(UserError, match=rf"^evaluate\.tasks\.{message}"):
            check(name, **config)


def test_what_is_said_of_metrics_is_lm_evals_own():
    from lm_eval.api import metrics, registry  # noqa: F401 - metrics registers them

    means = (registry.get_aggregation("mean"), registry.get_aggregation("bits_per_byte"))
    registered = {name: registry.get_metric_aggregation(name) in means for name in registry.METRIC_REGISTRY}
    assert {name for name, is_mean in registered.items() if is_mean} == set(MEAN_BY_DEFAULT)
    assert {kind: tuple(names) for kind, names in registry.DEFAULT_METRIC_REGISTRY.items()} == DEFAULT_METRICS


def test_a_definition_is_read_with_what_it_includes():
    file = definition("agieval_sat_math")
    theirs = TaskManager(include_path=file.parent, include_defaults=False).task_index["agieval_sat_math"].cfg
    ours = read_definition(file)
    assert ours.keys() == theirs.keys()
    for key in ("output_type", "metric_list", "dataset_path", "test_split"):
        assert ours.get(key) == theirs.get(key)
