"""One optimizer step, and one validation, over all ranks. Both leave off where any rank was told to end."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from transformers import PreTrainedModel

from matta_core import distributed
from matta_core.errors import TrainingDivergedError
from matta_core.nesting.size import Granularity
from matta_core.recipe import TrainConfig
from matta_core.training.data import Sequences, rows_of_step
from matta_core.training.draw import sizes_of_step
from matta_core.training.learning_rate import learning_rate
from matta_core.training.optimizers import ModelOptimizer
from matta_core.training.passes import PassSettings, Sums, joint_backward
from matta_core.training.stopping import StopSignal


@dataclass(frozen=True)
class Training:
    """What a step needs: the TA, the students in it and their sizes, what moves them, and what they learn from."""

    config: TrainConfig
    ta: PreTrainedModel
    students: Mapping[str, PreTrainedModel]
    granularities: Mapping[str, Granularity]
    optimizer: ModelOptimizer
    training_data: Sequences
    validation_data: Sequences
    settings: PassSettings
    device: torch.device


class Step(NamedTuple):
    """What a step gave: this rank's sums by term and size, over `num_tokens` of all ranks together, and its figures."""

    sums: Sums
    num_tokens: int
    grad_norm: float
    learning_rate: float


def train_step(training: Training, step: int, stop: StopSignal) -> Step | None:
    """Optimizer step `step`, from 0. None, with weights and optimizer as before, where a rank was told to end.

    That is seen between micro-batches; the ranks agree by the message that sums their gradients.

    Raises: TrainingDivergedError, in every rank, where a loss or the gradient is not finite.
    """
    config, ta, optimizer = training.config, training.ta, training.optimizer
    rate = learning_rate(config, step)
    for group in optimizer.param_groups:
        group["lr"] = rate
    trained = {name: training.students[name] for name in sizes_of_step(config, step)}
    rows = rows_of_step(len(training.training_data), config.batch_size, step, config.seed)
    num_tokens = config.batch_size * (training.training_data.sequence_length - 1)
    sums: Sums = {}
    for micro_batch in _micro_batches(config, rows):
        if stop.is_given:
            break
        batch = training.training_data.batch(micro_batch, training.device)
        for name, total in joint_backward(
            ta,
            trained,
            batch,
            config.loss,
            step=step,
            num_tokens=num_tokens,
            settings=training.settings,
            ta_name=config.ta,
        ).items():
            sums[name] = sums.get(name, 0.0) + total
    parameters = list(ta.parameters())
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    facts = torch.zeros(2, device=training.device)
    facts[0] += sum(sums.values())
    facts[1] += stop.is_given
    distributed.sum_over_ranks([*gradients, facts])
    grad_norm = torch.nn.utils.clip_grad_norm_(parameters, config.max_grad_norm).to(training.device)
    loss, told, norm = torch.cat([facts, grad_norm[None]]).tolist()  # the step's only synchronisation
    if told:
        optimizer.zero_grad()
        return None
    if not math.isfinite(loss + norm):
        distributed.sum_over_ranks(sums.values())
        broken = [f"{name} = {total.item()}" for name, total in sums.items() if not math.isfinite(total.item())]
        raise TrainingDivergedError(
            f"training diverged in step {step + 1}: {', '.join(broken) or f'the gradient norm is {norm}'}"
        )
    optimizer.step()
    optimizer.zero_grad()
    return Step(sums, num_tokens, norm, rate)


def _micro_batches(config: TrainConfig, rows: np.ndarray) -> list[np.ndarray]:
    """This rank's share of the step's rows, in passes of at most micro_batch_size sequences."""
    mine = rows[distributed.rank() :: distributed.world_size()]
    size = config.micro_batch_size or len(mine)
    return [mine[start : start + size] for start in range(0, len(mine), size)]
