"""The seam: an objective that knows no next token trains, is scored by a Teacher, validated and certified by the same
code. Two scores of each sequence, on the state of its last token: a stock sequence classifier, by least squares."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from support import SEQUENCE_LENGTH, TRAINING, make_dataset
from transformers import AutoModelForSequenceClassification, GPT2Config

from matta_core.artifacts import finish_artifact
from matta_core.beginning.importance import measure, sort_by
from matta_core.checkpoints import build_model
from matta_core.nesting.cost import num_parameters
from matta_core.nesting.live import live_student
from matta_core.nesting.size import resolve
from matta_core.objectives.divergences import hidden_state_mse
from matta_core.recipe import ExtractStudentsConfig, LossConfig, ScoreTeacherConfig
from matta_core.recipe.extraction import MixConfig
from matta_core.students import extract
from matta_core.students.certify import certify
from matta_core.students.mix import mix, prefill_seconds, space_of
from matta_core.teacher import score_teacher
from matta_core.train import train
from matta_core.training.step import train_step, training_of

LOSS = LossConfig(ta_weight=0.7, cross_entropy_weight=0.4, teacher_weight=0.6, hidden_state_weight=0.3)
CONFIG = dataclasses.replace(
    TRAINING, sizes={"s": 8, "m": 16, "xl": 32}, shares="all", nest_from=0.0, steps=60, loss=LOSS
)
NO_TEACHER = dataclasses.replace(LOSS, teacher_weight=0.0)


@dataclasses.dataclass(frozen=True)
class Scores:
    """Both (sequences, 2)."""

    wanted: torch.Tensor
    teacher: torch.Tensor | None

    def __getitem__(self, chunk):
        return Scores(self.wanted[chunk], None if self.teacher is None else self.teacher[chunk])


def squares(ours, theirs):
    return (ours - theirs).square().sum()


class TwoScores:
    """See `Objective`."""

    model_class = "AutoModelForSequenceClassification"
    columns = ("input_ids", "scores")
    teacher_columns = ("teacher_scores",)
    figure = "squared_error"
    figure_title = "squared error per sequence"
    own_terms = {"squared_error": "cross_entropy", "teacher_error": "teacher"}  # noqa: RUF012
    ta_terms = {"ta_error": "distillation", "hidden_state_mse": "hidden_state"}  # noqa: RUF012
    tasks = ()

    def num_targets(self, sequences, _sequence_length):
        return sequences

    def num_tokens(self, batch):
        return batch["input_ids"].numel()

    def states(self, model, batch):
        states = model.base_model(input_ids=batch["input_ids"], use_cache=False).last_hidden_state[:, -1]
        return states, Scores(batch["scores"], batch.get("teacher_scores"))

    def outputs(self, model, states):
        return model.score(states).float()

    def lesson(self, ta, _config):
        return ta

    def loss(self, own, ta, targets, weights, _config):
        terms = {"squared_error": self.error(own, targets)}
        if targets.teacher is not None and "teacher_error" in weights:
            terms["teacher_error"] = squares(own.outputs, targets.teacher)
        if ta is not None and "ta_error" in weights:
            terms["ta_error"] = squares(own.outputs, ta.outputs)
        if ta is not None and "hidden_state_mse" in weights:
            terms["hidden_state_mse"] = hidden_state_mse(own.states, ta.states, torch.ones(len(own.states)) > 0)
        total = sum(weights[term] * value for term, value in terms.items())
        return total, {term: value.detach() for term, value in terms.items()}

    def error(self, own, targets):
        return squares(own.outputs, targets.wanted)

    def figures(self, mean):
        return {"squared_error": mean}

    def answers(self, model, batch):
        for sequence in batch["input_ids"].split(1):
            yield model(input_ids=sequence).logits

    def reference(self, model, batch):
        question = batch["input_ids"][:1].contiguous()
        return {"input_ids": question, "scores": model(input_ids=question).logits}

    def check_model(self, model, name_or_path):
        pass

    def check_teacher(self, *_):
        pass

    def score_schema(self, _config, _sequence_length):
        return pa.schema({"teacher_scores": pa.list_(pa.float32(), 2)})

    def scores(self, own, _config, _num_ids):
        return {"teacher_scores": own.outputs}

    def pack(self, scores):
        return {name: values.numpy() for name, values in scores.items()}

    def unpack(self, columns):
        return columns


OBJECTIVE = TwoScores()


def tiny_scorer(seed=0):
    config = GPT2Config(vocab_size=50, n_embd=16, n_layer=3, n_head=2, n_inner=32, n_positions=16, pad_token_id=None)
    config.update({"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "initializer_range": 0.2})
    return build_model(config, seed, OBJECTIVE.model_class)


def random_batch(sequences=6):
    random = torch.Generator().manual_seed(0)
    scores = {name: torch.randn(sequences, 2, generator=random) for name in ("scores", "teacher_scores")}
    return {"input_ids": torch.randint(50, (sequences, SEQUENCE_LENGTH), generator=random), **scores}


class Recorder:
    """An optimizer that keeps the gradients that it is given."""

    def __init__(self, model):
        self.param_groups, self.model = [{}], model

    def step(self):
        self.gradients = {name: parameter.grad.clone() for name, parameter in self.model.named_parameters()}

    def zero_grad(self):
        self.model.zero_grad()


def taken(batches, head_chunk_tokens=4096):
    """One step: its training, its sums and its gradients."""
    ta = tiny_scorer()
    config = dataclasses.replace(CONFIG, batch_size=6, max_grad_norm=1e9, head_chunk_tokens=head_chunk_tokens)
    training = training_of(config, OBJECTIVE, ta, resolve(ta.config, config.sizes), Recorder(ta), SEQUENCE_LENGTH)
    return training, train_step(training, 0, batches), training.optimizer.gradients


def states_of(model):
    return model.base_model(input_ids=random_batch()["input_ids"], use_cache=False).last_hidden_state[:, -1]


def test_the_heads_gradient_is_that_of_least_squares_and_each_sum_is_its_sum():
    """With H the states and R the residuals, R^T H: of all models, since the head is shared whole."""
    training, sums, gradients = taken([random_batch()])
    ta, wanted, teacher = training.ta, random_batch()["scores"], random_batch()["teacher_scores"]
    with torch.no_grad():
        ta_states = states_of(ta)
        ta_scores = ta.score(ta_states)
        residuals = 0.4 * (ta_scores - wanted) + 0.6 * (ta_scores - teacher)
        expected = 0.7 * 2 * residuals.T @ ta_states / 6
        for name, student in training.students.items():
            states = states_of(student)
            ours = ta.score(states)
            residuals = 0.4 * (ours - wanted) + 0.6 * (ours - teacher) + 0.5 * (ours - ta_scores)
            expected += 2 * residuals.T @ states / (6 * 2)
            for term, target in (("squared_error", wanted), ("teacher_error", teacher), ("ta_error", ta_scores)):
                assert sums[f"{term}/{name}"].item() == pytest.approx(squares(ours, target).item(), rel=1e-5)
    torch.testing.assert_close(gradients["score.weight"], expected, rtol=1e-4, atol=1e-6)
    assert len(training.students) == 2


def test_all_gradients_are_those_of_the_joint_loss_in_one_graph():
    training, _, gradients = taken([random_batch()])
    ta, batch = training.ta, random_batch()

    def own(model):
        states = states_of(model)
        ours = ta.score(states)
        return states, ours, 0.4 * squares(ours, batch["scores"]) + 0.6 * squares(ours, batch["teacher_scores"])

    ta_states, ta_scores, total = own(ta)
    total = 0.7 * total
    for student in training.students.values():
        states, ours, share = own(student)
        matched = (states - ta_states.detach()).square().mean(-1).sum()
        total = total + (share + 0.5 * squares(ours, ta_scores.detach()) + 0.3 * matched) / 2
    (total / 6).backward()
    for name, parameter in ta.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-4, atol=1e-6, msg=name)


def test_chunks_and_micro_batches_change_no_gradient():
    _, _, whole = taken([random_batch()])
    parts = [{name: rows[part] for name, rows in random_batch().items()} for part in (slice(0, 1), slice(1, 6))]
    for _, _, gradients in (taken([random_batch()], head_chunk_tokens=4), taken(parts)):
        for name, gradient in whole.items():
            torch.testing.assert_close(gradients[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """The counting sequences, each with two scores of its first and its last token."""
    path = tmp_path_factory.mktemp("data") / "dataset"
    plain = make_dataset(path)
    (path / "manifest.json").unlink()
    for shard in path.glob("*/*.parquet"):
        table = pq.read_table(shard)
        tokens = np.array(table.column("input_ids").to_pylist())
        scores = pa.array((tokens[:, [0, -1]] / 128 - 1).astype(np.float32).reshape(-1))
        pq.write_table(table.append_column("scores", pa.FixedSizeListArray.from_arrays(scores, 2)), shard)
    return finish_artifact(path, "TokenizedDataset", key="1" * 64, metadata=plain.metadata)


@pytest.fixture(scope="module")
def family(dataset, tmp_path_factory):
    """A Teacher, its scores, a TA with two students, and these: as the steps make them."""
    folder = tmp_path_factory.mktemp("family")

    def trained(name, config, scores):
        (folder / name).mkdir()
        facts = train(config, dataset, scores, folder / name, folder / f"work-{name}", objective=OBJECTIVE)
        return finish_artifact(folder / name, "MattaCheckpoint", key=name, metadata=facts)

    of_teacher = dataclasses.replace(CONFIG, sizes={"teacher": 64}, student="teacher", loss=NO_TEACHER)
    teacher = trained("teacher", of_teacher, None)
    (folder / "scores").mkdir()
    score_teacher(ScoreTeacherConfig(), teacher.path / "ta", dataset, folder / "scores", objective=OBJECTIVE)
    scores = finish_artifact(folder / "scores", "TeacherScores", key="s", inputs={"dataset": dataset.digest})
    checkpoint = trained("ta", CONFIG, scores)
    (folder / "students").mkdir()
    extract.extract_students(ExtractStudentsConfig(), checkpoint, dataset, folder / "students", objective=OBJECTIVE)
    return SimpleNamespace(teacher=teacher, scores=scores, checkpoint=checkpoint, students=folder / "students")


def test_every_size_learns_and_its_error_is_told_by_its_name(family):
    rows = [json.loads(line) for line in (family.checkpoint.path / "metrics.jsonl").read_text().splitlines()]
    evaluated = [row for row in rows if "eval/squared_error/s" in row]
    for size in CONFIG.sizes:
        assert evaluated[-1][f"eval/squared_error/{size}"] < 0.2 * evaluated[0][f"eval/squared_error/{size}"]
    terms = {"train/squared_error/xl", "train/teacher_error/m", "train/ta_error/s", "train/hidden_state_mse/s"}
    assert terms <= rows[-2].keys() | rows[-1].keys()
    assert not any("cross_entropy/" in name or "perplexity" in name for row in rows for name in row)


def test_the_teachers_scores_are_its_answers(family, dataset):
    teacher = AutoModelForSequenceClassification.from_pretrained(family.teacher.path / "ta").eval()
    for shard in sorted((dataset.path / "train").glob("*.parquet")):
        scores = pq.read_table(family.scores.path / "train" / shard.name).column("teacher_scores").to_pylist()
        input_ids = torch.tensor(pq.read_table(shard).column("input_ids").to_pylist())
        with torch.no_grad():
            expected = torch.cat([teacher(input_ids=sequence).logits for sequence in input_ids.split(1)])
        torch.testing.assert_close(torch.tensor(scores), expected, rtol=1e-5, atol=1e-6)


def test_each_student_is_certified_as_the_live_one_and_answers_its_reference_with_transformers_alone(family):
    written = json.loads((family.students / "family.json").read_text())["students"]
    assert list(written) == ["s", "m", "xl"]
    for name, entry in written.items():
        assert entry["certificate"]["bitwise_equal"] is True
        assert entry["certificate"]["sequences"] == 4
        model = AutoModelForSequenceClassification.from_pretrained(family.students / name).eval()
        reference = load_file(family.students / entry["reference"])
        with torch.no_grad():
            assert torch.equal(model(input_ids=reference["input_ids"]).logits, reference["scores"])


def test_the_certificate_sees_one_wrong_weight_of_the_head(tmp_path):
    ta = tiny_scorer().eval()
    size = resolve(ta.config, CONFIG.sizes)["s"]
    student = extract.extract_student(ta, size)
    with torch.no_grad():
        student.score.weight[1, 3] += 1e-3
    student.save_pretrained(tmp_path)
    certificate = certify(OBJECTIVE, ta, size, tmp_path, random_batch())
    assert certificate["bitwise_equal"] is False
    with torch.no_grad():
        states = states_of(live_student(ta, size).eval())
    assert certificate["max_abs_difference"] == pytest.approx(1e-3 * states[:, 3].abs().max().item(), rel=1e-2)


def test_importance_and_mixtures_ask_the_objective_alone():
    ta, batch = tiny_scorer().eval(), random_batch()
    with torch.no_grad():
        before = torch.cat(list(OBJECTIVE.answers(ta, batch)))
        sort_by(ta, measure(ta, [batch], OBJECTIVE))
        torch.testing.assert_close(torch.cat(list(OBJECTIVE.answers(ta, batch))), before, rtol=1e-4, atol=1e-5)
    sizes = resolve(ta.config, CONFIG.sizes)
    least = prefill_seconds(OBJECTIVE, ta, sizes["s"], batch)
    assert 0 < least < 1
    budget = MixConfig(parameters=num_parameters(ta, sizes["m"]))
    _, found = mix(OBJECTIVE, ta, space_of(OBJECTIVE, ta, sizes, "s", "mid", budget, batch), 50)
    assert found["ended"] == "exhaustive"
    with torch.no_grad():
        students = {name: live_student(ta, sizes[name]).eval() for name in ("s", "m")}
        errors = [squares(ta.score(states_of(student)), batch["scores"]).item() / 6 for student in students.values()]
    assert found["loss"] <= min(errors) + 1e-5
