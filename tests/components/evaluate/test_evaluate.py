import json
import math
import subprocess
import sys

import pytest
import torch
from transformers import AutoModelForCausalLM

from components.common.served.versions import content_digest
from components.evaluate import scoring
from components.evaluate.figures import summarise
from components.evaluate.step import evaluate
from matta_core.artifacts import finish_artifact, open_artifact
from matta_core.errors import UserError


@pytest.fixture(scope="module")
def finished(tmp_path_factory, make_artifacts, config):
    """A folder with dataset, students, teacher, and their finished report; nothing is served yet."""
    root = tmp_path_factory.mktemp("evaluate")
    make_artifacts(root)
    run(root, config, push_target=str(root / "pushed"))
    return root


def run(root, config, output="report", push_target=None, **teacher):
    teacher = teacher or {"teacher_checkpoint": root / "teacher"}
    return evaluate(
        config, root / "dataset", root / "students", **teacher, push_target=push_target, output=root / output
    )


def read_lines(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def results_of(report):
    return json.loads((report / "results.json").read_text())


def values_of(report, name, task):
    return [row["value"] for row in read_lines(report / "documents" / f"{name}.jsonl") if row["task"] == task]


def nats(model, tokens, first):
    """The negative log-likelihood of tokens[first:], computed by torch alone."""
    with torch.no_grad():
        log_probs = model(torch.tensor([tokens[:-1]])).logits[0].log_softmax(-1)
    return [-log_probs[position - 1, tokens[position]].item() for position in range(first, len(tokens))]


def test_students_ta_and_teacher_are_in_the_report(finished):
    results = results_of(finished / "report")
    models = results["models"]
    assert {name: (model["role"], model["size"]) for name, model in models.items()} == {
        "s": ("student", "s"),
        "xl": ("ta", "xl"),
        "teacher": ("teacher", None),
    }
    assert models["s"]["parameters"] < models["xl"]["parameters"] < models["teacher"]["parameters"]
    assert all(model["bytes"] == 4 * model["parameters"] for model in models.values())
    assert models["s"]["digest"] == content_digest(finished / "students" / "s")
    assert all(model["version"] is None for model in models.values())
    assert results["baselines"] == {"s": None, "xl": None}
    assert results["baseline_target"] == str(finished / "pushed")


def test_latency_and_memory_of_every_model_are_measured(finished):
    results = results_of(finished / "report")
    assert results["measured_on"] == {
        "device": "cpu", "threads": torch.get_num_threads(), "sequence_length": 16, "new_tokens": 16,
    }  # fmt: skip
    for model in results["models"].values():
        for batch_size in ("1", "8"):
            assert model["prefill"][batch_size]["seconds"] > 0
            assert model["decode"][batch_size]["seconds_per_token"] > 0
        # These models are of kilobytes; what torch takes at its first use is not to look like a model.
        assert 4 * model["parameters"] <= model["peak_memory_bytes"] < 2**27


def test_tasks_are_described(finished):
    results = results_of(finished / "report")
    bits, last = results["tasks"]["matta_bits_per_byte"], results["tasks"]["matta_last_token"]
    assert (bits["metric"], bits["unit"], bits["higher_is_better"]) == ("bits_per_byte", "bits per byte", False)
    assert (last["metric"], last["unit"], last["higher_is_better"]) == ("acc", "accuracy", True)
    assert (bits["questions"], bits["documents"]) == (6, 6)
    assert (last["questions"], last["documents"]) == (20, 8)
    for model in results["models"].values():
        assert model["tasks"].keys() == results["tasks"].keys()


def test_parameters_count_a_tied_head_once(finished):
    model = AutoModelForCausalLM.from_pretrained(finished / "students" / "s")
    assert results_of(finished / "report")["models"]["s"]["parameters"] == model.num_parameters()


def test_the_last_token_is_right_where_torch_says_so(finished, tokenizer):
    questions = read_lines(finished / "report" / "tasks" / "matta_last_token.jsonl")
    for name, folder in {"s": "students/s", "teacher": "teacher/ta"}.items():
        model = AutoModelForCausalLM.from_pretrained(finished / folder).eval()
        answers = values_of(finished / "report", name, "matta_last_token")
        for question, answer in zip(questions, answers, strict=True):
            tokens = tokenizer.encode(question["context"] + question["target"])
            with torch.no_grad():
                greedy = model(torch.tensor([tokens[:-1]])).logits[0, -1].argmax().item()
            assert answer == (greedy == tokens[-1])


def test_bits_per_byte_is_that_of_windows_as_long_as_the_model_sees(finished, tokenizer):
    texts = [row["text"] for row in read_lines(finished / "report" / "tasks" / "matta_bits_per_byte.jsonl")]
    for name, folder in {"xl": "students/xl", "teacher": "teacher/ta"}.items():
        model = AutoModelForCausalLM.from_pretrained(finished / folder).eval()
        length = model.config.max_position_embeddings
        bits = 0.0
        for text in texts:
            tokens = [tokenizer.bos_token_id, *tokenizer.encode(text)]
            # Each token once: the first window whole, then the last `length` before each further window's end.
            bits += sum(nats(model, tokens[: length + 1], 1)) / math.log(2)
            for start in range(length + 1, len(tokens), length):
                end = min(start + length, len(tokens))
                window = tokens[end - length - 1 : end]
                bits += sum(nats(model, window, len(window) - (end - start))) / math.log(2)
        figure = results_of(finished / "report")["models"][name]["tasks"]["matta_bits_per_byte"]
        assert figure["value"] == pytest.approx(bits / sum(len(text.encode()) for text in texts), rel=1e-5)
        assert figure["standard_error"] > 0


def test_all_models_answer_the_same_questions_in_the_same_order(finished):
    questions = [(row["task"], row["question"]) for row in read_lines(finished / "report" / "questions.jsonl")]
    assert questions == [("matta_bits_per_byte", index) for index in range(6)] + [
        ("matta_last_token", index) for index in range(20)
    ]
    files = sorted((finished / "report" / "documents").iterdir())
    assert [file.stem for file in files] == ["s", "teacher", "xl"]
    for file in files:
        assert [(row["task"], row["question"]) for row in read_lines(file)] == questions


def test_the_weights_of_bits_per_byte_are_the_documents_bytes(finished):
    texts = [row["text"] for row in read_lines(finished / "report" / "tasks" / "matta_bits_per_byte.jsonl")]
    weights = [row["weight"] for row in read_lines(finished / "report" / "questions.jsonl")]
    assert weights == [float(len(text.encode())) for text in texts] + [1.0] * 20


def test_a_figure_is_that_of_the_documents_file(finished):
    questions = read_lines(finished / "report" / "questions.jsonl")
    for name, model in results_of(finished / "report")["models"].items():
        values = [row["value"] for row in read_lines(finished / "report" / "documents" / f"{name}.jsonl")]
        assert summarise(questions, values) == model["tasks"]


def test_a_teacher_that_is_a_folder_gives_the_same_figures(finished, config, unmeasured):
    run(finished, config, "from_folder", teacher=str(finished / "teacher" / "ta"))
    for file in ("tasks/matta_last_token.jsonl", "documents/teacher.jsonl", "documents/s.jsonl"):
        assert (finished / "from_folder" / file).read_text() == (finished / "report" / file).read_text()
    assert results_of(finished / "from_folder")["evaluation_set"] == results_of(finished / "report")["evaluation_set"]


def test_the_tasks_can_be_run_from_where_the_artifact_was_moved(finished, tmp_path):
    from components.evaluate.tasks import load_tasks

    moved = tmp_path / "moved"
    moved.mkdir()
    for file in (finished / "report" / "tasks").iterdir():
        (moved / file.name).write_bytes(file.read_bytes())
    tasks = load_tasks(moved, tmp_path / "cache")
    assert [task.name for task in tasks] == ["matta_bits_per_byte", "matta_last_token"]


def test_a_killed_evaluation_goes_on_with_the_next_model(
    finished, tmp_path, make_artifacts, config, monkeypatch, unmeasured
):
    make_artifacts(tmp_path)
    real_score, scored = scoring.score, []

    def killed_at_the_second(model, *arguments):
        if len(scored) == 1:
            raise KeyboardInterrupt
        scored.append(sum(parameter.numel() for parameter in model.parameters()))
        return real_score(model, *arguments)

    monkeypatch.setattr(scoring, "score", killed_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, config)
    with pytest.raises(UserError, match="no finished artifact"):
        open_artifact(tmp_path / "report", "EvaluationReport")

    again = []
    monkeypatch.setattr(scoring, "score", lambda *arguments: again.append(1) or real_score(*arguments))
    run(tmp_path, config)
    assert len(again) == 2  # of three models
    for file in ("s.jsonl", "xl.jsonl", "teacher.jsonl"):
        whole = (finished / "report" / "documents" / file).read_text()
        assert (tmp_path / "report" / "documents" / file).read_text() == whole


@pytest.mark.slow
def test_answers_to_questions_that_the_hub_has_changed_meanwhile_are_not_kept(
    tmp_path, make_artifacts, config, monkeypatch, unmeasured
):
    make_artifacts(tmp_path)
    monkeypatch.setattr(scoring, "score", kill)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, config)
    monkeypatch.undo()
    (tmp_path / "report" / ".in_progress" / "evaluation_set").write_text("of other questions")
    (tmp_path / "report" / "documents" / "s.jsonl").write_text("answers to them")
    assert run(tmp_path, config).metadata["models"] == ["s", "xl", "teacher"]


