"""Forward and backward passes of one batch, one model after the other, a chunk of targets at a time.

The joint loss of TA and students is never in one graph. The TA goes forward and backward first. Only its final hidden
states stay, detached: students are compared with them, and with the outputs that are rebuilt from them chunk by chunk.
The gradients are those of the joint loss, peak memory is that of the largest pass, and the full outputs (for tokens,
tokens x vocabulary) never exist.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from matta_core.objectives.objective import Answer, Batch, Objective, Sums, Targets
from matta_core.recipe import LossConfig, ScoreTeacherConfig


@dataclass(frozen=True)
class PassSettings:
    """How passes are computed: how many targets head and loss see at a time, and the autocast type (None for fp32)."""

    head_chunk_tokens: int = 4096
    autocast_dtype: torch.dtype | None = None


@dataclass(frozen=True)
class _TaStates:
    """What students learn from the TA: its head, and its final hidden states (targets, hidden), detached."""

    model: PreTrainedModel
    states: Tensor


def joint_backward(
    objective: Objective,
    ta: PreTrainedModel,
    students: Mapping[str, PreTrainedModel],
    batch: Batch,
    loss: LossConfig,
    *,
    step: int,
    num_targets: int,
    settings: PassSettings,
    ta_name: str = "ta",
) -> Sums:
    """Add the gradients of one micro-batch's joint loss, as LossConfig states it, to the TA's parameters, sequentially.

    `step` is the optimizer step, from 0, whose weights are taken. `num_targets` is the number of targets of the whole
    step, over all micro-batches and ranks. Every sum is divided by it, so that their split does not matter. The
    students' terms are averaged over the students.
    Returns the unweighted sums by term and size, such as "cross_entropy/s".
    """
    weights = loss.weights_at(step)
    own, from_ta = (
        {term: weights[weight] for term, weight in terms.items()} for terms in (objective.own_terms, objective.ta_terms)
    )

    ta_states, targets = _states(objective, ta, batch, settings)
    scaled = _scaled(objective, own, weights["ta"] / num_targets)
    sums = _named(ta_name, _head_backward(objective, ta, ta_states, targets, None, scaled, loss, settings))

    ta_answers = _TaStates(ta, ta_states.detach())
    scaled = _scaled(objective, own | from_ta, 1.0 / (len(students) * num_targets)) if students else {}
    for name, student in students.items():
        states, targets = _states(objective, student, batch, settings)
        terms = _head_backward(objective, student, states, targets, ta_answers, scaled, loss, settings)
        sums |= _named(name, terms)
    return sums


@torch.no_grad()
def error_sum(objective: Objective, model: PreTrainedModel, batch: Batch, settings: PassSettings) -> Tensor:
    """The sum of the objective's `figure` over a batch's targets, without gradients."""
    first, *others = (objective.error(*answered) for answered in _answers(objective, model, batch, settings))
    return sum(others, first)


@torch.no_grad()
def teacher_scores(
    objective: Objective,
    model: PreTrainedModel,
    batch: Batch,
    config: ScoreTeacherConfig,
    num_ids: int,
    settings: PassSettings,
) -> dict[str, Tensor]:
    """The Teacher's scores of a batch's targets, by column: (targets, ...)."""
    parts = [objective.scores(answer, config, num_ids) for answer, _ in _answers(objective, model, batch, settings)]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _head_backward(
    objective: Objective,
    model: PreTrainedModel,
    states: Tensor,
    targets: Targets,
    ta: _TaStates | None,
    weights: Mapping[str, float],
    loss: LossConfig,
    settings: PassSettings,
) -> Sums:
    """Go backward through head and loss chunk by chunk, then once through the trunk. `weights` names the terms."""
    leaf = states.detach().requires_grad_()
    sums: Sums = {}
    for chunk in _chunks(len(states), settings.head_chunk_tokens):
        own = _answer(objective, model, leaf[chunk], settings)
        from_ta = None if ta is None else _answer(objective, ta.model, ta.states[chunk], settings, gradient=False)
        total, terms = objective.loss(own, from_ta, targets[chunk], weights, loss)
        total.backward()
        for term, value in terms.items():
            sums[term] = sums.get(term, 0.0) + value
    states.backward(leaf.grad)
    return sums


def _answers(
    objective: Objective, model: PreTrainedModel, batch: Batch, settings: PassSettings
) -> Iterator[tuple[Answer, Targets]]:
    """A batch's targets and the model's answers to them, a chunk at a time."""
    states, targets = _states(objective, model, batch, settings)
    for chunk in _chunks(len(states), settings.head_chunk_tokens):
        yield _answer(objective, model, states[chunk], settings), targets[chunk]


def _scaled(objective: Objective, weights: Mapping[str, float], factor: float) -> dict[str, float]:
    """The weights times factor, without terms that weigh nothing. The labels' term stays, because it is logged."""
    return {term: value * factor for term, value in weights.items() if value * factor > 0 or term == objective.figure}


def _named(size: str, terms: Sums) -> Sums:
    return {f"{term}/{size}": total for term, total in terms.items()}


def _states(
    objective: Objective, model: PreTrainedModel, batch: Batch, settings: PassSettings
) -> tuple[Tensor, Targets]:
    with _autocast(next(iter(batch.values())).device, settings):
        return objective.states(model, batch)


def _answer(
    objective: Objective, model: PreTrainedModel, states: Tensor, settings: PassSettings, *, gradient: bool = True
) -> Answer:
    """The answer to a chunk of states. The head runs under autocast; losses are computed in full precision."""

    def head(states: Tensor) -> Tensor:
        with _autocast(states.device, settings), torch.set_grad_enabled(gradient and torch.is_grad_enabled()):
            return objective.outputs(model, states)

    return Answer(states, head)


def _autocast(device: torch.device, settings: PassSettings) -> torch.autocast:
    enabled = settings.autocast_dtype is not None
    return torch.autocast(device.type, dtype=settings.autocast_dtype or torch.bfloat16, enabled=enabled)


def _chunks(num_targets: int, chunk: int) -> list[slice]:
    return [slice(start, start + chunk) for start in range(0, num_targets, chunk)]
