"""The closed form against autograd on the plain functions: the same sums, the same gradient."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from matta_core.objectives.closed_form import Target, loss_and_gradient
from matta_core.objectives.divergences import (
    cross_entropy,
    divergence_named,
    sampled_forward_kl,
    top_k_divergence,
    vocabulary_divergence,
)
from matta_core.objectives.top_k import TeacherTargets, top_k_scores
from matta_core.recipe import LossConfig

DIVERGENCES = ["forward_kl", "reverse_kl", "jensen_shannon"]


def teacher_of(logits, k, vocabulary, samples=0):
    return top_k_scores(logits, k, vocabulary, samples)


def by_autograd(logits, labels, mask, weights, loss, teacher, ta_logits):
    leaf = logits.detach().clone().requires_grad_()
    terms = {"cross_entropy": cross_entropy(leaf, labels, mask)}
    if "teacher_divergence" in weights:
        divergence = divergence_named(loss.teacher_divergence, loss.jensen_shannon_beta)
        if teacher.has_samples and loss.teacher_divergence == "forward_kl":
            terms["teacher_divergence"] = sampled_forward_kl(leaf, **teacher.columns(), mask=mask)
        else:
            terms["teacher_divergence"] = top_k_divergence(
                divergence, leaf, teacher.top_k_ids, teacher.top_k_log_probs, teacher.tail_mass, mask
            )
    if "ta_divergence" in weights:
        divergence = divergence_named(loss.ta_divergence, loss.jensen_shannon_beta)
        terms["ta_divergence"] = vocabulary_divergence(
            divergence, leaf, ta_logits, mask, loss_temperature=loss.loss_temperature
        )
    sum(weights[name] * value for name, value in terms.items()).backward()
    return {name: value.detach() for name, value in terms.items()}, leaf.grad


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    tokens=st.integers(1, 9),
    vocabulary=st.integers(2, 40),
    padding=st.integers(0, 8),
    k=st.integers(1, 48),
    samples=st.integers(0, 5),
    scale=st.sampled_from([0.1, 1.0, 8.0]),
    temperature=st.sampled_from([0.5, 1.0, 3.0]),
    from_teacher=st.sampled_from([None, *DIVERGENCES]),
    from_ta=st.sampled_from([None, *DIVERGENCES]),
    beta=st.sampled_from([0.1, 0.5, 0.9]),
    masked=st.sampled_from([0.0, 0.4, 1.0]),
    label_weight=st.sampled_from([0.0, 0.7]),
)
def test_sums_and_gradient_are_those_of_the_plain_functions(
    seed, tokens, vocabulary, padding, k, samples, scale, temperature, from_teacher, from_ta, beta, masked, label_weight
):
    """In float64. `padding`: rows of the output that no token has; `k` up to the whole of it."""
    generator = torch.Generator().manual_seed(seed)
    wide = vocabulary + padding
    logits, ta_logits, teacher_logits = (
        scale * torch.randn(tokens, wide, generator=generator, dtype=torch.float64) for _ in range(3)
    )
    labels = torch.randint(vocabulary, (tokens,), generator=generator)
    mask = torch.rand(tokens, generator=generator) >= masked
    labels = labels.masked_fill(~mask, -100)
    teacher = teacher_of(teacher_logits, min(k, vocabulary), vocabulary, samples)
    loss = LossConfig(loss_temperature=temperature, jensen_shannon_beta=beta)
    weights = {"cross_entropy": label_weight}
    if from_teacher:
        weights["teacher_divergence"] = 0.6
        loss = dataclasses.replace(loss, teacher_divergence=from_teacher)
    if from_ta:
        weights["ta_divergence"] = 1.3
        loss = dataclasses.replace(loss, ta_divergence=from_ta)
    expected_sums, expected = by_autograd(logits, labels, mask, weights, loss, teacher, ta_logits)
    ta = Target.of_logits(ta_logits, temperature)
    sums, gradient = loss_and_gradient(logits, labels, mask, weights, loss, teacher=teacher, ta=ta)
    assert sums.keys() == expected_sums.keys()
    for name, value in expected_sums.items():
        assert sums[name].item() == pytest.approx(value.item(), rel=1e-9, abs=1e-9), name
    torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-9)
    assert not gradient[~mask].any()


@pytest.mark.parametrize("from_ta", DIVERGENCES)
@pytest.mark.parametrize("from_teacher", DIVERGENCES)
@pytest.mark.parametrize("samples", [0, 8])
def test_in_float32_the_gradient_is_as_near_to_the_exact_one_as_autograds(samples, from_teacher, from_ta):
    generator = torch.Generator().manual_seed(0)
    logits, ta_logits, teacher_logits = (2 * torch.randn(64, 1000, generator=generator) for _ in range(3))
    labels, mask = torch.randint(1000, (64,), generator=generator), torch.ones(64, dtype=torch.bool)
    loss = LossConfig(teacher_divergence=from_teacher, ta_divergence=from_ta)
    weights = {"cross_entropy": 0.5, "teacher_divergence": 0.5, "ta_divergence": 0.5}
    teacher = teacher_of(teacher_logits, 16, 1000, samples)
    doubled = TeacherTargets(
        **{name: x if name.endswith("ids") else x.double() for name, x in teacher.columns().items()}
    )
    _, exact = by_autograd(logits.double(), labels, mask, weights, loss, doubled, ta_logits.double())
    _, autograds = by_autograd(logits, labels, mask, weights, loss, teacher, ta_logits)
    ta = Target.of_logits(ta_logits, 1.0)
    _, ours = loss_and_gradient(logits, labels, mask, weights, loss, teacher=teacher, ta=ta)
    assert relative(ours, exact) < 1e-6
    assert relative(ours, exact) < 3 * relative(autograds, exact)


def relative(found, exact):
    return ((found - exact).norm() / exact.norm()).item()
