"""Losses: plain functions that return sums over valid tokens, in nats. The loop divides once.

Shapes are the same throughout: logits (tokens, vocab), aligned with the labels by `align`; mask (tokens,), true where
valid.

A divergence does not know its outcomes. `forward_kl`, `reverse_kl` and `jensen_shannon` compare two distributions over
any set of outcomes. `vocabulary_divergence` takes one of them over all tokens, `top_k_divergence` over the Teacher's
top k and the rest as one outcome. `sampled_forward_kl` estimates forward KL over all tokens.
"""

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORED = -100  # the label of a token that is not predicted

# From (student log-probabilities, target log-probabilities), both (tokens, outcomes), to (tokens,).
Divergence = Callable[[Tensor, Tensor], Tensor]

# The tail's mass is 1 - the top k's in float32: 0 means "less than about this". An exact 0 would make reverse KL
# infinite wherever the student leaves the tail anything at all.
_SMALLEST_TAIL_MASS = 2.0**-24
# In float32 exp() of anything less is 0. So this bound changes only a -inf, from a Teacher that forbids a token.
_LOWEST_LOG_PROB = math.log(torch.finfo(torch.float32).tiny)


def align(hidden_states: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Put each position beside the token that it predicts. This is the only shift in the project.

    hidden_states (batch, length, hidden), labels (batch, length), equal to input_ids or IGNORED. Returns
    hidden states (tokens, hidden), labels (tokens,) and mask (tokens,), tokens = batch x (length - 1).
    """
    aligned = hidden_states[:, :-1].reshape(-1, hidden_states.shape[-1])
    next_tokens = labels[:, 1:].reshape(-1)
    return aligned, next_tokens, next_tokens != IGNORED


def cross_entropy(logits: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    """Sum over valid tokens of -log p(label)."""
    return F.cross_entropy(logits, labels.masked_fill(~mask, IGNORED), ignore_index=IGNORED, reduction="sum")


def forward_kl(student_log_probs: Tensor, target_log_probs: Tensor) -> Tensor:
    """KL(P || Q) for target P and student Q. It costs the student most to leave out what the target does."""
    return F.kl_div(student_log_probs, target_log_probs, log_target=True, reduction="none").sum(-1)


def reverse_kl(student_log_probs: Tensor, target_log_probs: Tensor) -> Tensor:
    """KL(Q || P) for target P and student Q. It costs the student most to do what the target does not."""
    return forward_kl(target_log_probs, student_log_probs)


def jensen_shannon(student_log_probs: Tensor, target_log_probs: Tensor, *, beta: float) -> Tensor:
    """beta KL(P || M) + (1 - beta) KL(Q || M) for target P, student Q, M = beta P + (1 - beta) Q, and 0 < beta < 1.

    It is at most the entropy of (beta, 1 - beta). Divided by beta, it nears forward KL as beta nears 0; divided by
    1 - beta, it nears reverse KL as beta nears 1. Source: Agarwal et al. 2024, "On-policy distillation of language
    models", section 2.
    """
    mixture = torch.logaddexp(target_log_probs + math.log(beta), student_log_probs + math.log1p(-beta))
    return beta * forward_kl(mixture, target_log_probs) + (1.0 - beta) * forward_kl(mixture, student_log_probs)


def divergence_named(name: str, jensen_shannon_beta: float) -> Divergence:
    """The divergence that a recipe names."""
    named: dict[str, Divergence] = {
        "forward_kl": forward_kl,
        "reverse_kl": reverse_kl,
        "jensen_shannon": partial(jensen_shannon, beta=jensen_shannon_beta),
    }
    return named[name]


def vocabulary_divergence(
    divergence: Divergence,
    student_logits: Tensor,
    target_logits: Tensor,
    mask: Tensor,
    *,
    loss_temperature: float = 1.0,
) -> Tensor:
    """Sum over valid tokens of the divergence over the whole vocabulary, times loss_temperature**2.

    Both logits are divided by T. This shows the student the target's small probabilities, but shrinks the gradients by
    about 1/T^2. The factor restores their scale, so that T can be chosen apart from the weight.

    Raises: ValueError if the logits' shapes differ.
    Source: Hinton et al. 2015, section 2.
    """
    if student_logits.shape != target_logits.shape:
        raise ValueError(
            f"student logits {tuple(student_logits.shape)} and target logits {tuple(target_logits.shape)} differ"
        )
    student_log_probs = F.log_softmax(student_logits / loss_temperature, dim=-1)
    target_log_probs = F.log_softmax(target_logits / loss_temperature, dim=-1)
    per_token = divergence(student_log_probs, target_log_probs)
    return per_token.masked_fill(~mask, 0.0).sum() * loss_temperature**2


def top_k_divergence(
    divergence: Divergence,
    student_logits: Tensor,
    top_k_ids: Tensor,
    top_k_log_probs: Tensor,
    tail_mass: Tensor,
    mask: Tensor,
) -> Tensor:
    """Sum over valid tokens of the divergence over k + 1 outcomes: the Teacher's top k, and all the rest.

    top_k_ids and top_k_log_probs (tokens, k) are the Teacher's largest; tail_mass (tokens,) is the probability of the
    rest of its vocabulary. The student's rest is that of its own vocabulary, so that a padded output, wider than the
    tokenizer, pays for mass on ids that no text holds. The result is a lower bound of the full divergence, because
    merging outcomes never raises it, and equals it if k is the vocabulary. The loss temperature is 1, because the cache
    does not tell the tail's mass at another one.
    """
    normaliser = student_logits.logsumexp(dim=-1, keepdim=True)
    student_log_probs = student_logits.gather(-1, top_k_ids) - normaliser
    has_rest = top_k_ids.shape[-1] < student_logits.shape[-1]
    if has_rest:
        # The rest is summed itself: log(1 - sum) would lose all digits where the top k hold nearly all.
        rest = student_logits.scatter(-1, top_k_ids, float("-inf")).logsumexp(dim=-1, keepdim=True)
        student_log_probs = torch.cat([student_log_probs, rest - normaliser], dim=-1)
    target_log_probs = teacher_outcomes(top_k_log_probs, tail_mass, has_rest=has_rest)
    per_token = divergence(student_log_probs, target_log_probs)
    return per_token.masked_fill(~mask, 0.0).sum()


def teacher_outcomes(top_k_log_probs: Tensor, tail_mass: Tensor, *, has_rest: bool) -> Tensor:
    """The Teacher's log-probabilities, all finite: (tokens, k), or (tokens, k + 1) with that of the rest."""
    log_probs = top_k_log_probs.clamp(min=_LOWEST_LOG_PROB)
    if not has_rest:
        return log_probs
    return torch.cat([log_probs, tail_mass.clamp(min=_SMALLEST_TAIL_MASS).log()[:, None]], dim=-1)


def sampled_forward_kl(
    student_logits: Tensor,
    top_k_ids: Tensor,
    top_k_log_probs: Tensor,
    tail_mass: Tensor,
    tail_ids: Tensor,
    tail_log_prob: Tensor,
    mask: Tensor,
) -> Tensor:
    """Sum over valid tokens of an estimate of forward KL over the whole vocabulary, without bias.

    The Teacher's top k count as they are. tail_ids (tokens, samples), drawn from its other ids in proportion to their
    probability, share tail_mass (tokens,) equally; tail_log_prob (tokens,) is the mean of log p over the others under
    p. Forward KL is linear in p but for the Teacher's own entropy, so that the estimate's mean is the KL and its
    gradient's mean is the gradient. Source: Anshumann et al. 2025, "Sparse logit sampling" (arXiv 2503.16870).
    """
    ids, masses, negative_entropy = sampled_outcomes(top_k_ids, top_k_log_probs, tail_mass, tail_ids, tail_log_prob)
    per_token = negative_entropy - torch.linalg.vecdot(masses, student_logits.log_softmax(-1).gather(-1, ids))
    return per_token.masked_fill(~mask, 0.0).sum()


def sampled_outcomes(
    top_k_ids: Tensor, top_k_log_probs: Tensor, tail_mass: Tensor, tail_ids: Tensor, tail_log_prob: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Ids and their masses (tokens, k + samples), an id perhaps several times, and the sum of p log p (tokens,)."""
    log_probs = top_k_log_probs.clamp(min=_LOWEST_LOG_PROB)
    probs = log_probs.exp()
    shares = (tail_mass / tail_ids.shape[-1])[:, None].expand_as(tail_ids)
    negative_entropy = torch.linalg.vecdot(probs, log_probs) + tail_mass * tail_log_prob
    return torch.cat([top_k_ids, tail_ids], -1), torch.cat([probs, shares], -1), negative_entropy


def hidden_state_mse(student_states: Tensor, target_states: Tensor, mask: Tensor) -> Tensor:
    """Sum over valid tokens of the mean squared difference of hidden states (tokens, hidden), in float32.

    Student and TA share the hidden size, so no projection lies between them. Source: Jiao et al. 2020 (TinyBERT),
    equation 8, without its projection.
    """
    per_token = F.mse_loss(student_states.float(), target_states.float(), reduction="none").mean(-1)
    return per_token.masked_fill(~mask, 0.0).sum()
