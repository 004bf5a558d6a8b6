"""An axis that no family has, as a table alone: everything that nests follows from it.

The model is Llama's, with a mixer in place of the FFN. Its heads lie in `in_proj` beside one another and beside a state
that all heads share, as a state-space model's do: values, gates, state.
"""

import dataclasses
import json

import pytest
import torch
from support import TRAINING, tiny_model
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

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
from matta_core.recipe import ExtractStudentsConfig, LossConfig, MixConfig, SizeConfig, TrainConfig
from matta_core.students.certify import certify
from matta_core.students.extract import extract_student

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


class MixerConfig(LlamaConfig):
    model_type = "toy_mixer"
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
        super().__init__(config)
        for layer in self.model.layers:
            layer.mlp = Mixer(config)
        self.post_init()


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


@pytest.fixture
def checkpoint(ta, dataset, tmp_path):
    """Of a recipe whose TA sets no width: train.model has all its shape."""
    shape = {"model_type": "toy_mixer", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    recipe = {"model": shape | {"mixers": 4}, "sizes": {"s": {"mixers": 2}, "xl": {}}, "student": "s"}
    settings = dataclasses.asdict(dataclasses.replace(TRAINING, loss=LossConfig(teacher_weight=0.0), steps=4))
    config = TrainConfig.from_dict(
        recipe | {name: settings[name] for name in ("steps", "warmup_steps", "batch_size", "eval_sequences")}, "train"
    )
    config = dataclasses.replace(config, loss=LossConfig(teacher_weight=0.0))
    return train(config, dataset.path, None, output=tmp_path / "checkpoint")


def test_a_recipe_trains_and_cuts_out_what_has_no_ffn(checkpoint, dataset, tmp_path):
    family = extract_students(ExtractStudentsConfig(), checkpoint.path, dataset.path, output=tmp_path / "students")
    students = json.loads((family.path / "family.json").read_text())["students"]
    assert all(student["certificate"]["bitwise_equal"] for student in students.values())
    assert students["s"]["parameters"] < students["xl"]["parameters"]


def test_where_no_axis_differs_by_layer_nothing_can_be_mixed(checkpoint, dataset, tmp_path):
    config = ExtractStudentsConfig(mixes={"mid": MixConfig(parameters=10_000)})
    with pytest.raises(UserError, match=r"extract_students\.mixes\.mid: .* no axis of toy_mixer may differ by layer"):
        extract_students(config, checkpoint.path, dataset.path, output=tmp_path / "students")
