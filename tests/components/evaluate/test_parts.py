"""An evaluation in parts, one model in each, as on a cluster: merged, it is the evaluation of one process."""

import json
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
from support import tiny_gpt2

from components.common.served.pointer import move_pointer, read_pointer
from components.common.served.versions import content_digest, install
from components.common.storage.open_storage import open_storage
from components.evaluate import costs
from components.evaluate.merge_evaluations import merge_evaluations
from components.evaluate.plan_evaluation import EvaluationPlan, plan_evaluation
from components.evaluate.step import evaluate
from matta_core.artifacts import finish_artifact, open_artifact
from matta_core.errors import UserError

TIMES = ("prefill", "decode", "peak_memory_bytes")


def push(target, size, model):
    storage = open_storage(str(target))
    digest = content_digest(model)
    install(storage, size, model, digest, reference=model / "config.json", inputs={}, metadata={})
    move_pointer(storage, size, read_pointer(storage, size), digest, why="push")


def run(root, config, output, **part):
    return evaluate(
        config,
        root / "dataset",
        root / "students",
        teacher_checkpoint=root / "teacher",
        push_target=str(root / "pushed"),
        output=root / output,
        **part,
    )


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory, make_artifacts, config, tokenizer):
    """A folder with a baseline of s that sees less at once than all others, the report of one process in `whole`,
    parts/<model>, and these merged in `merged`."""
    root = tmp_path_factory.mktemp("parts")
    make_artifacts(root)
    served = tiny_gpt2(24, len(tokenizer), seed=3, max_position_embeddings=24)
    served.save_pretrained(root / "served")
    tokenizer.save_pretrained(root / "served")
    push(root / "pushed", "s", root / "served")
    with pytest.MonkeyPatch.context() as patch:
        # Memory is measured in a process of its own, which takes seconds, and is not what the test is about.
        patch.setattr(costs, "peak_memory_bytes", lambda models, *_: dict.fromkeys(models, 1))
        run(root, config, "whole")
        plan = EvaluationPlan.from_json(plan_evaluation(root / "students", str(root / "pushed")).to_json())
        # What is pushed from now on concerns no part: all hold on to the plan.
        tiny_gpt2(40, len(tokenizer), seed=4, max_position_embeddings=16).save_pretrained(root / "later")
        tokenizer.save_pretrained(root / "later")
        push(root / "pushed", "s", root / "later")
        push(root / "pushed", "xl", root / "later")
        for model in reversed(plan.models):
            run(root, config, f"parts/{model}", plan=plan, model=model)
    merge_evaluations(sorted((root / "parts").iterdir()), output=root / "merged")
    return root


def results_of(report):
    return json.loads((report / "results.json").read_text())


def altered(root, tmp_path, model, change):
    """The parts, one of them with other results.json, sealed again."""
    parts = {part.name: part for part in (root / "parts").iterdir()}
    original = open_artifact(parts[model], "EvaluationPart")
    parts[model] = shutil.copytree(original.path, tmp_path / model)
    results = results_of(parts[model])
    change(results, parts[model])
    (parts[model] / "results.json").write_text(json.dumps(results))
    finish_artifact(parts[model], "EvaluationPart", key=original.key, inputs=original.inputs)
    return list(parts.values())


def test_the_plan_names_all_models_and_what_is_served(evaluated, tmp_path):
    target = str(evaluated / "pushed")
    assert plan_evaluation(evaluated / "students", target).models == [
        "s", "xl", "teacher", "baseline-s", "baseline-xl"
    ]  # fmt: skip
    nothing = plan_evaluation(evaluated / "students", str(tmp_path / "nothing"))
    assert (nothing.models, nothing.shortest_context) == (["s", "xl", "teacher"], None)
    assert nothing.baselines == {"s": None, "xl": None}


