"""Measures the held-out error of every size."""

import math

import numpy as np
import torch

from matta_core import distributed
from matta_core.errors import TrainingDivergedError
from matta_core.training.data import Sequences
from matta_core.training.passes import error_sum
from matta_core.training.step import Training
from matta_core.training.stopping import StopSignal


@torch.no_grad()
def validate(training: Training, data: Sequences, step: int, stop: StopSignal) -> dict[str, float] | None:
    """The objective's figures of every size (cross-entropy in nats per token, and perplexity) after `step` steps, on
    the first sequences of the validation split. None if a rank was told to end.

    Raises: TrainingDivergedError, in every rank, where a figure is not finite.
    """
    config, objective = training.config, training.objective
    number = min(config.eval_sequences, len(data))
    mine = np.arange(distributed.rank(), number, distributed.world_size())
    models = {name: training.students.get(name, training.ta) for name in config.sizes}
    totals = torch.zeros(len(models) + 1, device=training.device)  # the last one counts ranks that were told to end
    for model in models.values():
        model.eval()
    for rows in np.array_split(mine, max(1, math.ceil(len(mine) / (config.micro_batch_size or config.batch_size)))):
        if len(rows) == 0 or stop.is_given:
            continue
        batch = data.batch(rows, training.device)
        for index, model in enumerate(models.values()):
            totals[index] += error_sum(objective, model, batch, settings=training.settings)
    for model in models.values():
        model.train()
    totals[-1] += stop.is_given
    distributed.sum_over_ranks([totals])
    *sums, told = totals.tolist()
    if told:
        return None
    values: dict[str, float] = {}
    for name, total in zip(models, sums, strict=True):
        mean = total / objective.num_targets(number, data.sequence_length)
        if not math.isfinite(mean):
            when = f"in step {step}: then" if step else "before step 1:"
            raise TrainingDivergedError(f"training diverged {when} eval/{objective.figure}/{name} = {mean}")
        values |= {f"eval/{figure}/{name}": value for figure, value in objective.figures(mean).items()}
    return values
