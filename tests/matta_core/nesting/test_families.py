"""Every certificate, on every family and axis, over random small configs and nestings."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import can_be_smaller, granularity, tiny_model, widths
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig

from matta_core.errors import UserError
from matta_core.families import FAMILIES
from matta_core.nesting.cost import flops_per_token, num_parameters
from matta_core.nesting.live import live_student
from matta_core.nesting.size import resolve, whole
from matta_core.nesting.slices import student_parameters, take
from matta_core.objectives import OBJECTIVE
from matta_core.pretrained import load_model
from matta_core.students.extract import extract_student

INPUT_IDS = torch.arange(32).reshape(2, 16)
EXAMPLES = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def tas_and_sizes(draw, model_type, *, per_layer=False):
    """A TA of random shape, and what one student keeps of it on every axis that the family has."""
    layers = draw(st.integers(1, 4))
    width = 8 * draw(st.integers(1, 5))
    shape = {"num_hidden_layers": layers, FAMILIES[model_type].word("intermediate_size"): width}
    known = AutoConfig.for_model(model_type).to_dict()
    for switch in ("tie_word_embeddings", "attention_bias", "mlp_bias"):
        if switch in known:
            shape[switch] = draw(st.booleans())
    size = {}
    if can_be_smaller(model_type, "num_attention_heads"):
        groups, queries = draw(st.integers(1, 3)), draw(st.integers(1, 3))
        kept_groups, kept_queries = draw(st.integers(1, groups)), draw(st.integers(1, queries))
        shape |= {"num_key_value_heads": groups, "num_attention_heads": groups * queries, "hidden_size": 36}
        size |= {"num_key_value_heads": kept_groups, "num_attention_heads": kept_groups * kept_queries}
    kept = sorted({0, layers - 1} | draw(st.sets(st.integers(0, layers - 1))))
    widths = st.integers(1, width // 8).map(lambda number: 8 * number)
    size["layers"] = tuple(kept)
    if per_layer:
        size["intermediate_sizes"] = tuple(draw(widths) for _ in kept)
    else:
        size["intermediate_size"] = draw(widths)
    return tiny_model(model_type, **shape).eval(), size


def granularity_of(ta, size):
    try:
        return granularity(ta, **size)
    except UserError as error:
        assert "they are the same" in str(error), error
        return whole(ta.config, "s")


@pytest.mark.parametrize("model_type", FAMILIES)
@given(data=st.data())
@EXAMPLES
def test_extracted_equals_live_bit_for_bit_and_counts_agree(model_type, data, tmp_path_factory):
    ta, size = data.draw(tas_and_sizes(model_type))
    kept = granularity_of(ta, size)
    folder = tmp_path_factory.mktemp("student")
    extract_student(ta, kept).save_pretrained(folder)
    saved = load_model(folder, OBJECTIVE.model_class).eval()
    with torch.no_grad():
        assert torch.equal(live_student(ta, kept)(INPUT_IDS).logits, saved(INPUT_IDS).logits)
    assert num_parameters(ta, kept) == sum(parameter.numel() for parameter in saved.parameters())
    saved.set_attn_implementation("eager")  # the counter does not know the CPU's fused kernel
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        saved(INPUT_IDS)
    assert flops_per_token(ta, kept, 16) == pytest.approx(counter.get_total_flops() / INPUT_IDS.numel(), rel=0.01)


@pytest.mark.parametrize("model_type", FAMILIES)
@given(data=st.data())
@EXAMPLES
def test_gradients_reach_the_slices_and_nothing_else(model_type, data):
    ta, size = data.draw(tas_and_sizes(model_type, per_layer=True))
    kept = granularity_of(ta, size)
    live_student(ta, kept)(INPUT_IDS).logits.square().sum().backward()
    reached = {}
    for _, ta_name, parts in student_parameters(ta, kept):
        gradient = ta.get_parameter(ta_name).grad
        reached[ta_name] = take(gradient, parts).count_nonzero()
        assert gradient.count_nonzero() == reached[ta_name], ta_name
    for name, parameter in ta.named_parameters():
        assert name in reached or parameter.grad is None, name
    # Most of what lies inside is reached, so that the comparison above is of something.
    assert sum(reached.values()) > 0.5 * num_parameters(ta, kept)


@pytest.mark.parametrize("model_type", FAMILIES)
@given(data=st.data())
@EXAMPLES
def test_widths_per_layer_padded_with_zeros_compute_the_same_function(model_type, data):
    ta, size = data.draw(tas_and_sizes(model_type, per_layer=True))
    kept = granularity_of(ta, size)
    with torch.no_grad():
        live, padded = live_student(ta, kept)(INPUT_IDS).logits, extract_student(ta, kept)(INPUT_IDS).logits
    # Sums of the same terms and zeros, in another order.
    torch.testing.assert_close(padded, live, rtol=1e-4, atol=1e-4 * live.abs().max().item())


@pytest.mark.parametrize("model_type", FAMILIES)
@pytest.mark.parametrize("reentrant", [True, False])
def test_activation_checkpointing_changes_no_gradient(model_type, reentrant):
    def gradients(checkpointing):
        ta = tiny_model(model_type, num_hidden_layers=3)
        live = live_student(ta, granularity(ta, intermediate_size=16, layers=(0, 2))).train()
        if checkpointing:
            live.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": reentrant})
            live.enable_input_require_grads()
        live(INPUT_IDS, use_cache=False).logits.square().sum().backward()
        return {name: p.grad for name, p in ta.named_parameters() if p.grad is not None}

    plain, recomputed = gradients(False), gradients(True)
    assert plain.keys() == recomputed.keys()
    assert all(torch.equal(plain[name], recomputed[name]) for name in plain)


def test_gpt2_heads_are_refused_with_the_reason():
    with pytest.raises(UserError, match=r"heads of gpt2 do not nest: its stock class computes the size of a head"):
        granularity(tiny_model("gpt2"), num_attention_heads=1)


def test_a_shape_that_the_stock_class_refuses_is_told():
    ta = tiny_model("llama", num_attention_heads=4, num_key_value_heads=4)
    with pytest.raises(UserError, match=r"sizes.s: LlamaConfig refuses its shape: .*not a multiple"):
        live_student(ta, granularity(ta, num_attention_heads=3))


def test_sizes_of_every_family_resolve_to_what_the_ta_has_by_default():
    for model_type in FAMILIES:
        ta = tiny_model(model_type)
        kept = granularity(ta, intermediate_size=8)
        assert kept.layers == (0, 1)
        assert kept.kept["num_attention_heads"] == ta.config.num_attention_heads
        assert list(resolve(ta.config, widths(xl=32))) == ["xl"]