def test_merged_parts_are_the_report_of_one_process(evaluated):
    whole, merged = (open_artifact(evaluated / name, "EvaluationReport") for name in ("whole", "merged"))
    assert merged.inputs == whole.inputs
    assert merged.metadata == whole.metadata
    files = {path.relative_to(whole.path) for path in whole.path.rglob("*") if path.is_file()}
    assert {path.relative_to(merged.path) for path in merged.path.rglob("*") if path.is_file()} == files
    for file in files:  # the questions and, per model, each question's value: the same bytes
        if file.name not in ("manifest.json", "results.json"):
            assert (merged.path / file).read_bytes() == (whole.path / file).read_bytes(), file


def test_merged_figures_are_those_of_one_process_and_times_are_there(evaluated):
    whole, merged = results_of(evaluated / "whole"), results_of(evaluated / "merged")
    assert list(merged["models"]) == list(whole["models"]) == ["s", "xl", "teacher", "baseline-s"]
    for results in (whole, merged):
        for model in results["models"].values():
            assert all(model.pop(name) for name in TIMES)
    assert merged == whole
    assert whole["measured_on"]["sequence_length"] + whole["measured_on"]["new_tokens"] == 24  # the baseline's


def test_a_part_is_no_report(evaluated):
    with pytest.raises(UserError, match="is a EvaluationPart, not a EvaluationReport"):
        open_artifact(evaluated / "parts" / "s", "EvaluationReport")


def test_merging_twice_reuses_the_first(evaluated, capsys):
    merge_evaluations(list((evaluated / "parts").iterdir()), output=evaluated / "merged")
    assert "[merge_evaluations] reused" in capsys.readouterr().out


def test_a_missing_part_is_named(evaluated, tmp_path):
    parts = [part for part in (evaluated / "parts").iterdir() if part.name not in ("xl", "baseline-s")]
    with pytest.raises(UserError, match="there is no part of xl, baseline-s: evaluate each model of the plan"):
        merge_evaluations(parts, output=tmp_path / "merged")
    with pytest.raises(UserError, match="needs at least one EvaluationPart, got none"):
        merge_evaluations([], output=tmp_path / "merged")


def test_a_part_that_is_there_twice_is_refused(evaluated, tmp_path):
    parts = [*(evaluated / "parts").iterdir(), evaluated / "parts" / "s"]
    with pytest.raises(UserError, match="are both of the model s: give one"):
        merge_evaluations(parts, output=tmp_path / "merged")


def test_parts_with_other_questions_are_refused(evaluated, tmp_path):
    def other_digest(results, part):
        results["evaluation_set"] = "f" * 64

    def other_question(results, part):
        (part / "questions.jsonl").write_text("{}\n")

    for place, change in enumerate((other_digest, other_question)):
        parts = altered(evaluated, tmp_path / str(place), "xl", change)
        with pytest.raises(UserError, match="figures of different questions are not compared"):
            merge_evaluations(parts, output=tmp_path / "merged")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("tasks", {}, "have other tasks: evaluate with one plan and recipe"),
        ("baselines", {"s": None, "xl": None}, "have other baselines: evaluate with one plan"),
        ("measured_on", {"device": "NVIDIA L4"}, "times of different devices are not compared"),
    ],
)
def test_parts_that_do_not_belong_together_are_refused(evaluated, tmp_path, key, value, message):
    parts = altered(evaluated, tmp_path, "teacher", lambda results, part: results.update({key: value}))
    with pytest.raises(UserError, match=message):
        merge_evaluations(parts, output=tmp_path / "merged")


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"model": "s"}, "a part of an evaluation takes a plan and a model, got None and 's'"),
        ({"plan": EvaluationPlan("elsewhere", {"s": None}), "model": "s"}, "made for push.target 'elsewhere', not"),
        ({"plan": EvaluationPlan("elsewhere", {"s": None}), "model": "m"}, "one of the plan's, s, teacher, got 'm'"),
    ],
)
def test_a_part_that_cannot_be_is_refused_before_anything_is_read(tmp_path, config, part, message):
    with pytest.raises(UserError, match=message):
        run(tmp_path, config, "part", **part)


