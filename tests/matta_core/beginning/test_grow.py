"""A TA that begins with a smaller model computes its function; one that begins with a larger model keeps its best."""

import copy
import dataclasses

import pytest
import torch
from support import SEQUENCE_LENGTH, TRAINING, byte_tokenizer, can_be_smaller, granularity, make_dataset, tiny_model
from transformers import AutoConfig, AutoModelForCausalLM

from matta_core.beginning.grow import grow
from matta_core.beginning.start import initialize
from matta_core.checkpoints import build_model
from matta_core.errors import UserError
from matta_core.families import FAMILIES
from matta_core.model_config import build_config
from matta_core.nesting.live import live_student
from matta_core.objectives import OBJECTIVE
from matta_core.recipe import ScoreTeacherConfig, SizeConfig
from matta_core.students.extract import extract_student
from matta_core.teacher import score_teacher
from matta_core.training.data import Sequences

VOCABULARY = len(byte_tokenizer())
SLIDING, FULL = "sliding_attention", "full_attention"
CPU = torch.device("cpu")
SIZES = {
    "neurons": {"intermediate_size": 8},
    "layers": {"num_hidden_layers": 2, "intermediate_size": 32},
    "a width per layer": {"layers": (0, 2, 3), "intermediate_sizes": (8, 24, 16)},
    "groups": {"num_key_value_heads": 1},
    "queries": {"num_attention_heads": 2, "num_key_value_heads": 2},
    "all": {"intermediate_size": 16, "num_attention_heads": 1, "num_key_value_heads": 1, "layers": (0, 3)},
}
CASES = [
    (family, axes)
    for family in FAMILIES
    for axes in SIZES
    if can_be_smaller(family, "num_attention_heads") or axes not in ("groups", "queries", "all")
]
# Biases of every kind, where the family's class has such settings.
BIASES = {"llama": {"attention_bias": True, "mlp_bias": True}, "qwen3": {"attention_bias": True}}
INPUT_IDS = torch.arange(3 * SEQUENCE_LENGTH).reshape(3, -1) % 50


@torch.no_grad()
def logits(model):
    return model.eval()(input_ids=INPUT_IDS).logits


def big(family, **overrides):
    return tiny_model(family, num_hidden_layers=4, **(BIASES.get(family, {}) | overrides))


@pytest.mark.parametrize(("family", "axes"), CASES)
def test_a_grown_ta_and_the_student_in_it_compute_the_students_function(family, axes):
    source = big(family)
    place = granularity(source, **SIZES[axes])
    student = extract_student(source, place)
    ta = build_model(source.config, seed=1, model_class=OBJECTIVE.model_class)
    before = copy.deepcopy(ta)
    grow(ta, student, place)
    torch.testing.assert_close(logits(ta), logits(student), rtol=0, atol=1e-5)
    torch.testing.assert_close(logits(live_student(ta, place)), logits(student), rtol=0, atol=1e-5)
    assert not torch.allclose(logits(before), logits(student), atol=1e-2)


