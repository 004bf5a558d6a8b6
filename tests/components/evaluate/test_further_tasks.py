"""The step with lm-eval tasks beside the built-in ones."""

import dataclasses
import json

import pytest

from components.evaluate.step import evaluate
from matta_core.errors import UserError
from matta_core.recipe import TaskConfig


def run(root, config, output):
    return evaluate(
        config, root / "dataset", root / "students", teacher_checkpoint=root / "teacher", output=root / output
    )


def test_a_task_of_lm_eval_is_put_to_all_models_and_its_file_is_part_of_the_key(
    tmp_path, make_artifacts, config, unmeasured
):
    make_artifacts(tmp_path)
    file = tmp_path / "rows.jsonl"
    rows = [{"text": f"return value items {word}"} for word in ("self", "x1", "import")]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = dataclasses.replace(config, tasks={"lambada_openai": TaskConfig(data_files=str(file))})
    first = run(tmp_path, config, "first")
    results = json.loads((first.path / "results.json").read_text())
    assert list(results["tasks"]) == ["matta_bits_per_byte", "matta_last_token", "lambada_openai"]
    assert results["tasks"]["lambada_openai"]["questions"] == 3
    for name, model in results["models"].items():
        lines = (first.path / "documents" / f"{name}.jsonl").read_text().splitlines()
        values = [json.loads(line)["value"] for line in lines[-3:]]
        assert model["tasks"]["lambada_openai"]["value"] == pytest.approx(sum(values) / 3)
    file.write_text(file.read_text().replace("self", "name"))
    second = run(tmp_path, config, "second")
    assert second.key != first.key
    assert second.metadata["evaluation_set"] != first.metadata["evaluation_set"]


def test_a_task_that_writes_more_than_the_models_see_is_a_mistake(tmp_path, make_artifacts, config):
    make_artifacts(tmp_path)
    file = tmp_path / "rows.jsonl"
    rows = [{"question": f"1+{n}?", "answer": f"#### {n + 1}"} for n in (1, 2)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = dataclasses.replace(config, tasks={"gsm8k": TaskConfig(data_files=str(file), num_fewshot=0)})
    with pytest.raises(UserError, match=r"evaluate.tasks.gsm8k has a model write 256 tokens, .* more than 32 at once"):
        run(tmp_path, config, "report")


def test_a_tasks_file_that_is_not_there_is_a_mistake_before_anything_is_done(tmp_path, make_artifacts, config):
    make_artifacts(tmp_path)
    config = dataclasses.replace(config, tasks={"lambada_openai": TaskConfig(data_files="/nowhere.jsonl")})
    with pytest.raises(
        UserError, match=r"evaluate.tasks.lambada_openai.data_files: cannot read /nowhere.jsonl: No such"
    ):
        run(tmp_path, config, "other")
    assert not (tmp_path / "other").exists()
