"""How much a training computes: its FLOPs, counted from the settings and the models' shapes alone.

A plan and a run count alike. Products count, twice per weight and token: a pass forward and backward is three times the
pass forward. What activation checkpointing computes again counts, too. What is elementwise does not, nor do the
optimizer's steps.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from transformers import PreTrainedModel

from matta_core.nesting.cost import flops_per_token, head_flops_per_token
from matta_core.nesting.size import Granularity
from matta_core.objectives import Objective
from matta_core.recipe import TrainConfig
from matta_core.training.shares import rows_of_sizes

_FORWARD_AND_BACKWARD = 3  # backward, a product for the inputs' gradient and one for the weights'


@dataclass(frozen=True)
class Work:
    """The FLOPs of a training, over all ranks. `trunks` has those per token of each size's trunk forward, and of each
    draw's; `head` are those per target, `teacher` those per token of a Teacher that scores in training. `together`:
    the order of passes, see `matta_core.training.joint`."""

    config: TrainConfig
    objective: Objective
    trunks: Mapping[str, int]
    head: int
    sequence_length: int
    together: bool
    teacher: int = 0

    def of_step(self, step: int) -> int:
        """Of optimizer step `step`, from 0."""
        return self._of_kind(self._kind(step))

    def of_steps(self) -> int:
        kinds = Counter(self._kind(step) for step in range(self.config.steps))
        return sum(number * self._of_kind(kind) for kind, number in kinds.items())

    def of_validations(self, sequences: int) -> int:
        """Of all validations on this number of sequences: one before the first step, and one after the last."""
        once = sum(self._forward(name, sequences) for name in self.config.sizes)
        return (1 + -(-self.config.steps // self.config.eval_every_steps)) * once

    def _kind(self, step: int) -> tuple[bool, bool]:
        """Whether students are nested in a step, and whether the TA's answers teach them."""
        return step >= self.config.first_nested_step, self.config.loss.weights_at(step)["distillation"] > 0

    def _of_kind(self, kind: tuple[bool, bool]) -> int:
        nested, taught = kind
        config = self.config
        rows = _rows(config) if nested else {config.ta: set(range(config.rows_per_size()[config.ta]))}
        total = config.batch_size * self.sequence_length * self.teacher
        total += sum(self._trained(name, len(mine)) for name, mine in rows.items())
        if taught:
            learners = [mine for name, mine in rows.items() if name != config.ta]
            alone = set[int]().union(*learners) - rows[config.ta]
            total += self._forward(config.ta, len(alone))
            if not self.together:  # the TA answers each student anew
                total += sum(map(len, learners)) * self._head(1) - len(alone) * self._head(1)
        return total

    def _trained(self, name: str, sequences: int) -> int:
        again = 1 if self.config.activation_checkpointing else 0
        trunk = (_FORWARD_AND_BACKWARD + again) * sequences * self.sequence_length * self.trunks[name]
        return trunk + _FORWARD_AND_BACKWARD * self._head(sequences)

    def _forward(self, name: str, sequences: int) -> int:
        return sequences * self.sequence_length * self.trunks[name] + self._head(sequences)

    def _head(self, sequences: int) -> int:
        return self.head * self.objective.num_targets(sequences, self.sequence_length)


def work_of(
    config: TrainConfig,
    objective: Objective,
    ta: PreTrainedModel,
    granularities: Mapping[str, Granularity],
    sequence_length: int,
    *,
    together: bool,
    teacher: int = 0,
) -> Work:
    """The work of a training of this TA, which may be on the meta device. A draw counts as the mean of its widths."""
    head = head_flops_per_token(ta)
    sizes = dict(granularities) | dict.fromkeys(config.drawn_names, _mean_draw(config, granularities))
    trunks = {name: flops_per_token(ta, size, sequence_length) - head for name, size in sizes.items()}
    return Work(config, objective, trunks, head, sequence_length, together, teacher)


def _mean_draw(config: TrainConfig, granularities: Mapping[str, Granularity]) -> Granularity:
    ta, student = granularities[config.ta], granularities[config.student]
    for axis in ta.by_layer:
        middle = (min(student.by_layer[axis]) + max(ta.by_layer[axis])) // 2
        ta = ta.keeping("drawn", axis, (middle,) * len(ta.layers))
    return ta


def _rows(config: TrainConfig) -> dict[str, set[int]]:
    """The rows of a step with students. They move from step to step, all by one."""
    return {name: set(mine.tolist()) for name, mine in rows_of_sizes(config, config.first_nested_step).items()}
