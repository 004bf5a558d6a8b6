import sys

import pytest
import torch
from transformers import AutoConfig

from benchmarks import paper_size
from components.common.command_line import DEFAULT_RECIPE, load_recipe
from matta_core.beginning.fit import _FUNCTION, _differing
from matta_core.checkpoints import build_model
from matta_core.errors import UserError
from matta_core.families import FAMILIES
from matta_core.model_config import build_config
from matta_core.nesting.config import student_config
from matta_core.nesting.cost import num_parameters
from matta_core.nesting.size import resolve
from matta_core.objectives import OBJECTIVE

RECIPES = DEFAULT_RECIPE.parent
# The shapes of the checkpoints on the hub that the recipes start from, by their config.json.
GPT2_MEDIUM = {"model_type": "gpt2", "n_embd": 1024, "n_head": 16, "n_layer": 24, "n_positions": 1024}
QWEN3_0_6B = {
    "model_type": "qwen3",
    "attention_bias": False,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "max_position_embeddings": 40960,
    "num_attention_heads": 16,
    "num_hidden_layers": 28,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-6,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": None,
    "tie_word_embeddings": True,
    "use_sliding_window": False,
    "vocab_size": 151936,
}
SHAPE = ("num_hidden_layers", "num_attention_heads", "num_key_value_heads", "max_position_embeddings")


@pytest.mark.parametrize(
    ("name", "checkpoint", "parameters"),
    [("gpt2_medium", GPT2_MEDIUM, 354_823_168), ("qwen3_0_6b", QWEN3_0_6B, 596_049_920)],
)
def test_a_recipes_student_is_the_checkpoint_that_it_starts_from(name, checkpoint, parameters):
    recipe = load_recipe(RECIPES / f"{name}.yaml")
    config = recipe.train
    ta_config = build_config(config.model, config.sizes[config.ta], None, recipe.prepare_data.sequence_length)
    student = resolve(ta_config, config.sizes)[config.student]
    with torch.device("meta"):
        ta = build_model(ta_config, 0, OBJECTIVE.model_class)
    assert num_parameters(ta, student) == parameters
    theirs, ours = AutoConfig.for_model(**checkpoint), student_config(ta_config, student)
    assert _differing(theirs, ours, (*_FUNCTION, *SHAPE)) == []
    family = FAMILIES[ours.model_type]
    for key in (*family.keys, *family.features):
        assert family.count(ours, key) == family.count(theirs, key), key
    width = checkpoint.get("intermediate_size", 4096)
    assert set(student.by_layer["intermediate_size"]) == {width}
    assert family.count(ta_config, "intermediate_size") == 2 * width


def run(monkeypatch, *arguments):
    tiny = ["train.model.vocab_size=64", "train.sizes={s: 32, xl: 64}"]
    options = ["--recipe", str(RECIPES / "smoke.yaml"), *(word for one in tiny for word in ("--set", one))]
    monkeypatch.setattr(sys, "argv", ["paper_size", *(() if "--recipe" in arguments else options), *arguments])
    with pytest.raises(SystemExit) as end:
        paper_size.main()
    return end.value.code


@pytest.mark.slow
def test_steps_are_taken_and_the_student_is_certified_and_loads(monkeypatch, tmp_path, capsys):
    assert run(monkeypatch, "--output", str(tmp_path)) == 0
    output = capsys.readouterr()
    assert [line.split(":")[0] for line in output.err.splitlines() if "GiB" in line] == [
        "build the TA",
        "step 1",
        "step 2",
        "extract s",
        "certify s",
        "load s with stock transformers",
    ]
    assert "within 16 GiB" in output.out
    assert list(tmp_path.iterdir()) == []


def test_more_memory_than_the_limit_is_a_failure(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(paper_size, "check_student", lambda *_: None)
    assert run(monkeypatch, "--limit-gib", "0.1", "--output", str(tmp_path)) == 1
    assert "ABOVE 0.1 GiB" in capsys.readouterr().out


def test_a_student_that_is_not_the_live_one_stops_it(monkeypatch, tmp_path):
    monkeypatch.setattr(paper_size, "certify", lambda *_: {"bitwise_equal": False})
    with pytest.raises(AssertionError, match="s differs from the live student"):
        run(monkeypatch, "--output", str(tmp_path))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "0"], "--steps must be >= 1, got 0"),
        (["--sequence-length", "65"], "--sequence-length must be <= prepare_data.sequence_length = 64, got 65"),
        (["--recipe", str(RECIPES / "demo.yaml")], "has no train.model.vocab_size"),
    ],
)
def test_a_mistake_is_told(monkeypatch, arguments, message):
    with pytest.raises(UserError, match=message):
        run(monkeypatch, *arguments)
