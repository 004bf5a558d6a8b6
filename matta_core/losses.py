"""Losses: plain functions that return sums over valid tokens, in nats. The loop divides once.

Shapes, throughout: logits (tokens, vocab), aligned with the labels by `align`; mask (tokens,), true where valid.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORED = -100  # the label of a token that is not predicted


def align(hidden_states: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Put each position beside the token that it predicts. The only shift in the project.

    hidden_states (batch, length, hidden), labels (batch, length), equal to input_ids or IGNORED. Returns
    hidden states (tokens, hidden), labels (tokens,) and mask (tokens,), tokens = batch x (length - 1).
    """
    aligned = hidden_states[:, :-1].reshape(-1, hidden_states.shape[-1])
    next_tokens = labels[:, 1:].reshape(-1)
    return aligned, next_tokens, next_tokens != IGNORED


def cross_entropy(logits: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    """Sum over valid tokens of -log p(label)."""
    return F.cross_entropy(logits, labels.masked_fill(~mask, IGNORED), ignore_index=IGNORED, reduction="sum")


def forward_kl(
    student_logits: Tensor, teacher_logits: Tensor, mask: Tensor, *, loss_temperature: float = 1.0
) -> Tensor:
    """Sum over valid tokens of KL(teacher || student), times loss_temperature**2.

    Raises: ValueError if the logits' shapes differ.
    Source: Hinton et al. 2015, section 2.
    """
    if student_logits.shape != teacher_logits.shape:
        raise ValueError(
            f"student logits {tuple(student_logits.shape)} and teacher logits {tuple(teacher_logits.shape)} differ"
        )
    student_log_probs = F.log_softmax(student_logits / loss_temperature, dim=-1)
    teacher_log_probs = F.log_softmax(teacher_logits / loss_temperature, dim=-1)
    per_token = F.kl_div(student_log_probs, teacher_log_probs, log_target=True, reduction="none").sum(-1)
    return per_token.masked_fill(~mask, 0.0).sum() * loss_temperature**2


def top_k_kl(
    student_logits: Tensor, top_k_ids: Tensor, top_k_log_probs: Tensor, tail_mass: Tensor, mask: Tensor
) -> Tensor:
    """Sum over valid tokens of KL(teacher || student) over k + 1 outcomes: the Teacher's top k, and all the rest.

    top_k_ids, top_k_log_probs (tokens, k): the Teacher's largest, over the whole vocabulary; tail_mass (tokens,):
    the probability of the rest. A lower bound of the full KL (merging outcomes never raises it), equal to it when
    k is the vocabulary. At loss temperature 1, since the tail's tempered mass cannot be told from the cache.
    """
    normaliser = student_logits.logsumexp(dim=-1)
    student_log_probs = student_logits.gather(-1, top_k_ids) - normaliser[:, None]
    per_token = (top_k_log_probs.exp() * (top_k_log_probs - student_log_probs)).sum(-1)
    if top_k_ids.shape[-1] < student_logits.shape[-1]:
        # The rest's own log-sum, not log(1 - sum): that would lose all digits where the top k hold nearly all.
        rest = student_logits.scatter(-1, top_k_ids, float("-inf")).logsumexp(dim=-1)
        per_token = per_token + torch.xlogy(tail_mass, tail_mass) - tail_mass * (rest - normaliser)
    return per_token.masked_fill(~mask, 0.0).sum()