def kill(*_):
    raise KeyboardInterrupt


def test_a_student_that_is_broken_has_no_figure_and_the_others_do(tmp_path, make_artifacts, config, unmeasured):
    def break_s(name, model):
        if name == "s":
            torch.nn.init.constant_(model.transformer.ln_f.weight, math.nan)

    make_artifacts(tmp_path, break_s)
    run(tmp_path, config)
    models = results_of(tmp_path / "report")["models"]
    for task in ("matta_bits_per_byte", "matta_last_token"):
        assert models["s"]["tasks"][task]["value"] is None
        assert set(values_of(tmp_path / "report", "s", task)) == {None}
        assert models["xl"]["tasks"][task]["value"] is not None
    assert models["s"]["decode"]["1"]["seconds_per_token"] > 0


def test_finished_work_is_reused_without_loading_torch(finished, config):
    code = (
        "import sys; from components.evaluate.step import evaluate; from matta_core.recipe import EvaluateConfig;"
        f"r = {str(finished)!r}; config = EvaluateConfig.from_json({config.to_json()!r});"
        "evaluate(config, r + '/dataset', r + '/students', teacher_checkpoint=r + '/teacher',"
        "push_target=r + '/pushed', output=r + '/report');"
        "print(sorted({'torch', 'transformers', 'lm_eval', 'pyarrow', 'google.cloud'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"[evaluate] reused {finished / 'report'}", "[]"]


@pytest.mark.parametrize("both", [True, False])
def test_exactly_one_teacher_is_needed(finished, config, both):
    checkpoint = finished / "teacher"
    teachers = {"teacher": "gpt2", "teacher_checkpoint": checkpoint} if both else {"teacher": None}
    with pytest.raises(UserError, match=r"either a teacher .* or, .* \(--teacher-checkpoint\)"):
        run(finished, config, "other", **teachers)


def test_a_teacher_that_is_no_checkpoint_is_named(finished, tmp_path, config):
    with pytest.raises(
        UserError,
        match=f"cannot load a config from {tmp_path}: .* Give a folder with config.json and model.safetensors",
    ):
        run(finished, config, "other", teacher=str(tmp_path))


def test_the_component_writes_report_and_metrics(finished, config):
    from kfp import dsl

    from components.evaluate.component import evaluate as component

    report = dsl.Artifact(name="report", uri=str(finished / "report"))
    metrics = dsl.Metrics(name="metrics", uri=str(finished / "metrics"))
    component.python_func(
        config=config.to_json(),
        score_teacher_config="{}",
        push_config=json.dumps({"target": str(finished / "pushed")}),
        store="",
        dataset=dsl.Dataset(uri=str(finished / "dataset")),
        students=dsl.Model(uri=str(finished / "students")),
        teacher_checkpoint=dsl.Model(uri=str(finished / "teacher")),
        report=report,
        metrics=metrics,
    )
    figures = results_of(finished / "report")["models"]
    for task in ("matta_bits_per_byte", "matta_last_token"):
        for name in ("s", "xl", "teacher"):
            assert metrics.metadata[f"{task}/{name}"] == figures[name]["tasks"][task]["value"]
    assert report.metadata["kind"] == "EvaluationReport"


def test_students_of_another_dataset_are_refused(tmp_path, make_artifacts, write, documents, tokenizer, config):
    """Of another vocabulary they would be scored on tokens that they never saw."""
    make_artifacts(tmp_path)
    write(tmp_path / "other", documents)
    tokenizer.save_pretrained(tmp_path / "other" / "tokenizer")
    finish_artifact(tmp_path / "other", "TokenizedDataset", key="1" * 64, metadata={"sequence_length": 8})
    with pytest.raises(UserError, match=r"students was extracted with another dataset than .*other: give the one"):
        evaluate(
            config, tmp_path / "other", tmp_path / "students", teacher_checkpoint=tmp_path / "teacher",
            output=tmp_path / "out",
        )  # fmt: skip


def test_the_students_own_ta_is_no_teacher(tmp_path, make_artifacts, config):
    """Its figures would stand in the report as the Teacher's."""
    make_artifacts(tmp_path)
    dataset = open_artifact(tmp_path / "dataset", "TokenizedDataset")
    ta = open_artifact(tmp_path / "teacher", "MattaCheckpoint")
    (tmp_path / "students" / "manifest.json").unlink()
    lineage = {"dataset": dataset.digest, "checkpoint": ta.digest}
    finish_artifact(tmp_path / "students", "StudentFamily", key="0" * 64, inputs=lineage)
    with pytest.raises(UserError, match=r"teacher is the TA that the students were cut from: give .* train_teacher"):
        run(tmp_path, config, "out", teacher_checkpoint=tmp_path / "teacher")
