"""The gradients are those of the joint loss, however it is cut into passes, chunks and micro-batches."""

import dataclasses

import pytest
import torch
from support import tiny_gpt2

from matta_core.config import LossConfig
from matta_core.losses import align, cross_entropy, forward_kl, top_k_kl
from matta_core.nesting import Granularity, live_student
from matta_core.passes import Batch, PassSettings, cross_entropy_sum, joint_backward, top_k_scores

LOSS = LossConfig(ta_weight=0.7, cross_entropy_weight=0.4, teacher_weight=0.6, loss_temperature=2.0)
INPUT_IDS = torch.randint(0, 50, (4, 16), generator=torch.Generator().manual_seed(0))
TOKENS = 4 * 15
WHOLE = PassSettings()


def batch(rows=slice(None), top_k=10):
    teacher = tiny_gpt2(64, seed=1).eval()
    return Batch(INPUT_IDS[rows], top_k_scores(teacher, INPUT_IDS[rows], top_k, WHOLE))


def students_of(ta):
    return {name: live_student(ta, Granularity(name, width)) for name, width in {"s": 8, "m": 16}.items()}


def gradients(*batches, loss=LOSS, settings=WHOLE, checkpointing=None, names=("s", "m"), distillation_weight=0.5):
    ta = tiny_gpt2().train()
    students = {name: student for name, student in students_of(ta).items() if name in names}
    if checkpointing is not None:
        for model in (ta, *students.values()):
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": checkpointing})
    for item in batches:
        joint_backward(
            ta,
            students,
            item,
            loss,
            distillation_weight=distillation_weight,
            num_tokens=TOKENS,
            settings=settings,
        )
    return {name: parameter.grad for name, parameter in ta.named_parameters()}


def assert_same(ours, theirs, **tolerance):
    for name, gradient in ours.items():
        assert torch.allclose(gradient, theirs[name], **(tolerance or {"rtol": 1e-4, "atol": 1e-7})), name


def test_sequential_gradients_equal_the_joint_losses():
    """The design's formula in one graph, with nothing of `passes` but the data."""
    ta, item = tiny_gpt2().train(), batch()
    target = item.teacher

    def terms(model):
        states = model(input_ids=INPUT_IDS).logits
        logits, labels, mask = align(states, INPUT_IDS)
        kl = top_k_kl(logits, target.top_k_ids, target.top_k_log_probs, target.tail_mass, mask)
        return logits, mask, LOSS.cross_entropy_weight * cross_entropy(logits, labels, mask) + LOSS.teacher_weight * kl

    ta_logits, mask, total = terms(ta)
    total = LOSS.ta_weight * total
    for student in students_of(ta).values():
        logits, _, own = terms(student)
        distillation = forward_kl(logits, ta_logits.detach(), mask, loss_temperature=LOSS.loss_temperature)
        total = total + (own + 0.5 * distillation) / 2
    (total / TOKENS).backward()
    assert_same(gradients(item), {name: parameter.grad for name, parameter in ta.named_parameters()})


@pytest.mark.parametrize("chunk", [1, 7, 60, 1000])
def test_chunked_loss_equals_unchunked(chunk):
    item = batch()
    assert_same(gradients(item), gradients(item, settings=PassSettings(head_chunk_tokens=chunk)))
    model = tiny_gpt2().eval()
    whole = cross_entropy_sum(model, INPUT_IDS, settings=WHOLE)
    assert cross_entropy_sum(model, INPUT_IDS, settings=PassSettings(head_chunk_tokens=chunk)).item() == pytest.approx(
        whole.item(), rel=1e-6
    )


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_activation_checkpointing_changes_no_gradient(use_reentrant):
    item = batch()
    assert_same(gradients(item), gradients(item, checkpointing=use_reentrant), rtol=0, atol=0)


def test_two_micro_batches_equal_one_batch():
    assert_same(gradients(batch()), gradients(batch(slice(0, 1)), batch(slice(1, 4))))


def test_a_students_loss_gives_exactly_zero_gradient_outside_its_slice():
    only_students = dataclasses.replace(LOSS, ta_weight=0.0)
    grads = gradients(batch(), loss=only_students, names=("s",))
    for layer in range(2):
        mlp = f"transformer.h.{layer}.mlp"
        assert not grads[f"{mlp}.c_fc.weight"][:, 8:].any()
        assert not grads[f"{mlp}.c_fc.bias"][8:].any()
        assert not grads[f"{mlp}.c_proj.weight"][8:].any()
        assert grads[f"{mlp}.c_fc.weight"][:, :8].all()


def test_the_ta_gets_no_gradient_from_the_distillation_term():
    """The TA's own neurons see the students' loss only through a stopped gradient."""
    with_term = gradients(batch(), names=("s",), distillation_weight=5.0)
    without = gradients(batch(), names=("s",), distillation_weight=0.0)
    outside = ("transformer.h.0.mlp.c_fc.weight", "transformer.h.1.mlp.c_fc.weight")
    for name in outside:
        assert torch.equal(with_term[name][:, 8:], without[name][:, 8:])
        assert not torch.equal(with_term[name][:, :8], without[name][:, :8])


def test_cached_top_k_scores_with_the_whole_vocabulary_give_the_full_kl():
    teacher, model = tiny_gpt2(64, seed=1).eval(), tiny_gpt2().eval()
    scores = top_k_scores(teacher, INPUT_IDS, 50, WHOLE)
    with torch.no_grad():
        ours, _, mask = align(model(INPUT_IDS).logits, INPUT_IDS)
        theirs, _, _ = align(teacher(INPUT_IDS).logits, INPUT_IDS)
        sparse = top_k_kl(ours, scores.top_k_ids, scores.top_k_log_probs, scores.tail_mass, mask)
    assert sparse.item() == pytest.approx(forward_kl(ours, theirs, mask).item(), rel=1e-5)


def test_returned_sums_are_unweighted_and_name_each_term_and_size():
    ta = tiny_gpt2().train()
    sums = joint_backward(
        ta, students_of(ta), batch(), LOSS, distillation_weight=0.5, num_tokens=TOKENS, settings=WHOLE, ta_name="xl"
    )
    assert set(sums) == {
        "cross_entropy/xl", "teacher_kl/xl",
        "cross_entropy/s", "teacher_kl/s", "ta_kl/s",
        "cross_entropy/m", "teacher_kl/m", "ta_kl/m",
    }  # fmt: skip
    expected = cross_entropy_sum(ta, INPUT_IDS, settings=WHOLE)
    assert sums["cross_entropy/xl"].item() == pytest.approx(expected.item(), rel=1e-6)
