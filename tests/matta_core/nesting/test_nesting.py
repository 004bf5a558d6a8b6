"""Live students are views of the TA, and nothing outside their slices reaches them."""

import pytest
import torch
from support import byte_tokenizer, granularity, tiny_gpt2, tiny_model

from matta_core.checkpoints import save_model
from matta_core.errors import UserError
from matta_core.families import FAMILIES, family_of
from matta_core.nesting.live import live_student
from matta_core.nesting.size import whole
from matta_core.nesting.slices import Grid, Part, cuts, put, slices, take
from matta_core.objectives import OBJECTIVE
from matta_core.students.certify import certify
from matta_core.students.extract import extract_student

INPUT_IDS = torch.arange(32).reshape(2, 16)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_live_student_that_keeps_everything_equals_the_ta_bit_for_bit(model_type):
    ta = tiny_model(model_type).eval()
    assert torch.equal(live_student(ta, whole(ta.config, "xl"))(INPUT_IDS).logits, ta(INPUT_IDS).logits)


def test_live_student_sees_an_optimizer_step_at_once():
    ta = tiny_gpt2().eval()
    live = live_student(ta, granularity(ta, intermediate_size=8))
    before = live(INPUT_IDS).logits
    with torch.no_grad():
        ta.transformer.h[0].mlp.c_fc.weight[:, :8] += 0.5
    assert not torch.equal(live(INPUT_IDS).logits, before)


def test_a_student_does_not_see_neurons_outside_its_slice():
    ta = tiny_gpt2().eval()
    live = live_student(ta, granularity(ta, intermediate_size=8))
    before = live(INPUT_IDS).logits
    with torch.no_grad():
        for block in ta.transformer.h:
            block.mlp.c_fc.weight[:, 8:] += 1.0
            block.mlp.c_fc.bias[8:] += 1.0
            block.mlp.c_proj.weight[8:] += 1.0
    assert torch.equal(live(INPUT_IDS).logits, before)


def test_two_live_students_of_one_ta_do_not_disturb_each_other():
    ta = tiny_gpt2().eval()
    small, large = (live_student(ta, granularity(ta, intermediate_size=width)) for width in (8, 16))
    alone = small(INPUT_IDS).logits
    large(INPUT_IDS)
    assert torch.equal(small(INPUT_IDS).logits, alone)
    assert len(list(small.parameters())) == 0


def test_slices_names_the_neurons_of_each_ffn_parameter_and_nothing_else():
    config = tiny_gpt2().config
    size = granularity(tiny_gpt2(), intermediate_size=8)
    for name, dimension in (("mlp.c_fc.weight", 1), ("mlp.c_fc.bias", 0), ("mlp.c_proj.weight", 0)):
        name = f"transformer.h.0.{name}"
        assert slices(config, name, size) == (name, (Part(dimension, (Grid((32,), (8,)),)),))
    for name in ("transformer.h.0.attn.c_proj.weight", "transformer.h.0.mlp.c_proj.bias", "transformer.wte.weight"):
        assert slices(config, name, size) == (name, ())


def test_fewer_query_heads_are_a_prefix_inside_each_kept_group():
    ta = tiny_model("llama", num_attention_heads=8, num_key_value_heads=4, head_dim=2, num_hidden_layers=3)
    size = granularity(ta, num_attention_heads=3, num_key_value_heads=3, layers=(0, 2))
    name, parts = slices(ta.config, "model.layers.1.self_attn.q_proj.weight", size)
    assert name == "model.layers.2.self_attn.q_proj.weight"
    rows = torch.arange(16).reshape(16, 1)
    # Eight heads of two rows, two heads to a group: the first head of groups 0, 1 and 2.
    assert take(rows, parts).flatten().tolist() == [0, 1, 4, 5, 8, 9]
    assert slices(ta.config, "model.layers.1.self_attn.k_proj.weight", size)[1] == (Part(0, (Grid((4, 2), (3, 2)),)),)


def test_what_is_put_is_what_is_taken_and_nothing_else_is_written():
    parts = (Part(0, (Grid((2,), (1,)),)), Part(1, (Grid((2, 2, 2), (2, 1, 2)), Grid((3,), (1,)))))
    tensor, values = torch.zeros(2, 11), torch.arange(1.0, 6.0).reshape(1, 5)
    put(tensor, parts, values)
    assert tensor.tolist() == [[1, 2, 0, 0, 3, 4, 0, 0, 5, 0, 0], [0] * 11]
    assert torch.equal(take(tensor, parts), values)


def test_cuts_lie_at_the_edges_of_the_sizes_and_between_fused_matrices():
    ta = tiny_gpt2()
    found = cuts(ta, [granularity(ta, intermediate_size=8), granularity(ta, intermediate_size=16)])
    assert found["transformer.h.1.mlp.c_fc.weight"] == {1: [8, 16]}
    assert found["transformer.h.1.mlp.c_fc.bias"] == {0: [8, 16]}
    assert found["transformer.h.1.mlp.c_proj.weight"] == {0: [8, 16]}
    assert found["transformer.h.1.attn.c_attn.weight"] == {1: [16, 32]}
    assert "transformer.wte.weight" not in found
    ta = tiny_model("llama")
    heads = cuts(ta, [granularity(ta, num_attention_heads=2, num_key_value_heads=2)])
    assert heads["model.layers.0.self_attn.q_proj.weight"] == {0: [4, 8, 12]}


def test_an_unknown_family_is_refused_with_the_known_ones():
    with pytest.raises(UserError, match=r"'bert' is not a known family: known are gpt2, llama, .*docs/families.md"):
        family_of("bert")


def test_a_student_is_taken_out_where_the_ta_lies():
    ta = tiny_gpt2().to("meta")  # stands for a GPU: sizes that go on alone must not train on the CPU
    student = extract_student(ta, granularity(ta, intermediate_size=8))
    assert {parameter.device.type for parameter in student.parameters()} == {"meta"}


def test_a_certificate_tells_a_checkpoint_that_differs_in_one_weight(tmp_path):
    ta = tiny_gpt2().eval()
    size = granularity(ta, intermediate_size=8)
    student = extract_student(ta, size)
    save_model(student, byte_tokenizer(), tmp_path / "good")
    assert certify(OBJECTIVE, ta, size, tmp_path / "good", {"input_ids": INPUT_IDS})["bitwise_equal"]
    with torch.no_grad():
        student.transformer.h[1].mlp.c_fc.bias[7] += 1e-3
    save_model(student, byte_tokenizer(), tmp_path / "bad")
    certificate = certify(OBJECTIVE, ta, size, tmp_path / "bad", {"input_ids": INPUT_IDS})
    assert not certificate["bitwise_equal"]
    assert certificate["max_abs_difference"] > 0
