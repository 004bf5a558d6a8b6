import json
import math
import subprocess
import sys

import pytest
import torch
from transformers import AutoModelForCausalLM

from components.evaluate import scoring
from components.evaluate.step import evaluate
from matta_core.artifacts import finish_artifact, open_artifact
from matta_core.errors import UserError


@pytest.fixture(scope="module")
def finished(tmp_path_factory, make_artifacts, config):
    """A folder with dataset, students, teacher, and their finished report."""
    root = tmp_path_factory.mktemp("evaluate")
    make_artifacts(root)
    run(root, config)
    return root


def run(root, config, output="report", **teacher):
    teacher = teacher or {"teacher_checkpoint": root / "teacher"}
    return evaluate(config, root / "dataset", root / "students", **teacher, output=root / output)


def read_lines(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def results_of(report):
    return json.loads((report / "results.json").read_text())


def nats(model, tokens, first):
    """The negative log-likelihood of tokens[first:], computed by torch alone."""
    with torch.no_grad():
        log_probs = model(torch.tensor([tokens[:-1]])).logits[0].log_softmax(-1)
    return [-log_probs[position - 1, tokens[position]].item() for position in range(first, len(tokens))]


def test_students_ta_and_teacher_are_in_the_report(finished):
    models = results_of(finished / "report")["models"]
    assert {name: model["role"] for name, model in models.items()} == {"s": "student", "xl": "ta", "teacher": "teacher"}
    assert models["s"]["parameters"] < models["xl"]["parameters"] < models["teacher"]["parameters"]
    assert all(model["tokens_per_second"] > 0 for model in models.values())


def test_parameters_count_a_tied_head_once(finished):
    model = AutoModelForCausalLM.from_pretrained(finished / "students" / "s")
    assert results_of(finished / "report")["models"]["s"]["parameters"] == model.num_parameters()


def test_the_last_token_is_scored_as_torch_scores_it(finished, tokenizer):
    questions = read_lines(finished / "report" / "tasks" / "matta_last_token.jsonl")
    for name, folder in {"s": "students/s", "teacher": "teacher/ta"}.items():
        model = AutoModelForCausalLM.from_pretrained(finished / folder).eval()
        answers = read_lines(finished / "report" / "documents" / f"{name}.jsonl")
        answers = [row for row in answers if row["task"] == "matta_last_token"]
        for question, answer in zip(questions, answers, strict=True):
            tokens = tokenizer.encode(question["context"] + question["target"])
            (expected,) = nats(model, tokens, len(tokens) - 1)
            assert answer["log_likelihood"] == pytest.approx(-expected, abs=1e-4)
            with torch.no_grad():
                greedy = model(torch.tensor([tokens[:-1]])).logits[0, -1].argmax().item()
            assert answer["correct"] == (greedy == tokens[-1])


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
        figure = results_of(finished / "report")["models"][name]["bits_per_byte"]
        assert figure["value"] == pytest.approx(bits / sum(len(text.encode()) for text in texts), rel=1e-5)
        assert figure["standard_error"] > 0


def test_all_models_answer_the_same_questions(finished):
    questions = [
        [(row["task"], row["doc_id"], row["document"], row["bytes"]) for row in read_lines(file)]
        for file in sorted((finished / "report" / "documents").iterdir())
    ]
    assert len(questions) == 3
    assert questions[0] == questions[1] == questions[2]


def test_a_teacher_that_is_a_folder_gives_the_same_figures(finished, config):
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
    assert sorted(tasks) == ["matta_bits_per_byte", "matta_last_token"]


def test_a_killed_evaluation_goes_on_with_the_next_model(finished, tmp_path, make_artifacts, config, monkeypatch):
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
    with pytest.raises(UserError, match="not finished"):
        open_artifact(tmp_path / "report", "EvaluationReport")

    again = []
    monkeypatch.setattr(scoring, "score", lambda *arguments: again.append(1) or real_score(*arguments))
    run(tmp_path, config)
    assert len(again) == 2  # of three models
    for file in ("s.jsonl", "xl.jsonl", "teacher.jsonl"):
        whole = (finished / "report" / "documents" / file).read_text()
        assert (tmp_path / "report" / "documents" / file).read_text() == whole


def test_a_student_that_is_broken_has_no_figure_and_the_others_do(tmp_path, make_artifacts, config):
    def break_s(name, model):
        if name == "s":
            torch.nn.init.constant_(model.transformer.ln_f.weight, math.nan)

    make_artifacts(tmp_path, break_s)
    run(tmp_path, config)
    models = results_of(tmp_path / "report")["models"]
    assert models["s"]["bits_per_byte"]["value"] is None
    assert models["xl"]["bits_per_byte"]["value"] > 0
    assert "NaN" not in (tmp_path / "report" / "documents" / "s.jsonl").read_text()


def test_finished_work_is_reused_without_loading_torch(finished, config):
    code = (
        "import sys; from components.evaluate.step import evaluate; from matta_core.config import EvaluateConfig;"
        f"r = {str(finished)!r}; config = EvaluateConfig.from_json({config.to_json()!r});"
        "evaluate(config, r + '/dataset', r + '/students', teacher_checkpoint=r + '/teacher', output=r + '/report');"
        "print([name for name in ('torch', 'transformers', 'lm_eval', 'pyarrow') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"[evaluate] reused {finished / 'report'}", "[]"]


@pytest.mark.parametrize("both", [True, False])
def test_exactly_one_teacher_is_needed(finished, config, both):
    checkpoint = finished / "teacher"
    teachers = {"teacher": "gpt2", "teacher_checkpoint": checkpoint} if both else {"teacher": None}
    with pytest.raises(UserError, match=r"either a teacher .* or a teacher_checkpoint"):
        run(finished, config, "other", **teachers)


def test_a_teacher_that_is_no_checkpoint_is_named(finished, tmp_path, config):
    with pytest.raises(UserError, match=f"cannot load a model from {tmp_path}"):
        run(finished, config, "other", teacher=str(tmp_path))


def test_the_component_writes_report_and_metrics(finished, config):
    from kfp import dsl

    from components.evaluate.component import evaluate as component

    report = dsl.Artifact(name="report", uri=str(finished / "report"))
    metrics = dsl.Metrics(name="metrics", uri=str(finished / "metrics"))
    component.python_func(
        config=config.to_json(),
        score_teacher_config="{}",
        store="",
        dataset=dsl.Dataset(uri=str(finished / "dataset")),
        students=dsl.Model(uri=str(finished / "students")),
        teacher_checkpoint=dsl.Model(uri=str(finished / "teacher")),
        report=report,
        metrics=metrics,
    )
    figures = results_of(finished / "report")["models"]
    assert metrics.metadata["bits_per_byte/s"] == figures["s"]["bits_per_byte"]["value"]
    assert metrics.metadata["accuracy/teacher"] == figures["teacher"]["accuracy"]["value"]
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
