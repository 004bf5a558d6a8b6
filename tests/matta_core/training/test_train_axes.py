"""Training on every family and axis: each size learns, and what is extracted is certified."""

import dataclasses
import json

import pytest
import torch
from support import TRAINING, granularity

from components.extract_students.step import extract_students
from components.train.step import train
from matta_core.nesting.live import live_student
from matta_core.objectives import OBJECTIVE
from matta_core.pretrained import load_model
from matta_core.recipe import ConsolidationConfig, DrawnConfig, ExtractStudentsConfig, LossConfig, SizeConfig
from matta_core.students.certify import sample
from matta_core.training.passes import PassSettings, error_sum

LLAMA_LIKE = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2}
HEADS_AND_DEPTH = {
    "s": SizeConfig(intermediate_size=8, num_attention_heads=1, num_key_value_heads=1, num_hidden_layers=2),
    "m": SizeConfig(intermediate_sizes=(16, 24), num_key_value_heads=1, layers=(0, 2)),
    "l": SizeConfig(intermediate_size=24),
    "xl": SizeConfig(intermediate_size=32),
}
MODELS = {
    "llama": LLAMA_LIKE,
    "qwen2": LLAMA_LIKE,
    "qwen3": {**LLAMA_LIKE, "head_dim": 4},
    "phi3": LLAMA_LIKE,
    "gemma3_text": {**LLAMA_LIKE, "head_dim": 4, "query_pre_attn_scalar": 4, "sliding_window": 8},
}


@pytest.mark.slow
@pytest.mark.parametrize("model_type", MODELS)
def test_each_size_of_each_family_learns_and_is_certified(model_type, dataset, tmp_path):
    config = dataclasses.replace(
        TRAINING,
        model={"model_type": model_type, **MODELS[model_type]},
        sizes=HEADS_AND_DEPTH,
        shares="all",
        steps=60,
        checkpoint_every_steps=60,
        loss=LossConfig(teacher_weight=0.0, hidden_state_weight=0.1),
    )
    checkpoint = train(config, dataset.path, None, output=tmp_path / "run")
    rows = [json.loads(line) for line in (checkpoint.path / "metrics.jsonl").read_text().splitlines()]
    evaluated = [row for row in rows if "eval/cross_entropy/s" in row]
    for size in config.sizes:
        assert evaluated[-1][f"eval/cross_entropy/{size}"] < 0.8 * evaluated[0][f"eval/cross_entropy/{size}"], size
    family = extract_students(ExtractStudentsConfig(), checkpoint.path, dataset.path, output=tmp_path / "students")
    students = json.loads((family.path / "family.json").read_text())["students"]
    assert list(students) == ["s", "m", "l", "xl"]
    for name, student in students.items():
        certificate = student["certificate"]
        assert certificate["bitwise_equal"] or name == "m", (name, certificate)
        assert certificate["max_abs_difference"] < 1e-5


def test_sizes_that_no_recipe_names_learn_where_widths_are_drawn(dataset, tmp_path):
    """A width that was never trained is worse than its neighbours; with drawn widths it lies between them."""
    losses = {}
    for number in (0, 2):
        config = dataclasses.replace(
            TRAINING,
            sizes={"s": 8, "xl": 64},
            steps=120,
            nest_from=0.0,
            drawn=DrawnConfig(number=number),
            consolidation=ConsolidationConfig(0.0),
        )
        trained = train(config, dataset.path, None, output=tmp_path / str(number))
        ta = load_model(trained.path / "ta", "AutoModelForCausalLM", torch.float32).eval()
        between = live_student(ta, granularity(ta, intermediate_size=32)).eval()
        batch = sample(OBJECTIVE, dataset, 6)
        losses[number] = error_sum(OBJECTIVE, between, batch, PassSettings()).item()
        rows = [json.loads(line) for line in (trained.path / "metrics.jsonl").read_text().splitlines()]
        assert any("train/cross_entropy/drawn.1" in row for row in rows) == bool(number)
    assert losses[2] < losses[0]
