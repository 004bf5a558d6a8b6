"""One optimizer step over all ranks. Nothing in it waits for a GPU: its figures are read when they are needed."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from transformers import PreTrainedModel

from matta_core import distributed
from matta_core.nesting.live import live_student
from matta_core.nesting.size import Granularity
from matta_core.objectives import Objective
from matta_core.objectives.objective import Batch, Sums, num_sequences
from matta_core.recipe import TrainConfig
from matta_core.training.drawn import DrawnStudents
from matta_core.training.joint import joint_backward
from matta_core.training.learning_rate import learning_rate
from matta_core.training.metrics import Figures
from matta_core.training.optimizers import ModelOptimizer
from matta_core.training.order import passes_together
from matta_core.training.passes import PassSettings
from matta_core.training.precision import autocast_dtype
from matta_core.training.shares import rows_in_batch, rows_of_sizes
from matta_core.training.stopping import StopSignal
from matta_core.training.work import Work, work_of


@dataclass(frozen=True)
class Training:
    """The state that steps change, and what they need for it: the TA, the students in it, the optimizer.

    `num_targets` is that of all sequences of a step, over all ranks; `targets_of` that of the sequences on which a size
    is trained.
    """

    config: TrainConfig
    objective: Objective
    ta: PreTrainedModel
    students: Mapping[str, PreTrainedModel]
    drawn: DrawnStudents
    granularities: Mapping[str, Granularity]
    optimizer: ModelOptimizer
    settings: PassSettings
    device: torch.device
    num_targets: int
    targets_of: Mapping[str, int]
    work: Work
    figures: Figures = field(default_factory=Figures)


def training_of(
    config: TrainConfig,
    objective: Objective,
    ta: PreTrainedModel,
    granularities: Mapping[str, Granularity],
    optimizer: ModelOptimizer,
    sequence_length: int,
    teacher_flops: int = 0,
) -> Training:
    """A training by the settings, of a TA that is on its device, with the students that live in it. `teacher_flops` are
    those per token of a Teacher that scores in training."""

    def prepared(model: PreTrainedModel) -> PreTrainedModel:
        if config.activation_checkpointing:
            model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
        return model

    prepared(ta)
    students = {name: prepared(live_student(ta, size)) for name, size in granularities.items() if name != config.ta}
    drawn = DrawnStudents(config, ta.config, granularities, lambda size: prepared(live_student(ta, size)))
    dtype = autocast_dtype(config.precision, ta, ta.device)
    together = passes_together(config, ta, students, sequence_length, dtype)
    settings = PassSettings(config.head_chunk_tokens, dtype, together)
    num_targets = objective.num_targets(config.batch_size, sequence_length)
    targets_of = {name: objective.num_targets(n, sequence_length) for name, n in config.rows_per_size().items()}
    return Training(
        config,
        objective,
        ta,
        students,
        drawn,
        granularities,
        optimizer,
        settings,
        ta.device,
        num_targets,
        targets_of,
        work_of(config, objective, ta, granularities, sequence_length, together=together, teacher=teacher_flops),
    )


def train_step(training: Training, step: int, batches: Iterable[Batch], stop: StopSignal | None = None) -> Sums | None:
    """Do optimizer step `step`, from 0, over this rank's micro-batches. Returns the sums of its terms over all ranks.

    If a rank is told to end, which is noticed between micro-batches, it returns None and leaves weights and optimizer
    as before. `training.figures` tells whether all is finite: if something is not, the weights are lost. Nothing may be
    saved before that is checked.
    """
    config, ta, optimizer, stop = training.config, training.ta, training.optimizer, stop or StopSignal()
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(config, step)
    rows = rows_of_sizes(config, step)
    known = {**training.students, **training.drawn.of_step(step)}
    students = {name: known[name] for name in rows if name != config.ta}
    sums: Sums = {}
    num_read = 0
    for batch in batches:
        if stop.is_given:
            break
        number = num_sequences(batch)
        positions = distributed.rank() + distributed.world_size() * np.arange(num_read, num_read + number)
        num_read += number
        for name, total in joint_backward(
            training.objective,
            ta,
            students,
            batch,
            config.loss,
            step=step,
            num_targets=training.targets_of[config.ta],
            settings=training.settings,
            ta_name=config.ta,
            rows=rows_in_batch(rows, positions),
            num_student_targets=sum(training.targets_of[name] for name in students),
        ).items():
            sums[name] = sums.get(name, 0.0) + total
    if distributed.any_rank(stop.is_given):
        optimizer.zero_grad()
        return None
    parameters = list(ta.parameters())
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    distributed.sum_over_ranks([*gradients, *sums.values()])
    grad_norm = torch.nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
    training.figures.add(step, sums, grad_norm)
    try:
        optimizer.step()
    except torch.linalg.LinAlgError:
        training.figures.check()  # a matrix with NaN has no eigenvalues
        raise
    optimizer.zero_grad()
    return sums
