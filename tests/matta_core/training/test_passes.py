"""The gradients are those of the joint loss, however it is cut into passes, chunks and micro-batches."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from passes_support import (
    INPUT_IDS,
    LOSS,
    TOKENS,
    VOCABULARY,
    WHOLE,
    assert_same,
    batch,
    cross_entropy_sum,
    joint_backward,
    students_of,
    tiny_ta,
    top_k_scores,
)
from support import tiny_gpt2

from matta_core.objectives.divergences import (
    align,
    cross_entropy,
    divergence_named,
    top_k_divergence,
    vocabulary_divergence,
)
from matta_core.objectives.top_k import teacher_targets
from matta_core.recipe import LossConfig, Schedule
from matta_core.training.passes import PassSettings


def gradients(*batches, loss=LOSS, settings=WHOLE, checkpointing=None, names=("s", "m"), step=0):
    ta = tiny_ta()
    students = {name: student for name, student in students_of(ta).items() if name in names}
    if checkpointing is not None:
        for model in (ta, *students.values()):
            model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": checkpointing})
    for item in batches:
        joint_backward(ta, students, item, loss, step=step, num_targets=TOKENS, settings=settings)
    return {name: parameter.grad for name, parameter in ta.named_parameters()}


def gradients_in_one_graph(item, loss):
    """LossConfig's equation, for constant weights, with nothing of `passes` but the data."""
    ta, target = tiny_ta(), teacher_targets(item, TOKENS)
    a, b = loss.cross_entropy_weight.end, loss.teacher_weight.end
    of_teacher, of_ta = (
        divergence_named(name, loss.jensen_shannon_beta) for name in (loss.teacher_divergence, loss.ta_divergence)
    )

    def terms(model):
        output = model(input_ids=INPUT_IDS, output_hidden_states=True)
        logits, labels, mask = align(output.logits, INPUT_IDS)
        states, _, _ = align(output.hidden_states[-1], INPUT_IDS)
        scores = (target.top_k_ids, target.top_k_log_probs, target.tail_mass)
        own = a * cross_entropy(logits, labels, mask) + b * top_k_divergence(of_teacher, logits, *scores, mask)
        return logits, states, mask, own

    ta_logits, ta_states, mask, total = terms(ta)
    total = loss.ta_weight.end * total
    for student in students_of(ta).values():
        logits, states, _, own = terms(student)
        temperature = loss.loss_temperature
        distilled = vocabulary_divergence(of_ta, logits, ta_logits.detach(), mask, loss_temperature=temperature)
        matched = F.mse_loss(states, ta_states.detach()) * TOKENS
        share = own + loss.distillation_weight.end * distilled + loss.hidden_state_weight.end * matched
        total = total + share / 2
    (total / TOKENS).backward()
    return {name: parameter.grad for name, parameter in ta.named_parameters()}


every_divergence = pytest.mark.parametrize(
    "loss",
    [
        LOSS,
        dataclasses.replace(LOSS, teacher_divergence="reverse_kl", ta_divergence="reverse_kl"),
        dataclasses.replace(
            LOSS, teacher_divergence="jensen_shannon", ta_divergence="jensen_shannon", jensen_shannon_beta=0.3
        ),
        dataclasses.replace(LOSS, teacher_divergence="reverse_kl"),  # each term has its own
    ],
    ids=["forward_kl", "reverse_kl", "jensen_shannon", "reverse_kl and forward_kl"],
)


@every_divergence
def test_sequential_gradients_equal_the_joint_losses(loss):
    assert_same(gradients(batch(), loss=loss), gradients_in_one_graph(batch(), loss))


@every_divergence
def test_two_micro_batches_equal_one_batch(loss):
    assert_same(gradients(batch(), loss=loss), gradients(batch(slice(0, 1)), batch(slice(1, 4)), loss=loss))


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


def test_a_step_takes_the_weights_that_the_schedules_have_then():
    ramp = Schedule(start=0.0, end=0.8, num_steps=4)
    moving = dataclasses.replace(LOSS, ta_weight=ramp, distillation_weight=ramp, hidden_state_weight=ramp)
    at_3 = dataclasses.replace(LOSS, ta_weight=0.6, distillation_weight=0.6, hidden_state_weight=0.6)
    assert_same(gradients(batch(), loss=moving, step=3), gradients(batch(), loss=at_3))


def test_a_students_loss_gives_exactly_zero_gradient_outside_its_slice():
    only_students = dataclasses.replace(LOSS, ta_weight=0.0)
    grads = gradients(batch(), loss=only_students, names=("s",))
    for layer in range(2):
        mlp = f"transformer.h.{layer}.mlp"
        assert not grads[f"{mlp}.c_fc.weight"][:, 8:].any()
        assert not grads[f"{mlp}.c_fc.bias"][8:].any()
        assert not grads[f"{mlp}.c_proj.weight"][8:].any()
        assert grads[f"{mlp}.c_fc.weight"][:, :8].all()


