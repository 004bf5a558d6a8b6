"""Forward and backward passes of one batch, one model after the other, a chunk of tokens at a time.

The joint loss of TA and students is never in one graph. The TA goes forward and backward first; of it only the
final hidden states stay, detached, from which its logits are rebuilt chunk by chunk for the students' distillation.
The gradients are those of the joint loss; peak memory is that of the largest pass, and the full
(tokens x vocab) logits never exist.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from matta_core.config import LossConfig
from matta_core.losses import align, cross_entropy, forward_kl, top_k_kl


@dataclass(frozen=True)
class TeacherTargets:
    """The Teacher's cached scores, aligned: ids and log_probs (tokens, k), tail_mass (tokens,)."""

    top_k_ids: Tensor
    top_k_log_probs: Tensor
    tail_mass: Tensor

    def __getitem__(self, chunk: slice) -> "TeacherTargets":
        return TeacherTargets(self.top_k_ids[chunk], self.top_k_log_probs[chunk], self.tail_mass[chunk])


@dataclass(frozen=True)
class Weights:
    """What the three terms of one model's loss are multiplied with."""

    cross_entropy: float
    teacher: float
    ta: float = 0.0


@dataclass(frozen=True)
class PassSettings:
    """How passes are computed: tokens that head and loss see at a time, and the autocast type, None for fp32."""

    head_chunk_tokens: int = 4096
    autocast_dtype: torch.dtype | None = None


@dataclass(frozen=True)
class Batch:
    """input_ids (sequences, length), and the Teacher's targets for their length - 1 predicted tokens each."""

    input_ids: Tensor
    teacher: TeacherTargets | None = None


Sums = dict[str, Tensor]  # term -> sum over valid tokens, in nats, a detached scalar


def joint_backward(
    ta: PreTrainedModel,
    students: Mapping[str, PreTrainedModel],
    batch: Batch,
    loss: LossConfig,
    *,
    distillation_weight: float,
    num_tokens: int,
    settings: PassSettings,
    ta_name: str = "ta",
) -> Sums:
    """Add the gradients of the joint loss of one micro-batch to the TA's parameters, sequentially.

    `num_tokens` is the number of valid tokens of the whole optimizer step, over all micro-batches and ranks: every
    sum is divided by it, so that their split does not matter. The students' terms are averaged over the students.
    Returns the unweighted sums by term and size, such as "cross_entropy/s".
    """
    ta_states, labels, mask = align(_trunk(ta, batch.input_ids, settings), batch.input_ids)
    scale = loss.ta_weight / num_tokens
    weights = Weights(scale * loss.cross_entropy_weight, scale * loss.teacher_weight)
    sums = _named(ta_name, _head_backward(ta, ta_states, labels, mask, batch.teacher, weights, settings))
    ta_states = ta_states.detach()
    for name, student in students.items():
        scale = 1.0 / (len(students) * num_tokens)
        weights = Weights(scale * loss.cross_entropy_weight, scale * loss.teacher_weight, scale * distillation_weight)
        states, _, _ = align(_trunk(student, batch.input_ids, settings), batch.input_ids)
        terms = _head_backward(
            student,
            states,
            labels,
            mask,
            batch.teacher,
            weights,
            settings,
            ta=(ta, ta_states),
            loss_temperature=loss.loss_temperature,
        )
        sums |= _named(name, terms)
    return sums


@torch.no_grad()
def cross_entropy_sum(model: PreTrainedModel, input_ids: Tensor, settings: PassSettings) -> Tensor:
    """Sum over predicted tokens of -log p, in nats, of one batch, without gradients."""
    states, labels, mask = align(_trunk(model, input_ids, settings), input_ids)
    total = states.new_zeros((), dtype=torch.float32)
    for chunk in _chunks(len(states), settings.head_chunk_tokens):
        total += cross_entropy(_logits(model, states[chunk], settings), labels[chunk], mask[chunk])
    return total


@torch.no_grad()
def top_k_scores(model: PreTrainedModel, input_ids: Tensor, top_k: int, settings: PassSettings) -> TeacherTargets:
    """The Teacher's top-k log-probabilities at every position that predicts a token, and the mass of the rest."""
    states, _, _ = align(_trunk(model, input_ids, settings), input_ids)
    parts = []
    for chunk in _chunks(len(states), settings.head_chunk_tokens):
        values, ids = _logits(model, states[chunk], settings).log_softmax(dim=-1).topk(top_k, dim=-1)
        parts.append((ids, values, (1.0 - values.exp().sum(-1)).clamp(min=0.0)))
    return TeacherTargets(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))


def _head_backward(
    model: PreTrainedModel,
    states: Tensor,
    labels: Tensor,
    mask: Tensor,
    teacher: TeacherTargets | None,
    weights: Weights,
    settings: PassSettings,
    *,
    ta: tuple[PreTrainedModel, Tensor] | None = None,
    loss_temperature: float = 1.0,
) -> Sums:
    """Backward through head and loss chunk by chunk, then once through the trunk."""
    leaf = states.detach().requires_grad_()
    sums: Sums = {}
    for chunk in _chunks(len(states), settings.head_chunk_tokens):
        logits = _logits(model, leaf[chunk], settings)
        terms = {"cross_entropy": (weights.cross_entropy, cross_entropy(logits, labels[chunk], mask[chunk]))}
        if teacher is not None and weights.teacher > 0:
            part = teacher[chunk]
            kl = top_k_kl(logits, part.top_k_ids, part.top_k_log_probs, part.tail_mass, mask[chunk])
            terms["teacher_kl"] = (weights.teacher, kl)
        if ta is not None and weights.ta > 0:
            ta_model, ta_states = ta
            with torch.no_grad():
                ta_logits = _logits(ta_model, ta_states[chunk], settings)
            kl = forward_kl(logits, ta_logits, mask[chunk], loss_temperature=loss_temperature)
            terms["ta_kl"] = (weights.ta, kl)
        sum(weight * value for weight, value in terms.values()).backward()
        for term, (_, value) in terms.items():
            sums[term] = sums.get(term, 0.0) + value.detach()
    states.backward(leaf.grad)
    return sums


def _named(size: str, terms: Sums) -> Sums:
    return {f"{term}/{size}": total for term, total in terms.items()}


def _trunk(model: PreTrainedModel, input_ids: Tensor, settings: PassSettings) -> Tensor:
    """Final hidden states (batch, length, hidden), before the output head."""
    with _autocast(input_ids.device, settings):
        return model.base_model(input_ids=input_ids, use_cache=False).last_hidden_state


def _logits(model: PreTrainedModel, states: Tensor, settings: PassSettings) -> Tensor:
    """(tokens, hidden) to float32 logits (tokens, vocab): losses are computed in full precision."""
    with _autocast(states.device, settings):
        return model.get_output_embeddings()(states).float()


def _autocast(device: torch.device, settings: PassSettings) -> torch.autocast:
    enabled = settings.autocast_dtype is not None
    return torch.autocast(device.type, dtype=settings.autocast_dtype or torch.bfloat16, enabled=enabled)


def _chunks(num_tokens: int, chunk: int) -> list[slice]:
    return [slice(start, start + chunk) for start in range(0, num_tokens, chunk)]
