"""All terms of the next-token loss on one chunk of tokens, and their gradient, without autograd.

The gradient of every term with respect to the logits is the model's probabilities times a factor, minus targets. So one
log-softmax serves all terms, and its array becomes the gradient in place. `divergences` states the same losses as plain
functions; the tests compare the two.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from matta_core.objectives.divergences import divergence_named, sampled_outcomes, teacher_outcomes
from matta_core.objectives.top_k import TeacherTargets
from matta_core.recipe import LossConfig

_SMALLEST = torch.finfo(torch.float32).tiny


@dataclass(frozen=True)
class Target:
    """What a student learns from the TA in one chunk.

    log_probs, probs (tokens, vocabulary) at the loss's temperature; negative_entropy (tokens,): sum of p log p.
    """

    log_probs: Tensor
    probs: Tensor
    negative_entropy: Tensor

    @classmethod
    def of_logits(cls, logits: Tensor, temperature: float) -> "Target":
        log_probs = F.log_softmax(_tempered(logits, temperature), dim=-1)
        probs = log_probs.exp()
        return cls(log_probs, probs, torch.linalg.vecdot(probs, log_probs))


def with_gradient(logits: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
    """The value, for one backward pass: its gradient with respect to the logits is known already."""
    return _WithGradient.apply(logits, value, gradient)


class _WithGradient(torch.autograd.Function):
    """A value whose gradient is already known."""

    @staticmethod
    def forward(ctx: Any, _logits: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
        ctx.gradient = gradient
        return value.clone()

    @staticmethod
    def backward(ctx: Any, of_value: Tensor) -> tuple[Tensor, None, None]:
        return ctx.gradient.mul_(of_value), None, None


@torch.no_grad()
def loss_and_gradient(
    logits: Tensor,
    labels: Tensor,
    mask: Tensor,
    weights: Mapping[str, float],
    loss: LossConfig,
    *,
    teacher: TeacherTargets | None = None,
    ta: Target | None = None,
) -> tuple[dict[str, Tensor], Tensor]:
    """The unweighted sums over valid tokens by term, and the gradient of the weighted sum with respect to the logits.

    logits (tokens, vocabulary) in float32; labels, mask (tokens,). `weights` holds "cross_entropy", and
    "teacher_divergence" and "ta_divergence" if these terms are wanted.
    """
    log_probs = F.log_softmax(logits, dim=-1)
    labels = labels.masked_fill(~mask, 0)[:, None]
    valid = mask.to(log_probs.dtype)
    sums = {"cross_entropy": -torch.dot(log_probs.gather(-1, labels).squeeze(-1), valid)}
    per_token = weights["cross_entropy"] * valid  # the factor of a token's probabilities

    from_ta = None
    if ta is not None and "ta_divergence" in weights:
        tempered = loss.loss_temperature != 1.0
        ours = F.log_softmax(_tempered(logits, loss.loss_temperature), dim=-1) if tempered else log_probs
        weight = weights["ta_divergence"] * loss.loss_temperature * valid  # T^2, and 1 / T of the logits'
        value, from_ta = _against_target(ours, ta, loss, keep_log_probs=not tempered)
        sums["ta_divergence"] = torch.dot(value, valid) * loss.loss_temperature**2
        if from_ta is None:
            per_token = per_token + weight
        else:
            from_ta.mul_(weight[:, None])
    del logits

    if "teacher_divergence" not in weights:
        teacher = None
    of_teacher = weights.get("teacher_divergence", 0.0) * valid
    sampled = teacher is not None and teacher.has_samples and loss.teacher_divergence == "forward_kl"
    if teacher is not None and sampled:
        ids, masses, negative_entropy = sampled_outcomes(**teacher.columns())
        value = negative_entropy - torch.linalg.vecdot(masses, log_probs.gather(-1, ids))
        sums["teacher_divergence"] = torch.dot(value, valid)
        per_token = per_token + of_teacher * masses.sum(-1)

    probs = log_probs.exp_()
    if teacher is None or sampled:
        gradient = probs.mul_(per_token[:, None])
    else:
        value, slopes, at_top_k, rest = _against_top_k(probs, teacher, loss)
        sums["teacher_divergence"] = torch.dot(value, valid)
        slopes.mul_(of_teacher[:, None])
        per_token = per_token - slopes.sum(-1)
        # The top k and the rest are separate: if the rest is tiny, the factor of its probabilities is huge.
        of_rest = 0.0 if rest is None else slopes[:, -1] / rest
        gradient = probs.mul_((per_token + of_rest)[:, None])
        k = at_top_k.shape[-1]
        gradient.scatter_(-1, teacher.top_k_ids, at_top_k.mul_(per_token[:, None]).add_(slopes[:, :k]))
    if sampled:
        gradient.scatter_add_(-1, ids, masses.mul_(-of_teacher[:, None]))
    if from_ta is not None:
        gradient.add_(from_ta)
    elif ta is not None and "ta_divergence" in weights:
        gradient.addcmul_(ta.probs, weight[:, None], value=-1.0)
    gradient.scatter_add_(-1, labels, (-weights["cross_entropy"] * valid)[:, None])
    return sums, gradient


def _tempered(logits: Tensor, temperature: float) -> Tensor:
    return logits if temperature == 1.0 else logits / temperature


def _against_target(
    log_probs: Tensor, target: Target, loss: LossConfig, *, keep_log_probs: bool
) -> tuple[Tensor, Tensor | None]:
    """For each token the divergence from the TA over the vocabulary, and its gradient with respect to the logits.

    Let q be the model's probabilities and p the TA's. The gradient of a sum of f(q) is q (f' - its mean under q). That
    of forward KL is q - p; it is None where other terms need q, too.
    """
    if loss.ta_divergence == "forward_kl":
        value = target.negative_entropy - torch.linalg.vecdot(target.probs, log_probs)
        return value, None if keep_log_probs else log_probs.exp_().sub_(target.probs)
    probs = log_probs.exp()
    if loss.ta_divergence == "reverse_kl":
        slope = log_probs - target.log_probs
        value = mean = torch.linalg.vecdot(probs, slope)
    else:
        beta = loss.jensen_shannon_beta
        mixture = torch.logaddexp(target.log_probs + math.log(beta), log_probs + math.log1p(-beta))
        from_target = target.negative_entropy - torch.linalg.vecdot(target.probs, mixture)
        slope = mixture.neg_().add_(log_probs).mul_(1.0 - beta)
        mean = torch.linalg.vecdot(probs, slope)
        value = beta * from_target + mean
    return value, slope.sub_(mean[:, None]).mul_(probs)


def _against_top_k(
    probs: Tensor, teacher: TeacherTargets, loss: LossConfig
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """For each token the divergence over the Teacher's top k and the rest (tokens,), its derivatives with respect to
    the model's log-probabilities of these outcomes (tokens, k or k + 1), and the model's probabilities of the top k
    (tokens, k) and of the rest (tokens,), or None where there is no rest. `probs` may be altered at the top k."""
    at_top_k = probs.gather(-1, teacher.top_k_ids)
    outcomes, rest = at_top_k, None
    if teacher.top_k_ids.shape[-1] < probs.shape[-1]:
        # The rest is summed itself: 1 - sum would lose all digits where the top k hold nearly all.
        rest = probs.scatter_(-1, teacher.top_k_ids, 0.0).sum(-1).clamp_(min=_SMALLEST)
        outcomes = torch.cat([at_top_k, rest[:, None]], dim=-1)
    log_outcomes = outcomes.clamp(min=_SMALLEST).log_().requires_grad_()
    theirs = teacher_outcomes(teacher.top_k_log_probs, teacher.tail_mass, has_rest=rest is not None)
    with torch.enable_grad():
        value = divergence_named(loss.teacher_divergence, loss.jensen_shannon_beta)(log_outcomes, theirs)
        (slopes,) = torch.autograd.grad(value.sum(), log_outcomes)
    return value.detach(), slopes, at_top_k, rest