@pytest.mark.parametrize("weight", ["distillation_weight", "hidden_state_weight"])
def test_the_ta_gets_no_gradient_from_being_a_target(weight):
    """The TA's own neurons see the students' loss only through a stopped gradient."""
    with_term = gradients(batch(), names=("s",), loss=dataclasses.replace(LOSS, **{weight: 5.0}))
    without = gradients(batch(), names=("s",), loss=dataclasses.replace(LOSS, **{weight: 0.0}))
    outside = ("transformer.h.0.mlp.c_fc.weight", "transformer.h.1.mlp.c_fc.weight")
    for name in outside:
        assert torch.equal(with_term[name][:, 8:], without[name][:, 8:])
        assert not torch.equal(with_term[name][:, :8], without[name][:, :8])


@pytest.mark.parametrize("name", ["forward_kl", "reverse_kl", "jensen_shannon"])
def test_cached_top_k_scores_with_the_whole_vocabulary_give_the_full_divergence(name):
    divergence = divergence_named(name, 0.5)
    teacher, model = tiny_gpt2(64, seed=1).eval(), tiny_gpt2().eval()
    batch = {"input_ids": INPUT_IDS, **top_k_scores(teacher, INPUT_IDS, VOCABULARY)}
    scores = teacher_targets(batch, TOKENS)
    with torch.no_grad():
        ours, _, mask = align(model(INPUT_IDS).logits, INPUT_IDS)
        theirs, _, _ = align(teacher(INPUT_IDS).logits, INPUT_IDS)
        sparse = top_k_divergence(divergence, ours, scores.top_k_ids, scores.top_k_log_probs, scores.tail_mass, mask)
    assert sparse.item() == pytest.approx(vocabulary_divergence(divergence, ours, theirs, mask).item(), rel=1e-5)


@pytest.mark.parametrize("top_k", [10, VOCABULARY])
def test_a_padded_teachers_scores_are_over_the_tokens_alone(top_k):
    teacher = tiny_gpt2(64, vocab_size=VOCABULARY + 14, seed=1).eval()
    scores = teacher_targets(top_k_scores(teacher, INPUT_IDS, top_k), TOKENS)
    with torch.no_grad():
        logits, _, _ = align(teacher(INPUT_IDS).logits, INPUT_IDS)
    values, ids = logits[:, :VOCABULARY].log_softmax(-1).topk(top_k, dim=-1)
    assert torch.equal(scores.top_k_ids, ids)
    assert torch.allclose(scores.top_k_log_probs, values, atol=1e-6)
    assert torch.allclose(scores.top_k_log_probs.exp().sum(-1) + scores.tail_mass, torch.ones(TOKENS), atol=1e-6)
    # What the padding would have had is not a little: the test would see it in the tail.
    assert logits.softmax(-1)[:, VOCABULARY:].sum(-1).mean() > 0.05


@pytest.mark.parametrize("top_k", [10, VOCABULARY])
def test_a_padded_student_unlearns_its_padding(top_k):
    ta = tiny_gpt2(vocab_size=VOCABULARY + 14).train()
    optimizer = torch.optim.Adam(ta.parameters(), lr=1e-2)
    loss = LossConfig(cross_entropy_weight=0.0, teacher_weight=1.0)

    def padding():
        with torch.no_grad():
            return ta(INPUT_IDS).logits.softmax(-1)[..., VOCABULARY:].sum(-1).mean().item()

    before = padding()
    for step in range(40):
        sums = joint_backward(ta, {}, batch(top_k=top_k), loss, step=step, num_targets=TOKENS, settings=WHOLE)
        assert sums["teacher_divergence/ta"] > 0
        optimizer.step()
        optimizer.zero_grad()
    if top_k == VOCABULARY:
        assert padding() < 0.1 * before
    else:  # the rest has mass that the scores do not tell apart from padding: bounded by the Teacher's tail alone
        assert padding() < before


def test_returned_sums_are_unweighted_and_name_each_term_and_size():
    ta = tiny_ta()
    sums = joint_backward(ta, students_of(ta), batch(), LOSS, step=0, num_targets=TOKENS, settings=WHOLE, ta_name="xl")
    assert set(sums) == {
        "cross_entropy/xl", "teacher_divergence/xl",
        "cross_entropy/s", "teacher_divergence/s", "ta_divergence/s", "hidden_state_mse/s",
        "cross_entropy/m", "teacher_divergence/m", "ta_divergence/m", "hidden_state_mse/m",
    }  # fmt: skip
    expected = cross_entropy_sum(ta, INPUT_IDS, settings=WHOLE)
    assert sums["cross_entropy/xl"].item() == pytest.approx(expected.item(), rel=1e-6)


def test_terms_that_weigh_nothing_are_not_computed():
    ta, loss = tiny_ta(), LossConfig(teacher_weight=0.0, distillation_weight=0.0)
    sums = joint_backward(ta, students_of(ta), batch(), loss, step=0, num_targets=TOKENS, settings=WHOLE)
    assert set(sums) == {"cross_entropy/ta", "cross_entropy/s", "cross_entropy/m"}
