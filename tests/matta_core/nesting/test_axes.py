"""An axis that no family has, as a table alone: everything that nests follows from it.

The model is Llama's, with a mixer in place of the FFN. Its heads lie in `in_proj` beside one another and beside a state
that all heads share, as a state-space model's do: values, gates, state.
"""

import json
from unittest import mock

import pytest
import torch
from support import byte_tokenizer, tiny_model
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, LlamaForCausalLM, PreTrainedConfig
from transformers.models.llama import modeling_llama

from components.extract_students.step import extract_students
from components.train.step import train
from matta_core.beginning.grow import grow
from matta_core.beginning.importance import measure, permute, sort_by
from matta_core.checkpoints import build_model
from matta_core.errors import UserError
from matta_core.families import FAMILIES
from matta_core.families.table import HEADS, Axis, Family
from matta_core.nesting.config import student_config
from matta_core.nesting.cost import flops_per_token, num_parameters
from matta_core.nesting.live import live_student
from matta_core.nesting.size import Granularity, resolve
from matta_core.nesting.slices import cuts, student_parameters, take
from matta_core.objectives import OBJECTIVE
from matta_core.recipe import ExtractStudentsConfig, MixConfig, SizeConfig, TrainConfig
from matta_core.students.certify import certify
from matta_core.students.compact import export_compact
from matta_core.students.extract import extract_student
from matta_core.training.precision import autocast_dtype

INPUT_IDS = torch.arange(32).reshape(2, 16)
CHANNELS = ("mixers", "mixer_size")
MIXERS = Axis(
    "mixers",
    keys={"mixers": "mixer"},
    parameters={
        "mlp.in_proj.weight": (0, [CHANNELS, ("state_size",), CHANNELS]),
        "mlp.in_proj.bias": (0, [CHANNELS, ("state_size",), CHANNELS]),
        "mlp.decay": (0, [("mixers",)]),
        "mlp.out_proj.weight": (1, [CHANNELS]),
    },
    output="mlp.out_proj",
)


class MixerConfig(PreTrainedConfig):
    """Llama's, but for the FFN: there is no `intermediate_size`."""

    model_type = "toy_mixer"
    vocab_size: int = 50
    hidden_size: int = 16
    num_hidden_layers: int = 2
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    head_dim: int = 4
    max_position_embeddings: int = 16
    initializer_range: float = 0.02
    rms_norm_eps: float = 1e-6
    hidden_act: str = "silu"
    use_cache: bool = True
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | None = None
    tie_word_embeddings: bool = False
    rope_parameters: dict | None = None
    attention_bias: bool = False
    attention_dropout: float = 0.0
    mixers: int = 4
    mixer_size: int = 3
    state_size: int = 5


