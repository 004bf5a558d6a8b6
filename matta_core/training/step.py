"""One optimizer step over all ranks. Nothing in it waits for a GPU: its figures are read when they are needed."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import PreTrainedModel

from matta_core import distributed
from matta_core.errors import TrainingDivergedError
from matta_core.nesting.live import live_student
from matta_core.nesting.size import Granularity
from matta_core.objectives import Objective
from matta_core.objectives.objective import Batch, Sums
from matta_core.recipe import TrainConfig
from matta_core.training.draw import sizes_of_step
from matta_core.training.learning_rate import learning_rate
from matta_core.training.optimizers import ModelOptimizer
from matta_core.training.passes import PassSettings, joint_backward
from matta_core.training.precision import autocast_dtype
from matta_core.training.stopping import StopSignal


class Figures:
    """The figures of the steps since the last `take`. They stay on the device, because reading them waits for it."""

    def __init__(self) -> None:
        self._unread: list[tuple[int, tuple[str, ...], Tensor]] = []
        self._read: list[dict[str, float]] = []
        self._grad_norm = math.nan

    def add(self, step: int, sums: Sums, grad_norm: Tensor) -> None:
        self._unread.append((step, tuple(sums), torch.stack([*sums.values(), grad_norm])))

    def check(self) -> None:
        """Check all steps so far. Raises: TrainingDivergedError that names the first whose loss or gradient was not
        finite. All ranks have the same figures, so all of them raise it."""
        unread, self._unread = self._unread, []
        values = iter(torch.cat([figures for *_, figures in unread]).tolist() if unread else ())
        for step, names, _ in unread:
            sums, self._grad_norm = {name: next(values) for name in names}, next(values)
            broken = [f"{name} = {total}" for name, total in sums.items() if not math.isfinite(total)]
            if not math.isfinite(self._grad_norm):
                broken = broken or [f"the gradient norm is {self._grad_norm}"]
            if broken:
                raise TrainingDivergedError(f"training diverged in step {step + 1}: {', '.join(broken)}")
            self._read.append(sums)

    def take(self, num_targets: int) -> dict[str, float]:
        """The means per target and the last step's gradient norm, then start anew. A size counts only in steps that
        trained it.

        Raises: as `check` does.
        """
        self.check()
        steps, self._read = self._read, []
        names = {name: None for sums in steps for name in sums}
        of = {name: [sums[name] for sums in steps if name in sums] for name in names}
        means = {f"train/{name}": sum(totals) / (len(totals) * num_targets) for name, totals in of.items()}
        return means | {"train/grad_norm": self._grad_norm}


@dataclass(frozen=True)
class Training:
    """The state that steps change, and what they need for it: the TA, the students in it, the optimizer.

    `num_targets` is that of a whole step, over all ranks.
    """

    config: TrainConfig
    objective: Objective
    ta: PreTrainedModel
    students: Mapping[str, PreTrainedModel]
    granularities: Mapping[str, Granularity]
    optimizer: ModelOptimizer
    settings: PassSettings
    device: torch.device
    num_targets: int
    figures: Figures = field(default_factory=Figures)


def training_of(
    config: TrainConfig,
    objective: Objective,
    ta: PreTrainedModel,
    granularities: Mapping[str, Granularity],
    optimizer: ModelOptimizer,
    sequence_length: int,
) -> Training:
    """A training by the settings, of a TA that is on its device, with the students that live in it."""
    students = {name: live_student(ta, size) for name, size in granularities.items() if name != config.ta}
    if config.activation_checkpointing:
        for model in (ta, *students.values()):
            model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    settings = PassSettings(config.head_chunk_tokens, autocast_dtype(config.precision, ta, ta.device))
    num_targets = objective.num_targets(config.batch_size, sequence_length)
    return Training(config, objective, ta, students, granularities, optimizer, settings, ta.device, num_targets)


def train_step(training: Training, step: int, batches: Iterable[Batch], stop: StopSignal | None = None) -> Sums | None:
    """Do optimizer step `step`, from 0, over this rank's micro-batches. Returns the sums of its terms over all ranks.

    If a rank is told to end, which is noticed between micro-batches, it returns None and leaves weights and optimizer
    as before. `training.figures` tells whether all is finite: if something is not, the weights are lost. Nothing may be
    saved before that is checked.
    """
    config, ta, optimizer, stop = training.config, training.ta, training.optimizer, stop or StopSignal()
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(config, step)
    trained = {name: training.students[name] for name in sizes_of_step(config, step)}
    sums: Sums = {}
    for batch in batches:
        if stop.is_given:
            break
        for name, total in joint_backward(
            training.objective,
            ta,
            trained,
            batch,
            config.loss,
            step=step,
            num_targets=training.num_targets,
            settings=training.settings,
            ta_name=config.ta,
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