@pytest.mark.parametrize("family", FAMILIES)
def test_all_that_is_new_can_learn_from_the_first_steps(family):
    """What is silent at first must not stay so: gradients reach every new parameter, at once or in the second step."""
    source = big(family)
    place = granularity(source, intermediate_size=8, layers=(0, 3))
    ta = build_model(source.config, seed=1, model_class=OBJECTIVE.model_class)
    grow(ta, extract_student(source, place), place)
    begin = {name: parameter.clone() for name, parameter in ta.named_parameters()}
    optimizer = torch.optim.SGD(ta.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        ta(input_ids=INPUT_IDS, labels=INPUT_IDS).loss.backward()
        optimizer.step()
    # Biases of keys shift all scores of a query alike: softmax does not see them.
    still = [
        name
        for name, parameter in ta.named_parameters()
        if torch.equal(parameter, begin[name]) and not name.endswith("k_proj.bias")
    ]
    assert still == []
    for axis in FAMILIES[family].axes:
        new = ta.get_submodule(FAMILIES[family].layers)[1].get_submodule(axis.output).weight
        assert new.count_nonzero() == new.numel()


def test_a_new_layer_behind_a_norm_begins_gently():
    """Gemma 3: were the new layers' projections zero, Adam's first step would come out of the norms at full size."""
    source = big("gemma3_text")
    place = granularity(source, layers=(0, 3))
    ta = build_model(source.config, seed=1, model_class=OBJECTIVE.model_class)
    grow(ta, extract_student(source, place), place)
    zeros = copy.deepcopy(ta)
    for layer in zeros.model.layers[1:3]:
        for norm in (layer.post_attention_layernorm, layer.post_feedforward_layernorm):
            torch.nn.init.zeros_(norm.weight)
        torch.nn.init.zeros_(layer.mlp.down_proj.weight)
        torch.nn.init.zeros_(layer.self_attn.o_proj.weight)
    before = logits(ta)
    torch.testing.assert_close(logits(zeros), before, rtol=0, atol=1e-5)

    def moved_by_a_step(model):
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
        model(input_ids=INPUT_IDS, labels=INPUT_IDS).loss.backward()
        optimizer.step()
        return (logits(model) - before).abs().max()

    assert moved_by_a_step(ta) < 0.1 * moved_by_a_step(zeros)


# What follows goes through `initialize`, as train does.


@pytest.fixture
def data(tmp_path):
    return Sequences(OBJECTIVE, make_dataset(tmp_path / "data"), "train", tmp_path / "cache")


def ta_config_of(config):
    return build_config(config.model, config.sizes[config.ta], byte_tokenizer(), SEQUENCE_LENGTH)


def begin(config, data):
    return initialize(config, OBJECTIVE, ta_config_of(config), byte_tokenizer(), data, CPU)


def recipe(family, sizes, **changes):
    """A training of four layers whose sizes are `sizes` and the TA."""
    model = {"model_type": family, "hidden_size": 16, "num_hidden_layers": 4, "initializer_range": 0.2}
    model |= {"num_attention_heads": 2} if family == "gpt2" else {"num_attention_heads": 4, "num_key_value_heads": 2}
    model |= {"tie_word_embeddings": True} | ({} if family in ("gpt2", "qwen2", "phi3") else {"head_dim": 4})
    if family == "gemma3_text":
        model |= {"sliding_window": 6, "query_pre_attn_scalar": 4, "layer_types": [SLIDING, FULL] * 2}
    sizes = {name: size if isinstance(size, int) else SizeConfig(**size) for name, size in sizes.items()} | {"xl": 32}
    return dataclasses.replace(TRAINING, model=model, sizes=sizes, student=next(iter(sizes)), **changes)


@pytest.mark.parametrize(("family", "axes"), CASES)
def test_a_saved_student_of_any_family_grows_into_the_ta_that_it_is_a_size_of(family, axes, data, tmp_path):
    config = recipe(family, {"s": SIZES[axes]})
    trained, sizes = begin(config, data)
    student = extract_student(trained, sizes["s"])
    student.save_pretrained(tmp_path / "student")
    ta, _ = begin(dataclasses.replace(config, start_from=str(tmp_path / "student"), seed=5), data)
    torch.testing.assert_close(logits(ta), logits(student), rtol=0, atol=1e-5)


def test_of_two_sizes_with_one_shape_the_student_is_the_one_that_grows(data, tmp_path):
    """They are padded alike; what one of them does not keep would not be zero for the other."""
    config = recipe("llama", {"s": {"intermediate_sizes": (16, 8, 8, 8)}, "m": {"intermediate_sizes": (16, 16, 8, 8)}})
    trained, sizes = begin(config, data)
    extract_student(trained, sizes["s"]).save_pretrained(tmp_path / "s")
    extract_student(trained, sizes["m"]).save_pretrained(tmp_path / "m")
    ta, _ = begin(dataclasses.replace(config, start_from=str(tmp_path / "s")), data)
    assert ta.model.layers[1].mlp.down_proj.weight[:, 8:].count_nonzero() == 0
    with pytest.raises(UserError, match=r"weight is \(16, 16\), and not zero beyond the \([0-9, ]+\) of train.sizes.s"):
        begin(dataclasses.replace(config, start_from=str(tmp_path / "m")), data)


@pytest.mark.parametrize("family", FAMILIES)
def test_sorted_by_importance_a_model_of_the_tas_shape_keeps_its_function(family, data, tmp_path):
    config = recipe(family, {"s": {"num_hidden_layers": 2, "intermediate_size": 8}})
    source, _ = begin(config, data)
    source.save_pretrained(tmp_path / "model")
    config = dataclasses.replace(config, start_from=str(tmp_path / "model"), start_order="importance")
    ta, sizes = begin(config, data)
    torch.testing.assert_close(logits(ta), logits(source), rtol=0, atol=1e-5)
    for axis in FAMILIES[family].nested:
        name = f"{FAMILIES[family].layers}.0.{axis.output}.weight"
        assert not torch.equal(ta.get_parameter(name), source.get_parameter(name))  # and it was sorted
    again, same = begin(config, data)
    assert same == sizes
    assert all(torch.equal(a, b) for a, b in zip(ta.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize("axes", ["neurons", "layers", "groups"])
def test_a_student_that_grows_can_be_sorted_too_for_those_within_it(axes, data, tmp_path):
    config = recipe("llama", {"s": SIZES[axes]})
    trained, sizes = begin(config, data)
    student = extract_student(trained, sizes["s"])
    student.save_pretrained(tmp_path / "student")
    config = dataclasses.replace(config, start_from=str(tmp_path / "student"), start_order="importance")
    ta, again = begin(config, data)
    assert again == sizes
    torch.testing.assert_close(logits(ta), logits(student), rtol=0, atol=1e-5)
    first = ta.model.layers[0].mlp.down_proj.weight[:, : student.config.intermediate_size]
    assert not torch.equal(first, student.model.layers[0].mlp.down_proj.weight)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_larger_model_is_cut_down_on_every_axis(family, data, tmp_path):
    config = recipe(family, {"s": {"intermediate_size": 8, "num_hidden_layers": 3}})
    nested = can_be_smaller(family, "num_attention_heads")
    heads = {"num_attention_heads": 16, "num_key_value_heads": 4, "head_dim": 4} if nested else {}
    if family == "gemma3_text":  # which layers are kept follows from importance, and where the windows lie with it
        config.model["layer_types"] = [SLIDING] * 4
    larger = copy.deepcopy(ta_config_of(config))
    larger.update({FAMILIES[family].word("intermediate_size"): 48, "num_hidden_layers": 6} | heads)
    if getattr(larger, "layer_types", None):
        larger.layer_types = larger.layer_types[:1] * 6
    build_model(larger, 3, model_class=OBJECTIVE.model_class).save_pretrained(tmp_path / "larger")
    config = dataclasses.replace(config, start_from=str(tmp_path / "larger"))
    with pytest.raises(
        UserError, match=r"larger in intermediate_size \(48, not 32\).* train.start_order to importance"
    ):
        begin(config, data)
    ta, sizes = begin(dataclasses.replace(config, start_order="importance"), data)
    assert len(ta.get_submodule(FAMILIES[family].layers)) == 4
    assert (sizes["s"].layers[0], sizes["s"].layers[-1]) == (0, 3)
    assert logits(ta).isfinite().all()


def test_windows_that_lie_elsewhere_are_refused(data, tmp_path):
    config = recipe("gemma3_text", {"s": {"layers": (0, 3), "intermediate_size": 32}})
    trained, sizes = begin(config, data)
    extract_student(trained, sizes["s"]).save_pretrained(tmp_path / "s")
    other = recipe("gemma3_text", {"s": {"layers": (0, 3), "intermediate_size": 32}}, start_from=str(tmp_path / "s"))
    other.model["layer_types"] = [FULL] * 4
    with pytest.raises(UserError, match=r"layer_types is \['sliding_attention', 'full_attention'\], not \['full_"):
        begin(other, data)


def test_importance_of_random_weights_is_refused():
    with pytest.raises(ValueError, match="start_order must be as_is where start_from is none"):
        dataclasses.replace(TRAINING, start_order="importance")


@pytest.mark.parametrize(
    ("setting", "value"),
    [("hidden_activation", "relu"), ("query_pre_attn_scalar", 9), ("sliding_window", 5), ("head_dim", 8)],
)
def test_settings_that_no_shape_shows_are_compared(setting, value, data, tmp_path):
    tiny_model("gemma3_text", vocab_size=VOCABULARY, num_hidden_layers=4, **{setting: value}).save_pretrained(
        tmp_path / "other"
    )
    with pytest.raises(UserError, match=rf"does not fit the TA: {setting} is '?{value}'?, not "):
        begin(recipe("gemma3_text", {"s": 8}, start_from=str(tmp_path / "other")), data)


SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "pad_token_id": 0,
    "initializer_range": 0.2,
}


@pytest.mark.parametrize(
    ("model_type", "changes"),
    [
        ("gemma2", {}),  # capped at 30 by default
        ("gemma3_text", {"final_logit_softcapping": 2.0}),
        ("granite", {"logits_scaling": 8.0}),
        ("cohere", {}),  # times 0.0625 by default
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_that_changes_its_logits_after_the_head_is_refused(model_type, changes, dtype):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **(SMALL | changes))).to(dtype)
    with torch.no_grad():
        model.get_output_embeddings().weight *= 20  # logits as large as trained models have them
    with pytest.raises(
        UserError, match=rf"folder/m \({model_type}\) changes its logits after the output head, by up to"
    ):
        OBJECTIVE.check_model(model, "folder/m")


@pytest.mark.parametrize("model_type", [*FAMILIES, "granite", "mistral", "olmo2", "gpt_neox"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_any_other_model_passes(model_type, dtype):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **SMALL)).to(dtype)
    OBJECTIVE.check_model(model, "plain")


def test_a_teacher_that_caps_its_logits_is_refused(tmp_path):
    dataset = make_dataset(tmp_path / "dataset")
    teacher = AutoModelForCausalLM.from_config(AutoConfig.for_model("gemma2", **SMALL))
    teacher.save_pretrained(tmp_path / "teacher")
    byte_tokenizer().save_pretrained(tmp_path / "teacher")
    with pytest.raises(UserError, match=r"teacher \(gemma2\) changes its logits"):
        score_teacher(ScoreTeacherConfig(top_k=4), tmp_path / "teacher", dataset, tmp_path)
