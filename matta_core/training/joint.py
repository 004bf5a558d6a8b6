"""The joint loss of TA and students: forward and backward of one batch, a chunk of targets at a time.

The joint loss is never in one graph: heads and losses are computed chunk by chunk, and each model goes backward through
its trunk once. There are two orders, with the same gradients, those of the joint loss.

One by one: the TA goes forward and backward first. Only its final hidden states stay, detached, and what it teaches is
rebuilt from them for each student. Peak memory is that of the largest pass.
Together: all trunks go forward first. What the TA teaches is made once for all students of a chunk, which is faster
where the head is large. All trunks are in memory at once.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from matta_core.objectives.objective import Answer, Batch, Objective, Sums, Targets, num_sequences
from matta_core.recipe import LossConfig
from matta_core.training.passes import PassSettings, answer_to, chunk_tokens, states_of


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
    rows: Mapping[str, Sequence[int]] | None = None,
    num_student_targets: int | None = None,
) -> Sums:
    """Add the gradients of one micro-batch's joint loss, as LossConfig states it, to the TA's parameters.

    `step` is the optimizer step, from 0, whose weights are taken. `rows` are the batch's rows that each size trains on,
    ascending; None is all for all. `num_targets` is the number of targets that the TA is trained on in the whole step,
    over all micro-batches and ranks, and `num_student_targets` that of all students together. The sums are divided by
    them, so that the split into micro-batches does not matter.
    Returns the unweighted sums by term and size, such as "cross_entropy/s".
    """
    weights = loss.weights_at(step)
    own, from_ta = (
        {term: weights[weight] for term, weight in terms.items()} for terms in (objective.own_terms, objective.ta_terms)
    )
    rows = rows or dict.fromkeys((ta_name, *students), range(num_sequences(batch)))
    num_student_targets = num_student_targets or len(students) * num_targets
    of_ta = _scaled(objective, own, weights["ta"] / num_targets)
    of_student = _scaled(objective, own | from_ta, 1.0 / num_student_targets) if students else {}

    work = _Work(objective, batch, loss, settings)
    trained = list(rows.get(ta_name, ()))
    taught = sorted({row for name in students for row in rows.get(name, ())} - set(trained))
    tas = [
        _Pass(work, ta_name, ta, trained, of_ta),
        _Pass(work, None, ta, taught if from_ta.keys() & of_student.keys() else [], {}),  # it teaches without learning
    ]
    learners = [_Pass(work, name, student, list(rows.get(name, ())), of_student) for name, student in students.items()]
    # A size without rows here has its zeros, so that all ranks add up the same terms.
    nothing = torch.zeros((), device=ta.device)
    sums = {f"{term}/{each.name}": nothing for each in [tas[0], *learners] for term in each.weights}
    tas, learners = ([each for each in passes if each.rows] for passes in (tas, learners))
    for group in [[*tas, *learners]] if settings.together else [tas, *([each] for each in learners)]:
        _run(group, tas, sums)
    return sums


@dataclass(frozen=True)
class _Work:
    objective: Objective
    batch: Batch
    loss: LossConfig
    settings: PassSettings


class _Pass:
    """One model's pass over its rows of a batch. Without a name, it only teaches, and has no gradient."""

    targets: Targets
    leaf: Tensor  # its states, detached, on which gradients gather
    _states: Tensor | None

    def __init__(
        self, work: _Work, name: str | None, model: PreTrainedModel, rows: list[int], weights: Mapping[str, float]
    ) -> None:
        self.work, self.name, self.model, self.rows, self.weights = work, name, model, rows, weights

    def forward(self) -> None:
        objective, batch, settings = self.work.objective, self.work.batch, self.work.settings
        if len(self.rows) < num_sequences(batch):
            batch = {column: _rows_of(values, self.rows) for column, values in batch.items()}
        with torch.set_grad_enabled(self.name is not None):
            states, self.targets = states_of(objective, self.model, batch, settings)
        self._states, self.leaf = states, states.detach().requires_grad_(self.name is not None)

    def answer(self, chunk: slice, *, gradient: bool) -> Answer:
        states = self.leaf[chunk] if gradient else self.leaf.detach()[chunk]
        return answer_to(self.work.objective, self.model, states, self.work.settings, gradient=gradient)

    def learn(self, own: Answer, lesson: Any, chunk: slice, sums: Sums) -> None:
        """Go backward through head and loss, to the states."""
        total, terms = self.work.objective.loss(own, lesson, self.targets[chunk], self.weights, self.work.loss)
        total.backward()
        for term, value in terms.items():
            sums[f"{term}/{self.name}"] = sums[f"{term}/{self.name}"] + value

    def backward(self) -> None:
        """Go backward through the trunk, and drop it."""
        assert self._states is not None
        if self.name is not None:
            self._states.backward(self.leaf.grad)
        self._states, self.leaf = None, self.leaf.detach()


def _run(group: Sequence[_Pass], tas: Sequence[_Pass], sums: Sums) -> None:
    """Take the group's passes forward, chunk by chunk through head and loss, and backward. `tas` teach its students."""
    for each in group:
        each.forward()
    learners = [each for each in group if each not in tas]
    for chunk in _chunks([*tas, *learners]):
        lesson = None
        for each, mine in chunk.items():  # the TA comes first
            learns = each.name is not None and each in group
            own = each.answer(mine, gradient=learns)
            if learns:
                each.learn(own, lesson, mine, sums)
            if each in tas:
                lesson = each.work.objective.lesson(own.detached(), each.work.loss)
    for each in group:
        each.backward()


def _chunks(passes: Sequence[_Pass]) -> Iterator[dict[_Pass, slice]]:
    """Chunks of the batch's targets. For each pass that has them, where they lie among its own."""
    if not passes:
        return
    size = chunk_tokens(passes[0].model, passes[0].leaf, passes[0].work.settings)
    per_row = len(passes[0].leaf) // len(passes[0].rows)
    done = dict.fromkeys(passes, 0)
    of_row: dict[int, list[_Pass]] = {}
    for each in passes:
        for row in each.rows:
            of_row.setdefault(row, []).append(each)
    for members, rows in itertools.groupby(sorted(of_row), key=of_row.__getitem__):
        number = len(list(rows)) * per_row
        for start in range(0, number, size):
            end = min(start + size, number)
            yield {each: slice(done[each] + start, done[each] + end) for each in members}
        for each in members:
            done[each] += number


def _rows_of(values: Tensor, rows: Sequence[int]) -> Tensor:
    """Some rows, ascending, by slices: a list of numbers would be copied to the GPU first."""
    runs = [[row for _, row in run] for _, run in itertools.groupby(enumerate(rows), lambda pair: pair[1] - pair[0])]
    return torch.cat([values[run[0] : run[-1] + 1] for run in runs])


def _scaled(objective: Objective, weights: Mapping[str, float], factor: float) -> dict[str, float]:
    """The weights times factor, without terms that weigh nothing. The labels' term stays, because it is logged."""
    return {term: value * factor for term, value in weights.items() if value * factor > 0 or term == objective.figure}
