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
from matta_core.training.learning_rate import learning_rate
from matta_core.training.optimizers import ModelOptimizer
from matta_core.training.passes import PassSettings, Sums, cross_entropy_sum, joint_backward
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


def sizes_of_step(config: TrainConfig, step: int) -> list[str]:
    """The sizes trained in a step beside the TA, ascending, as `sizes_per_step` says.

    A function of seed and step, so that all ranks agree and a resumed run repeats. The sandwich (Yu & Huang 2019) is
    our choice: the largest and the base in every step, those between by lot.
    """
    others = [name for name in config.sizes if name not in (config.ta, config.student)]
    if config.sizes_per_step == "sandwich":
        number = min(config.sampled_sizes, len(others))
        lot = np.random.default_rng([config.seed, step])
        wanted = {config.student, *(lot.choice(others, number, replace=False) if number else ())}
    else:
        wanted = config.sizes if config.sizes_per_step == "all" else config.sizes_per_step
    return [name for name in config.sizes if name in wanted and name != config.ta]


@torch.no_grad()
def validate(training: Training, step: int, stop: StopSignal) -> dict[str, float] | None:
    """Cross-entropy (nats per token) and perplexity of every size, after `step` steps, on the first sequences of the
    validation split; None where a rank was told to end.

    Raises: TrainingDivergedError, in every rank, where one is not finite.
    """
    config, data = training.config, training.validation_data
    number = min(config.eval_sequences, len(data))
    mine = np.arange(distributed.rank(), number, distributed.world_size())
    models = {name: training.students.get(name, training.ta) for name in config.sizes}
    totals = torch.zeros(len(models) + 1, device=training.device)  # the last: how many ranks were told
    for model in models.values():
        model.eval()
    for rows in np.array_split(mine, max(1, math.ceil(len(mine) / (config.micro_batch_size or config.batch_size)))):
        if len(rows) == 0 or stop.is_given:
            continue
        input_ids = data.batch(rows, training.device).input_ids
        for index, model in enumerate(models.values()):
            totals[index] += cross_entropy_sum(model, input_ids, settings=training.settings)
    for model in models.values():
        model.train()
    totals[-1] += stop.is_given
    distributed.sum_over_ranks([totals])
    *sums, told = totals.tolist()
    if told:
        return None
    values = {}
    for name, total in zip(models, sums, strict=True):
        mean = total / (number * (data.sequence_length - 1))
        if not math.isfinite(mean):
            when = f"in step {step}: then" if step else "before step 1:"
            raise TrainingDivergedError(f"training diverged {when} eval/cross_entropy/{name} = {mean}")
        values[f"eval/cross_entropy/{name}"] = mean
        values[f"eval/perplexity/{name}"] = math.exp(min(mean, 700.0))
    return values


def _micro_batches(config: TrainConfig, rows: np.ndarray) -> list[np.ndarray]:
    """This rank's share of the step's rows, in passes of at most micro_batch_size sequences."""
    mine = rows[distributed.rank() :: distributed.world_size()]
    size = config.micro_batch_size or len(mine)
    return [mine[start : start + size] for start in range(0, len(mine), size)]