class Mixer(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.channels, self.state_size = config.mixers * config.mixer_size, config.state_size
        self.in_proj = nn.Linear(config.hidden_size, 2 * self.channels + self.state_size)
        self.decay = nn.Parameter(torch.linspace(0.5, 1.5, config.mixers))
        self.out_proj = nn.Linear(self.channels, config.hidden_size, bias=False)

    def forward(self, states):
        values, state, gates = self.in_proj(states).split([self.channels, self.state_size, self.channels], dim=-1)
        heads = values.unflatten(-1, (len(self.decay), -1)) * self.decay[:, None]
        mixed = (heads * state.mean(-1)[..., None, None]).cumsum(1).flatten(2)
        return self.out_proj(mixed * gates.sigmoid())


class MixerForCausalLM(LlamaForCausalLM):
    config_class = MixerConfig

    def __init__(self, config):
        with mock.patch.object(modeling_llama, "LlamaMLP", Mixer):
            super().__init__(config)


AutoConfig.register("toy_mixer", MixerConfig)
AutoModelForCausalLM.register(MixerConfig, MixerForCausalLM)


@pytest.fixture
def ta(monkeypatch):
    monkeypatch.setitem(FAMILIES, "toy_mixer", Family("toy_mixer", axes=(HEADS, MIXERS)))
    return tiny_model("toy_mixer", num_hidden_layers=3).eval()


@pytest.fixture
def small(ta):
    size = SizeConfig(mixers=2, num_key_value_heads=1, layers=(0, 2))
    return resolve(ta.config, {"s": size, "xl": SizeConfig()})["s"]


def test_a_size_is_a_choice_on_it_that_survives_json(ta, small):
    assert small.kept == {"mixers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    assert student_config(ta.config, small).mixers == 2
    assert Granularity.from_dict("s", json.loads(json.dumps(small.to_dict()))) == small
    with pytest.raises(UserError, match="s has 5 mixers and the TA 4"):
        resolve(ta.config, {"s": SizeConfig(mixers=5), "xl": SizeConfig()})
    with pytest.raises(UserError, match=r"unknown setting sizes.s.mixer: known here are intermediate_size, .* mixers,"):
        SizeConfig.from_dict({"mixer": 2}, "sizes.s")
    llama = tiny_model("llama").config
    with pytest.raises(UserError, match=r"train.sizes.s.mixers: llama has none; its axes are intermediate_size, "):
        resolve(llama, {"s": SizeConfig(mixers=2), "xl": SizeConfig()})


def test_the_student_is_certified_and_counted(ta, small, tmp_path):
    student = extract_student(ta, small)
    student.save_pretrained(tmp_path)
    assert certify(OBJECTIVE, ta, small, tmp_path, {"input_ids": INPUT_IDS})["bitwise_equal"]
    assert num_parameters(ta, small) == sum(parameter.numel() for parameter in student.parameters())
    matrices = [p.numel() for p in student.model.layers.parameters() if p.dim() == 2] + [student.lm_head.weight.numel()]
    scores = 2 * 2 * 4  # of attention: layers, heads, and their size
    assert flops_per_token(ta, small, 16) == 2 * sum(matrices) + 4 * 16 * scores


def test_gradients_outside_of_the_slice_are_zero(ta, small):
    live_student(ta, small)(INPUT_IDS).logits.square().sum().backward()
    for _, name, parts in student_parameters(ta, small):
        gradient = ta.get_parameter(name).grad
        assert take(gradient, parts).count_nonzero() == gradient.count_nonzero() > 0, name
    rows = ta.model.layers[2].mlp.in_proj.weight.grad.abs().sum(1).nonzero().flatten().tolist()
    assert rows == [*range(6), *range(12, 17), *range(17, 23)]  # two of four mixers of three values, the state, gates
    assert ta.model.layers[1].mlp.in_proj.weight.grad is None


@torch.no_grad()
def test_a_ta_that_grew_from_the_student_computes_its_function(ta, small):
    student = extract_student(ta, small)
    grown = build_model(ta.config, seed=1, model_class=OBJECTIVE.model_class).eval()
    grow(grown, student, small)
    torch.testing.assert_close(grown(INPUT_IDS).logits, student(INPUT_IDS).logits, rtol=0, atol=1e-5)


@torch.no_grad()
def test_sorting_by_importance_keeps_the_function_whatever_the_order_was(ta):
    before = ta(INPUT_IDS).logits
    permute(ta, 0, MIXERS, [torch.tensor([2, 0, 3, 1])])
    torch.testing.assert_close(ta(INPUT_IDS).logits, before, rtol=0, atol=1e-5)
    sort_by(ta, measure(ta, [{"input_ids": INPUT_IDS}], OBJECTIVE))
    torch.testing.assert_close(ta(INPUT_IDS).logits, before, rtol=0, atol=1e-5)
    for scores in measure(ta, [{"input_ids": INPUT_IDS}], OBJECTIVE)["mixers"]:
        assert (scores.diff() <= 1e-6 * scores[0]).all()


def test_cuts_part_segments_and_sizes(ta, small):
    assert cuts(ta, [small])["model.layers.0.mlp.in_proj.weight"] == {0: [6, 12, 17, 23]}


SHAPE = {"model_type": "toy_mixer", "hidden_size": 16, "num_hidden_layers": 2}
HEADED = SHAPE | {"num_attention_heads": 2}


def recipe(model, sizes):
    """What a recipe's `train` says of four steps."""
    loss = {"teacher_weight": 0.0}
    short = {"steps": 4, "warmup_steps": 1, "batch_size": 8, "eval_sequences": 6, "loss": loss}
    return TrainConfig.from_dict({"model": model, "sizes": sizes, "student": "s", **short}, "train")


@pytest.mark.parametrize(
    ("model", "sizes", "number"),
    [
        (HEADED | {"mixers": 4}, {"s": {"mixers": 2}, "xl": {}}, "intermediate_size"),
        (HEADED, {"s": {"mixers": 2}, "xl": {"mixers": 4}}, "intermediate_size"),
        (SHAPE, {"s": {"mixers": 2}, "xl": {"mixers": 4, "num_attention_heads": 2}}, "intermediate_size"),
        (HEADED, {"s": 2, "xl": 4}, "mixers"),
    ],
)
def test_a_recipe_trains_and_cuts_out_what_has_no_ffn(model, sizes, number, ta, dataset, tmp_path, monkeypatch):
    monkeypatch.setitem(FAMILIES, "toy_mixer", Family("toy_mixer", axes=(HEADS, MIXERS), number=number))
    checkpoint = train(recipe(model, sizes), dataset.path, None, output=tmp_path / "checkpoint")
    family = extract_students(ExtractStudentsConfig(), checkpoint.path, dataset.path, output=tmp_path / "students")
    students = json.loads((family.path / "family.json").read_text())["students"]
    assert [student["certificate"]["bitwise_equal"] for student in students.values()] == [True, True]
    configs = [json.loads((family.path / name / "config.json").read_text()) for name in ("s", "xl")]
    assert [(config["mixers"], config["num_attention_heads"]) for config in configs] == [(2, 2), (4, 2)]
    assert not any("intermediate_size" in config for config in configs)


@pytest.mark.parametrize(
    ("model", "sizes", "message"),
    [
        (HEADED | {"mixers": 4}, {"s": 8, "xl": {}}, r"train.sizes.s.intermediate_size: toy_mixer has none; its axes"),
        (HEADED | {"mixers": 4}, {"s": {"mixers": 2}, "xl": {"mixers": 4}}, r"train.model.mixers is not set there"),
        (HEADED, {"s": {"mixers": 2}, "xl": {"num_hidden_layers": 2}}, r"give xl one number .* without num_hidden_la"),
    ],
)
def test_a_ta_says_each_count_once(model, sizes, message, ta, dataset, tmp_path):
    with pytest.raises(UserError, match=message):
        train(recipe(model, sizes), dataset.path, None, output=tmp_path / "checkpoint")


def test_where_no_axis_differs_by_layer_nothing_is_mixed_or_compact(ta, small, dataset, tmp_path):
    trained = recipe(HEADED, {"s": {"mixers": 2}, "xl": {"mixers": 4}})
    checkpoint = train(trained, dataset.path, None, output=tmp_path / "checkpoint")
    config = ExtractStudentsConfig(mixes={"mid": MixConfig(parameters=10_000)})
    with pytest.raises(UserError, match=r"extract_students\.mixes\.mid: .* no axis of toy_mixer may differ by layer"):
        extract_students(config, checkpoint.path, dataset.path, output=tmp_path / "students")
    with pytest.raises(UserError, match=r"no axis of toy_mixer .*; set extract_students.compact to false"):
        export_compact(OBJECTIVE, ta, small, byte_tokenizer(), tmp_path, {"input_ids": INPUT_IDS})


def test_bf16_pays_by_what_products_sum_over_in_any_model(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    cpu = torch.device("cpu")
    for model_type in ("llama", "phi3", "gpt2"):
        word = "n_inner" if model_type == "gpt2" else "intermediate_size"
        chosen = [autocast_dtype("auto", tiny_model(model_type, **{word: width}), cpu) for width in (504, 512)]
        assert chosen == [None, torch.bfloat16], model_type
    assert "toy_mixer" not in FAMILIES
    wide = MixerForCausalLM(MixerConfig(mixers=128, mixer_size=4))
    assert autocast_dtype("auto", wide, cpu) == torch.bfloat16
    assert autocast_dtype("auto", MixerForCausalLM(MixerConfig(vocab_size=1024)), cpu) is None
