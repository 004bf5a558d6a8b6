import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import byte_tokenizer, tiny_gpt2
from torch.utils.flop_counter import FlopCounterMode

from matta_core.errors import UserError
from matta_core.extract import certify, extract_student
from matta_core.models import save_model
from matta_core.nesting import Granularity, family_of, flops_per_token, live_student, num_parameters, slices

INPUT_IDS = torch.arange(32).reshape(2, 16)


@given(
    wide=st.integers(1, 8).map(lambda n: 8 * n),
    fraction=st.floats(0.01, 1.0),
    layers=st.integers(1, 3),
    heads=st.sampled_from([1, 2, 4]),
    tied=st.booleans(),
)
@settings(max_examples=15, deadline=None)
def test_extracted_student_equals_live_student_bit_for_bit(wide, fraction, layers, heads, tied):
    ta = tiny_gpt2(wide, num_hidden_layers=layers, num_attention_heads=heads, tie_word_embeddings=tied).eval()
    granularity = Granularity("any", max(1, int(wide * fraction)))
    with torch.no_grad():
        live = live_student(ta, granularity)(INPUT_IDS).logits
        extracted = extract_student(ta, granularity)
        assert torch.equal(live, extracted(INPUT_IDS).logits)
    assert num_parameters(ta, granularity) == sum(p.numel() for p in extracted.parameters())


def test_live_student_at_full_width_equals_the_ta_bit_for_bit():
    ta = tiny_gpt2().eval()
    live = live_student(ta, Granularity("xl", 32))
    assert torch.equal(live(INPUT_IDS).logits, ta(INPUT_IDS).logits)


def test_live_student_sees_an_optimizer_step_at_once():
    ta = tiny_gpt2().eval()
    live = live_student(ta, Granularity("s", 8))
    before = live(INPUT_IDS).logits
    with torch.no_grad():
        ta.transformer.h[0].mlp.c_fc.weight[:, :8] += 0.5
    assert not torch.equal(live(INPUT_IDS).logits, before)


def test_a_student_does_not_see_neurons_outside_its_slice():
    ta = tiny_gpt2().eval()
    live = live_student(ta, Granularity("s", 8))
    before = live(INPUT_IDS).logits
    with torch.no_grad():
        for block in ta.transformer.h:
            block.mlp.c_fc.weight[:, 8:] += 1.0
            block.mlp.c_fc.bias[8:] += 1.0
            block.mlp.c_proj.weight[8:] += 1.0
    assert torch.equal(live(INPUT_IDS).logits, before)


def test_two_live_students_of_one_ta_do_not_disturb_each_other():
    ta = tiny_gpt2().eval()
    small, large = live_student(ta, Granularity("s", 8)), live_student(ta, Granularity("m", 16))
    alone = small(INPUT_IDS).logits
    large(INPUT_IDS)
    assert torch.equal(small(INPUT_IDS).logits, alone)
    assert len(list(small.parameters())) == 0


def test_slices_names_the_neurons_of_each_ffn_parameter_and_nothing_else():
    family, granularity = family_of("gpt2"), Granularity("s", 8)
    assert slices(family, "transformer.h.0.mlp.c_fc.weight", granularity)[1] == (slice(None), slice(0, 8))
    assert slices(family, "transformer.h.0.mlp.c_fc.bias", granularity)[1] == (slice(0, 8),)
    assert slices(family, "transformer.h.0.mlp.c_proj.weight", granularity)[1] == (slice(0, 8),)
    for whole in ("transformer.h.0.attn.c_proj.weight", "transformer.h.0.mlp.c_proj.bias", "transformer.wte.weight"):
        assert slices(family, whole, granularity) == (whole, ())


@pytest.mark.parametrize("width", [8, 32])
def test_flops_per_token_agree_with_torchs_counter(width):
    ta = tiny_gpt2(attn_implementation="eager").eval()
    student = extract_student(ta, Granularity("s", width))
    counter = FlopCounterMode(display=False)
    with counter:
        student(INPUT_IDS)
    counted = counter.get_total_flops() / INPUT_IDS.numel()
    assert flops_per_token(ta, Granularity("s", width), 16) == pytest.approx(counted, rel=0.01)


@pytest.mark.parametrize("width", [0, 33])
def test_a_student_wider_than_the_ta_or_empty_is_refused(width):
    with pytest.raises(UserError, match=rf"size s: intermediate_size must be from 1 to the TA's 32, got {width}"):
        live_student(tiny_gpt2(), Granularity("s", width))


def test_an_unknown_family_is_refused_with_the_known_ones():
    with pytest.raises(UserError, match=r"'bert' is not a known family: known are gpt2"):
        family_of("bert")


def test_a_certificate_tells_a_checkpoint_that_differs_in_one_weight(tmp_path):
    ta, granularity = tiny_gpt2().eval(), Granularity("s", 8)
    student = extract_student(ta, granularity)
    save_model(student, byte_tokenizer(), tmp_path / "good")
    assert certify(ta, granularity, tmp_path / "good", INPUT_IDS)["bitwise_equal"]
    with torch.no_grad():
        student.transformer.h[1].mlp.c_fc.bias[7] += 1e-3
    save_model(student, byte_tokenizer(), tmp_path / "bad")
    certificate = certify(ta, granularity, tmp_path / "bad", INPUT_IDS)
    assert not certificate["bitwise_equal"]
    assert certificate["max_abs_difference"] > 0
