"""One model's forward pass: the states that its trunk gives, and the head's answers to them, a chunk at a time.

The full outputs (for tokens, tokens x vocabulary) never exist.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from matta_core.objectives.objective import Answer, Batch, Objective, Targets
from matta_core.recipe import ScoreTeacherConfig


@dataclass(frozen=True)
class PassSettings:
    """How passes are computed: how many targets head and loss see at a time (None: see `chunk_tokens`), the autocast
    type (None for fp32), and whether TA and students go forward and backward together, or one after the other."""

    head_chunk_tokens: int | None = None
    autocast_dtype: torch.dtype | None = None
    together: bool = False


def chunk_tokens(model: PreTrainedModel, states: Tensor, settings: PassSettings) -> int:
    """How many targets head and loss see at a time: those that are set, or as `usual_chunk_tokens` says."""
    head = model.get_output_embeddings()
    num_outputs = head.out_features if head is not None else (model.config.num_labels or 1)
    return settings.head_chunk_tokens or usual_chunk_tokens(num_outputs, states.shape[-1], on_gpu=states.is_cuda)


def usual_chunk_tokens(num_outputs: int, hidden_size: int, *, on_gpu: bool) -> int:
    """As many targets as have outputs of 24 MiB on a CPU (glibc maps arrays of more than 32 MiB anew each time, page by
    page), of 1 GiB on a GPU. But outputs may take half as much as the head's weight: a gradient of that size is added
    per chunk."""
    return max((2**30 if on_gpu else 24 * 2**20) // (4 * num_outputs), hidden_size // 2, 1)


def states_of(
    objective: Objective, model: PreTrainedModel, batch: Batch, settings: PassSettings
) -> tuple[Tensor, Targets]:
    """The trunk's states (targets, hidden), and their targets."""
    with _autocast(next(iter(batch.values())).device, settings):
        return objective.states(model, batch)


def answer_to(
    objective: Objective, model: PreTrainedModel, states: Tensor, settings: PassSettings, *, gradient: bool = True
) -> Answer:
    """The answer to a chunk of states. The head runs under autocast; losses are computed in full precision."""

    def head(states: Tensor) -> Tensor:
        with _autocast(states.device, settings), torch.set_grad_enabled(gradient and torch.is_grad_enabled()):
            return objective.outputs(model, states)

    return Answer(states, head)


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


def _answers(
    objective: Objective, model: PreTrainedModel, batch: Batch, settings: PassSettings
) -> Iterator[tuple[Answer, Targets]]:
    """A batch's targets and the model's answers to them, a chunk at a time."""
    states, targets = states_of(objective, model, batch, settings)
    size = chunk_tokens(model, states, settings)
    for start in range(0, len(states), size):
        chunk = slice(start, start + size)
        yield answer_to(objective, model, states[chunk], settings), targets[chunk]


def _autocast(device: torch.device, settings: PassSettings) -> torch.autocast:
    enabled = settings.autocast_dtype is not None
    return torch.autocast(device.type, dtype=settings.autocast_dtype or torch.bfloat16, enabled=enabled)
