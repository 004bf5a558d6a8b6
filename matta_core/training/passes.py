"""Forward and backward passes of one batch, one model after the other, a chunk of tokens at a time.

The joint loss of TA and students is never in one graph. The TA goes forward and backward first; of it only the
final hidden states stay, detached: the students are matched with them, and with the logits that are rebuilt from them
chunk by chunk.
The gradients are those of the joint loss; peak memory is that of the largest pass, and the full
(tokens x vocab) logits never exist.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from matta_core.objectives.divergences import (
    align,
    cross_entropy,
    divergence_named,
    hidden_state_mse,
    top_k_divergence,
    vocabulary_divergence,
)
from matta_core.recipe import LossConfig


@dataclass(frozen=True)
class TeacherTargets:
    """The Teacher's cached scores, aligned: ids and log_probs (tokens, k), tail_mass (tokens,)."""

    top_k_ids: Tensor
    top_k_log_probs: Tensor
    tail_mass: Tensor

    def __getitem__(self, chunk: slice) -> "TeacherTargets":
        return TeacherTargets(self.top_k_ids[chunk], self.top_k_log_probs[chunk], self.tail_mass[chunk])


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


@dataclass(frozen=True)
class TaTargets:
    """What students learn from the TA: its head, and its final hidden states (tokens, hidden), detached."""

    model: PreTrainedModel
    states: Tensor


Sums = dict[str, Tensor]  # term -> sum over valid tokens, in nats (hidden_state_mse: squared units), a detached scalar


def joint_backward(
    ta: PreTrainedModel,
    students: Mapping[str, PreTrainedModel],
    batch: Batch,
    loss: LossConfig,
    *,
    step: int,
    num_tokens: int,
    settings: PassSettings,
    ta_name: str = "ta",
) -> Sums:
    """Add the gradients of one micro-batch's joint loss, as LossConfig states it, to the TA's parameters, sequentially.

    `step` is the optimizer step, from 0, whose weights are taken; `num_tokens` the number of valid tokens of the whole
    step, over all micro-batches and ranks: every sum is divided by it, so that their split does not matter. The
    students' terms are averaged over the students.
    Returns the unweighted sums by term and size, such as "cross_entropy/s".
    """
    weights = loss.weights_at(step)
    own = {"cross_entropy": weights["cross_entropy"], "teacher_divergence": weights["teacher"]}
    from_ta = {"ta_divergence": weights["distillation"], "hidden_state_mse": weights["hidden_state"]}

    ta_states, labels, mask = align(_trunk(ta, batch.input_ids, settings), batch.input_ids)
    scaled = _scaled(own, weights["ta"] / num_tokens)
    sums = _named(ta_name, _head_backward(ta, ta_states, labels, mask, batch.teacher, None, scaled, loss, settings))

    targets = TaTargets(ta, ta_states.detach())
    scaled = _scaled(own | from_ta, 1.0 / (len(students) * num_tokens)) if students else {}
    for name, student in students.items():
        states, _, _ = align(_trunk(student, batch.input_ids, settings), batch.input_ids)
        terms = _head_backward(student, states, labels, mask, batch.teacher, targets, scaled, loss, settings)
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
def top_k_scores(
    model: PreTrainedModel, input_ids: Tensor, top_k: int, vocab_size: int, settings: PassSettings
) -> TeacherTargets:
    """The Teacher's top-k log-probabilities at every position that predicts a token, and the mass of the rest.

    Over the first `vocab_size` ids alone, normalised anew: an output that is padded for the hardware's sake (Qwen:
    151,936 or 152,064 rows for 151,665 tokens) leaves some mass on ids that mean nothing to the student.
    """
    states, _, _ = align(_trunk(model, input_ids, settings), input_ids)
    parts = []
    for chunk in _chunks(len(states), settings.head_chunk_tokens):
        logits = _logits(model, states[chunk], settings)[:, :vocab_size]
        values, ids = logits.log_softmax(dim=-1).topk(top_k, dim=-1)
        parts.append((ids, values, (1.0 - values.exp().sum(-1)).clamp(min=0.0)))
    return TeacherTargets(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))


def _head_backward(
    model: PreTrainedModel,
    states: Tensor,
    labels: Tensor,
    mask: Tensor,
    teacher: TeacherTargets | None,
    ta: TaTargets | None,
    weights: Mapping[str, float],
    loss: LossConfig,
    settings: PassSettings,
) -> Sums:
    """Backward through head and loss chunk by chunk, then once through the trunk. Terms are those of `weights`."""
    from_teacher = divergence_named(loss.teacher_divergence, loss.jensen_shannon_beta)
    from_ta = divergence_named(loss.ta_divergence, loss.jensen_shannon_beta)
    leaf = states.detach().requires_grad_()
    sums: Sums = {}
    for chunk in _chunks(len(states), settings.head_chunk_tokens):
        valid = mask[chunk]
        logits = _logits(model, leaf[chunk], settings)
        terms = {"cross_entropy": cross_entropy(logits, labels[chunk], valid)}
        if teacher is not None and "teacher_divergence" in weights:
            part = teacher[chunk]
            terms["teacher_divergence"] = top_k_divergence(
                from_teacher, logits, part.top_k_ids, part.top_k_log_probs, part.tail_mass, valid
            )
        if ta is not None and "ta_divergence" in weights:
            with torch.no_grad():
                ta_logits = _logits(ta.model, ta.states[chunk], settings)
            terms["ta_divergence"] = vocabulary_divergence(
                from_ta, logits, ta_logits, valid, loss_temperature=loss.loss_temperature
            )
        if ta is not None and "hidden_state_mse" in weights:
            terms["hidden_state_mse"] = hidden_state_mse(leaf[chunk], ta.states[chunk], valid)
        sum(weights[term] * value for term, value in terms.items()).backward()
        for term, value in terms.items():
            sums[term] = sums.get(term, 0.0) + value.detach()
    states.backward(leaf.grad)
    return sums


def _scaled(weights: Mapping[str, float], factor: float) -> dict[str, float]:
    """Weights times factor, without the terms that then weigh nothing; cross-entropy stays, to be logged."""
    return {term: value * factor for term, value in weights.items() if value * factor > 0 or term == "cross_entropy"}


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
