import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from matta_core.losses import IGNORED, align, cross_entropy, forward_kl, top_k_kl


def logits(seed, tokens=5, vocab=7):
    return torch.randn(tokens, vocab, generator=torch.Generator().manual_seed(seed))


ALL = torch.ones(5, dtype=torch.bool)


def top_k(teacher_logits, k):
    log_probs, ids = teacher_logits.log_softmax(-1).topk(k, dim=-1)
    return ids, log_probs, (1 - log_probs.exp().sum(-1)).clamp(min=0)


def test_align_puts_each_position_beside_the_next_token():
    states = torch.arange(6.0).reshape(2, 3, 1)
    aligned, labels, mask = align(states, torch.tensor([[10, 11, 12], [20, IGNORED, 22]]))
    assert aligned.flatten().tolist() == [0, 1, 3, 4]
    assert labels.tolist() == [11, 12, IGNORED, 22]
    assert mask.tolist() == [True, True, False, True]


def test_cross_entropy_is_torchs_sum_over_valid_tokens():
    labels = torch.tensor([0, 1, 2, 3, 4])
    mask = torch.tensor([True, True, False, True, False])
    expected = F.cross_entropy(logits(0)[mask], labels[mask], reduction="sum")
    assert cross_entropy(logits(0), labels, mask) == pytest.approx(expected.item(), rel=1e-6)


def test_forward_kl_of_equal_logits_is_zero():
    assert forward_kl(logits(0), logits(0), ALL).item() == 0.0


def test_forward_kl_of_two_outcomes_in_closed_form():
    teacher = torch.tensor([[0.75, 0.25]]).log()
    student = torch.tensor([[0.5, 0.5]]).log()
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert forward_kl(student, teacher, torch.tensor([True])).item() == pytest.approx(expected, rel=1e-6)


def test_forward_kl_is_directed_and_never_negative():
    there, back = forward_kl(logits(0), logits(1), ALL), forward_kl(logits(1), logits(0), ALL)
    assert there > 0
    assert back > 0
    assert not math.isclose(there, back, rel_tol=1e-3)


def test_forward_kl_gradients_keep_their_scale_as_the_temperature_rises():
    """T^2 makes the gradient for high T approach (student - teacher) logits, centred, over the vocabulary."""
    student = logits(0).requires_grad_()
    forward_kl(student, logits(1), ALL, loss_temperature=1000.0).backward()
    difference = logits(0) - logits(1)
    expected = (difference - difference.mean(-1, keepdim=True)) / 7
    assert torch.allclose(student.grad, expected, atol=2e-3)


def test_forward_kl_refuses_different_vocabularies():
    with pytest.raises(ValueError, match=r"student logits \(5, 7\) and teacher logits \(5, 8\) differ"):
        forward_kl(logits(0), logits(1, vocab=8), ALL)


def test_masked_tokens_count_for_nothing():
    mask = torch.tensor([True, False, True, False, False])
    assert forward_kl(logits(0), logits(1), mask) == pytest.approx(
        forward_kl(logits(0)[mask], logits(1)[mask], mask[mask]).item(), rel=1e-6
    )
    ids, log_probs, tail = top_k(logits(1), 3)
    assert top_k_kl(logits(0), ids, log_probs, tail, mask) == pytest.approx(
        top_k_kl(logits(0)[mask], ids[mask], log_probs[mask], tail[mask], mask[mask]).item(), rel=1e-6
    )


def test_top_k_kl_with_the_whole_vocabulary_equals_the_full_kl_and_its_gradient():
    sparse, full = logits(0).requires_grad_(), logits(0).requires_grad_()
    top_k_kl(sparse, *top_k(logits(1), 7), ALL).backward()
    forward_kl(full, logits(1), ALL).backward()
    assert top_k_kl(sparse, *top_k(logits(1), 7), ALL).item() == pytest.approx(
        forward_kl(full, logits(1), ALL).item(), rel=1e-5
    )
    assert torch.allclose(sparse.grad, full.grad, atol=1e-6)


def test_top_k_kl_of_the_teacher_with_itself_is_zero():
    assert top_k_kl(logits(1), *top_k(logits(1), 3), ALL).item() == pytest.approx(0.0, abs=1e-6)


@given(seed=st.integers(0, 1000), k=st.integers(1, 6))
@settings(max_examples=30, deadline=None)
def test_top_k_kl_is_a_lower_bound_of_the_full_kl(seed, k):
    teacher = logits(seed + 1)
    merged = top_k_kl(logits(seed), *top_k(teacher, k), ALL).item()
    assert -1e-5 <= merged <= forward_kl(logits(seed), teacher, ALL).item() + 1e-5


def test_top_k_kl_has_finite_gradients_where_the_top_k_hold_all_the_mass():
    teacher = torch.full((1, 7), -60.0)
    teacher[0, 3] = 60.0
    student = teacher.clone().requires_grad_()
    top_k_kl(student, *top_k(teacher, 2), torch.tensor([True])).backward()
    assert torch.isfinite(student.grad).all()