def test_a_version_without_a_config_is_told_by_its_place(evaluated, tmp_path):
    shutil.copytree(evaluated / "pushed", tmp_path / "pushed")
    pointer = read_pointer(open_storage(str(tmp_path / "pushed")), "s")
    (tmp_path / "pushed" / "s" / "versions" / pointer.version / "config.json").unlink()
    with pytest.raises(UserError, match=r"config\.json is missing: roll back to another version of s"):
        plan_evaluation(evaluated / "students", str(tmp_path / "pushed"))


@pytest.mark.slow
def test_the_commands_do_the_same(evaluated, tmp_path):
    recipe = ["--set", f"push.target={evaluated / 'pushed'}"]
    command = [sys.executable, "-m", "components.evaluate.plan", *recipe, "--students", str(evaluated / "students")]
    planned = subprocess.run([*command, "--output", str(tmp_path / "plan.json")], capture_output=True, text=True)
    assert planned.stdout.split() == ["s", "xl", "teacher", "baseline-s", "baseline-xl"], planned.stderr
    command = [sys.executable, "-m", "components.evaluate.merge", "--output", str(tmp_path / "merged"), "--parts"]
    merged = subprocess.run(
        [*command, *map(str, (evaluated / "parts").iterdir())], capture_output=True, text=True, check=False
    )
    assert merged.returncode == 0, merged.stderr
    assert open_artifact(tmp_path / "merged", "EvaluationReport").digest
    command = [sys.executable, "-m", "components.evaluate", "--plan", str(tmp_path / "none"), "--output", "x"]
    refused = subprocess.run(
        [*command, "--dataset", "x", "--students", "x", "--model", "s"], capture_output=True, text=True
    )
    assert refused.returncode == 2
    assert refused.stderr.startswith(f"error: cannot read the plan {tmp_path / 'none'}: No such file or directory")


@pytest.mark.slow
def test_the_wrappers_fan_out_and_in_under_kfp(evaluated, config, tmp_path, monkeypatch):
    """kfp's own ParallelFor and Collected, each step in its own process. The plan is the pipeline's parameter here:
    kfp.local 2.17 puts the loop's item in the place of every task's output that a loop is given."""
    from kfp import dsl, local

    from components.evaluate import component
    from components.evaluate.component import merge_evaluations as merge
    from components.evaluate.component import plan_evaluation as plan

    paths = {name: str(evaluated / name) for name in ("dataset", "students", "teacher")}
    push_config = json.dumps({"target": str(tmp_path / "nothing")})

    @dsl.pipeline(name="fan-out")
    def fan_out(store: str, planned: str, models: list) -> dsl.Artifact:
        dataset = dsl.importer(artifact_uri=paths["dataset"], artifact_class=dsl.Dataset).output
        students = dsl.importer(artifact_uri=paths["students"], artifact_class=dsl.Model).output
        teacher = dsl.importer(artifact_uri=paths["teacher"], artifact_class=dsl.Model).output
        with dsl.ParallelFor(models) as model:
            part = component.evaluate(
                config=config.to_json(),
                score_teacher_config="{}",
                push_config=push_config,
                store=store,
                dataset=dataset,
                students=students,
                teacher_checkpoint=teacher,
                plan=planned,
                model=model,
            )
        return merge(store=store, parts=dsl.Collected(part.outputs["report"])).outputs["report"]

    planned, models = plan.python_func(push_config, SimpleNamespace(path=paths["students"]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(tmp_path / "kfp"))
    task = fan_out(store=str(tmp_path / "store"), planned=planned, models=models)
    merged = open_artifact(task.output.path, "EvaluationReport")
    assert merged.metadata["models"] == ["s", "xl", "teacher"]
    for name in ("s", "xl", "teacher"):  # what is served does not change the questions
        file = f"documents/{name}.jsonl"
        assert (merged.path / file).read_bytes() == (evaluated / "whole" / file).read_bytes()
