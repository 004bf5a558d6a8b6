import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from matta_core.objectives.divergences import (
    IGNORED,
    align,
    cross_entropy,
    divergence_named,
    forward_kl,
    hidden_state_mse,
    jensen_shannon,
    reverse_kl,
    top_k_divergence,
    vocabulary_divergence,
)

ALL = torch.ones(5, dtype=torch.bool)
ONE = torch.tensor([True])
DIVERGENCES = {
    "forward_kl": forward_kl,
    "reverse_kl": reverse_kl,
    "jensen_shannon": partial(jensen_shannon, beta=0.5),
    "jensen_shannon of beta 0.1": partial(jensen_shannon, beta=0.1),
}
every_divergence = pytest.mark.parametrize("divergence", DIVERGENCES.values(), ids=DIVERGENCES.keys())


def logits(seed, tokens=5, vocab=7, dtype=torch.float32):
    return torch.randn(tokens, vocab, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def log_probs(*probabilities):
    return torch.tensor([probabilities], dtype=torch.float64).log()


def top_k(teacher_logits, k):
    values, ids = teacher_logits.log_softmax(-1).topk(k, dim=-1)
    return ids, values, (1 - values.exp().sum(-1)).clamp(min=0)


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


# Divergences over outcomes


def test_divergences_of_two_outcomes_in_closed_form():
    student, teacher = log_probs(0.5, 0.5), log_probs(0.75, 0.25)
    there = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    back = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    assert forward_kl(student, teacher).item() == pytest.approx(there, rel=1e-12)
    assert reverse_kl(student, teacher).item() == pytest.approx(back, rel=1e-12)
    # M = 0.2 P + 0.8 Q = (0.55, 0.45)
    from_teacher = 0.75 * math.log(0.75 / 0.55) + 0.25 * math.log(0.25 / 0.45)
    from_student = 0.5 * math.log(0.5 / 0.55) + 0.5 * math.log(0.5 / 0.45)
    mixed = 0.2 * from_teacher + 0.8 * from_student
    assert jensen_shannon(student, teacher, beta=0.2).item() == pytest.approx(mixed, rel=1e-12)


def test_divergences_are_those_of_torch_distributions():
    student = torch.distributions.Categorical(logits=logits(0, dtype=torch.float64))
    teacher = torch.distributions.Categorical(logits=logits(1, dtype=torch.float64))
    kl = torch.distributions.kl_divergence
    assert torch.allclose(forward_kl(student.logits, teacher.logits), kl(teacher, student), rtol=1e-12)
    assert torch.allclose(reverse_kl(student.logits, teacher.logits), kl(student, teacher), rtol=1e-12)
    for beta in (0.1, 0.5, 0.9):
        mixture = torch.distributions.Categorical(probs=beta * teacher.probs + (1 - beta) * student.probs)
        expected = beta * kl(teacher, mixture) + (1 - beta) * kl(student, mixture)
        assert torch.allclose(jensen_shannon(student.logits, teacher.logits, beta=beta), expected, rtol=1e-12)


def test_a_recipes_names_mean_these_divergences():
    student, teacher = logits(0).log_softmax(-1), logits(1).log_softmax(-1)
    for name, expected in {
        "forward_kl": forward_kl,
        "reverse_kl": reverse_kl,
        "jensen_shannon": partial(jensen_shannon, beta=0.3),
    }.items():
        assert torch.equal(divergence_named(name, 0.3)(student, teacher), expected(student, teacher))


@every_divergence
def test_a_divergence_of_equal_distributions_is_zero_and_of_different_ones_is_not(divergence):
    # logaddexp rounds the mixture: exact only for the two KLs.
    assert vocabulary_divergence(divergence, logits(0), logits(0), ALL).item() == pytest.approx(0.0, abs=1e-6)
    assert (divergence(logits(0).log_softmax(-1), logits(1).log_softmax(-1)) > 1e-3).all()


def test_forward_and_reverse_kl_of_equal_logits_are_exactly_zero():
    assert vocabulary_divergence(forward_kl, logits(0), logits(0), ALL).item() == 0.0
    assert vocabulary_divergence(reverse_kl, logits(0), logits(0), ALL).item() == 0.0


@given(seed=st.integers(0, 1000), beta=st.floats(0.01, 0.99))
@settings(max_examples=30, deadline=None)
def test_jensen_shannon_is_bounded_and_turns_round_with_beta(seed, beta):
    p, q = (logits(seed + i, dtype=torch.float64).mul(5).log_softmax(-1) for i in (0, 1))
    there, back = jensen_shannon(q, p, beta=beta), jensen_shannon(p, q, beta=1 - beta)
    entropy = -beta * math.log(beta) - (1 - beta) * math.log(1 - beta)
    assert (there >= 0).all()
    assert (there <= entropy + 1e-12).all()
    assert torch.allclose(there, back, rtol=1e-9, atol=1e-12)
    if beta == 0.5:
        assert torch.allclose(there, jensen_shannon(p, q, beta=0.5))


def test_jensen_shannon_of_one_half_is_symmetric_and_ln_2_where_nothing_is_shared():
    p, q = logits(0).log_softmax(-1), logits(1).log_softmax(-1)
    assert torch.allclose(jensen_shannon(p, q, beta=0.5), jensen_shannon(q, p, beta=0.5), rtol=1e-5)
    p, q = torch.tensor([[60.0, -60.0]]).log_softmax(-1), torch.tensor([[-60.0, 60.0]]).log_softmax(-1)
    assert jensen_shannon(p, q, beta=0.5).item() == pytest.approx(math.log(2), rel=1e-6)


def test_jensen_shannon_nears_forward_and_reverse_kl_at_the_ends_of_beta():
    student, teacher = (logits(i, dtype=torch.float64).log_softmax(-1) for i in (0, 1))
    near_0 = jensen_shannon(student, teacher, beta=1e-6) / 1e-6
    near_1 = jensen_shannon(student, teacher, beta=1 - 1e-6) / 1e-6
    assert torch.allclose(near_0, forward_kl(student, teacher), rtol=1e-4)
    assert torch.allclose(near_1, reverse_kl(student, teacher), rtol=1e-4)


@pytest.mark.parametrize("beta", [0.1, 0.5, 0.8])
def test_near_agreement_jensen_shannon_is_beta_times_1_minus_beta_of_the_kl(beta):
    teacher = logits(0, dtype=torch.float64)
    student = (teacher + 1e-4 * logits(1, dtype=torch.float64)).log_softmax(-1)
    teacher = teacher.log_softmax(-1)
    expected = beta * (1 - beta) * forward_kl(student, teacher)
    assert torch.allclose(jensen_shannon(student, teacher, beta=beta), expected, rtol=1e-3)


@every_divergence
def test_gradients_are_those_of_finite_differences(divergence):
    mask = torch.tensor([True, True, False, True, True])
    teacher = logits(1, dtype=torch.float64)
    student = logits(0, dtype=torch.float64).requires_grad_()
    full = partial(vocabulary_divergence, divergence, target_logits=teacher, mask=mask, loss_temperature=2.0)
    assert torch.autograd.gradcheck(lambda x: full(student_logits=x), student)
    assert torch.autograd.gradcheck(lambda x: top_k_divergence(divergence, x, *top_k(teacher, 3), mask), student)


# Over the whole vocabulary


@every_divergence
def test_gradients_keep_their_scale_as_the_temperature_rises(divergence):
    """T^2 makes the gradient of KL for high T approach (student - teacher) logits, centred, over the vocabulary."""
    student = logits(0, dtype=torch.float64).requires_grad_()
    vocabulary_divergence(divergence, student, logits(1, dtype=torch.float64), ALL, loss_temperature=1e4).backward()
    difference = logits(0, dtype=torch.float64) - logits(1, dtype=torch.float64)
    expected = (difference - difference.mean(-1, keepdim=True)) / 7
    beta = getattr(divergence, "keywords", {}).get("beta")
    factor = beta * (1 - beta) if beta else 1.0  # both distributions near the uniform one: they nearly agree
    assert torch.allclose(student.grad, factor * expected, atol=2e-4)


@every_divergence
def test_a_temperature_is_the_divergence_of_the_divided_logits_times_its_square(divergence):
    hot = vocabulary_divergence(divergence, logits(0), logits(1), ALL, loss_temperature=3.0)
    divided = vocabulary_divergence(divergence, logits(0) / 3.0, logits(1) / 3.0, ALL)
    assert hot.item() == pytest.approx(9.0 * divided.item(), rel=1e-6)


def test_different_vocabularies_are_refused():
    with pytest.raises(ValueError, match=r"student logits \(5, 7\) and target logits \(5, 8\) differ"):
        vocabulary_divergence(forward_kl, logits(0), logits(1, vocab=8), ALL)


@every_divergence
def test_masked_tokens_count_for_nothing(divergence):
    mask = torch.tensor([True, False, True, False, False])
    assert vocabulary_divergence(divergence, logits(0), logits(1), mask) == pytest.approx(
        vocabulary_divergence(divergence, logits(0)[mask], logits(1)[mask], mask[mask]).item(), rel=1e-6
    )
    ids, values, tail = top_k(logits(1), 3)
    assert top_k_divergence(divergence, logits(0), ids, values, tail, mask) == pytest.approx(
        top_k_divergence(divergence, logits(0)[mask], ids[mask], values[mask], tail[mask], mask[mask]).item(),
        rel=1e-6,
    )


# Over the top k and the rest


@every_divergence
def test_top_k_with_the_whole_vocabulary_equals_the_full_divergence_and_its_gradient(divergence):
    sparse, full = logits(0).requires_grad_(), logits(0).requires_grad_()
    ours = top_k_divergence(divergence, sparse, *top_k(logits(1), 7), ALL)
    whole = vocabulary_divergence(divergence, full, logits(1), ALL)
    ours.backward()
    whole.backward()
    assert ours.item() == pytest.approx(whole.item(), rel=1e-5)
    assert torch.allclose(sparse.grad, full.grad, atol=1e-6)


@every_divergence
def test_top_k_is_the_divergence_over_the_merged_outcomes(divergence):
    student, teacher = (logits(i, dtype=torch.float64) for i in (0, 1))
    ids = top_k(teacher, 3)[0]

    def merged(values):
        kept = values.softmax(-1).gather(-1, ids)
        return torch.cat([kept, 1 - kept.sum(-1, keepdim=True)], -1).log()

    expected = divergence(merged(student), merged(teacher)).sum()
    assert top_k_divergence(divergence, student, *top_k(teacher, 3), ALL).item() == pytest.approx(expected.item())


@every_divergence
def test_top_k_of_the_teacher_with_itself_is_zero(divergence):
    ours = top_k_divergence(divergence, logits(1), *top_k(logits(1), 3), ALL)
    assert ours.item() == pytest.approx(0.0, abs=1e-6)


@every_divergence
@given(seed=st.integers(0, 1000), k=st.integers(1, 6))
@settings(max_examples=30, deadline=None)
def test_top_k_is_a_lower_bound_of_the_full_divergence(divergence, seed, k):
    teacher = logits(seed + 1)
    merged = top_k_divergence(divergence, logits(seed), *top_k(teacher, k), ALL).item()
    assert -1e-5 <= merged <= vocabulary_divergence(divergence, logits(seed), teacher, ALL).item() + 1e-5


@every_divergence
def test_gradients_are_finite_where_the_top_k_hold_all_the_mass(divergence):
    teacher = torch.full((1, 7), -60.0)
    teacher[0, 3] = 60.0
    student = teacher.clone().requires_grad_()
    top_k_divergence(divergence, student, *top_k(teacher, 2), ONE).backward()
    assert torch.isfinite(student.grad).all()


@every_divergence
def test_a_tail_of_no_mass_and_a_forbidden_token_cost_the_student_a_finite_amount(divergence):
    """float16 rounds a small tail to 0, and a Teacher's logit may be -inf: reverse KL would be infinite."""
    ids = torch.tensor([[0, 1]])
    forbidden = torch.tensor([[0.0, -math.inf]])
    student = torch.zeros(1, 7).requires_grad_()
    value = top_k_divergence(divergence, student, ids, forbidden, torch.zeros(1), ONE)
    value.backward()
    assert torch.isfinite(value)
    assert value > 0.1
    assert torch.isfinite(student.grad).all()
    assert student.grad[0, 0] < 0 < student.grad[0, 1]  # descent moves mass from the forbidden token to the certain one


def test_reverse_kl_takes_an_empty_tail_as_the_smallest_that_float16_holds():
    ids, certain = torch.tensor([[0]]), torch.zeros(1, 1)
    empty = top_k_divergence(reverse_kl, torch.zeros(1, 2), ids, certain, torch.zeros(1), ONE)
    least = torch.finfo(torch.float16).smallest_normal * torch.finfo(torch.float16).eps
    expected = math.log(0.5) - 0.5 * math.log(least)
    assert empty.item() == pytest.approx(expected, rel=1e-6)


@every_divergence
@pytest.mark.parametrize("k", [3, 7])
def test_a_students_padding_counts_as_rest_of_which_the_teacher_has_nothing(divergence, k):
    """A student of 10 outputs, a Teacher of 7: as if the Teacher's logits there were nearly -inf."""
    padded = torch.cat([logits(1), torch.full((5, 3), -30.0)], dim=-1)
    student = logits(0, vocab=10)
    expected, expected_gradient = _value_and_gradient(divergence, student, top_k(padded, k))
    value, gradient = _value_and_gradient(divergence, student, top_k(logits(1), k))
    # The tail's floor of 6e-8 is held against mass of a few percent: 1e-6 nats per token.
    assert value == pytest.approx(expected, rel=1e-5, abs=1e-5)
    assert torch.allclose(gradient, expected_gradient, atol=1e-6)
    if k == 7:
        assert (gradient[:, 7:] > 0).all()  # mass on padding is given up


def _value_and_gradient(divergence, student, scores):
    student = student.clone().requires_grad_()
    value = top_k_divergence(divergence, student, *scores, ALL)
    value.backward()
    return value.item(), student.grad


# Hidden states


def test_hidden_state_mse_is_a_sum_over_valid_tokens_of_means_over_the_hidden_size():
    mask = torch.tensor([True, False, True, False, True])
    student, target = logits(0).requires_grad_(), logits(1)
    value = hidden_state_mse(student, target, mask)
    assert value.item() == pytest.approx(F.mse_loss(student[mask], target[mask]).item() * 3, rel=1e-6)
    value.backward()
    assert torch.allclose(student.grad, 2 / 7 * (student - target).detach() * mask[:, None])
    assert hidden_state_mse(target, target, mask).item() == 0.0


def test_hidden_state_mse_of_bfloat16_states_is_summed_in_float32():
    student, target = torch.zeros(301, 4, dtype=torch.bfloat16), torch.ones(301, 4, dtype=torch.bfloat16)
    value = hidden_state_mse(student, target, torch.ones(301, dtype=torch.bool))
    assert value.item() == 301.0  # bfloat16 has no number between 300 and 302
