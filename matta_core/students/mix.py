"""Mix'n'Match: for a budget, the best FFN width of each layer among those of the trained sizes.

Source: Devvrit et al. 2023 (MatFormer), section 3.3. There, layers of different trained widths make models that were
never trained, at no cost. They choose by a rule of thumb; here mixtures are scored on held-out text.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from transformers import PreTrainedModel

from matta_core.artifacts.kinds.family import FoundMix
from matta_core.errors import UserError
from matta_core.nesting.cost import flops_per_token, num_parameters
from matta_core.nesting.live import live_student
from matta_core.nesting.size import Granularity
from matta_core.objectives.objective import Batch, Objective, num_sequences
from matta_core.pretrained import moved
from matta_core.recipe.extraction import MixConfig, amount
from matta_core.students.compact import compact_model
from matta_core.students.search import Widths, WidthSearch
from matta_core.training.passes import PassSettings, error_sum
from matta_core.training.precision import autocast_dtype

_LATENCY_REPEATS = 15
_SEQUENCES_PER_PASS = 8


@dataclass(frozen=True)
class Space:
    """The possible mixes: mixtures of the widths of `uniform`, trained sizes, that cost at most `limit`.

    Widths are counts of `axis`, the key that may differ by layer. `cost` is in the budget's unit, `kind`. `sample` has
    held-out sequences, on the device of the search.
    """

    name: str
    kind: str
    limit: float
    axis: str
    uniform: Sequence[Granularity]
    cost: Callable[[Widths], float]
    sample: Batch

    def sized(self, widths: Widths) -> Granularity:
        return self.uniform[-1].keeping(self.name, self.axis, widths)

    def widths(self, size: Granularity) -> Widths:
        return size.by_layer[self.axis]

    @property
    def where(self) -> str:
        return f"extract_students.mixes.{self.name}"


class Mix(NamedTuple):
    """The result of a search, and how it was found."""

    granularity: Granularity
    found: FoundMix


def space_of(
    objective: Objective,
    ta: PreTrainedModel,
    granularities: Mapping[str, Granularity],
    student: str,
    name: str,
    config: MixConfig,
    sample: Batch,
) -> Space:
    """The mixtures for a budget. Each layer has a width that a trained size, from the Student up, has in that layer.
    All else is the TA's, so only sizes that keep all else are mixed.

    Raises: UserError where there is nothing to mix, or the budget is out of reach.
    """
    kind, limit = config.budget
    ta_size = list(granularities.values())[-1]
    from_student = list(granularities.values())[list(granularities).index(student) :]
    if not ta_size.by_layer:
        raise UserError(
            f"extract_students.mixes.{name}: widths are mixed by layer, and no axis of {ta.config.model_type} "
            f"may differ by layer: take the mixes out"
        )
    (axis,) = ta_size.by_layer
    uniform = [size for size in from_student if size.keeping(ta_size.name, axis, ta_size.by_layer[axis]) == ta_size]
    space = Space(name, kind, limit, axis, uniform, _cost(objective, ta, kind, axis, uniform, sample), sample)
    if len(uniform) < 2:
        raise UserError(
            f"{space.where}: widths are mixed of sizes from the student {student!r} up that keep all else of "
            f"the TA, and there is only {ta_size.name}: train another such size"
        )
    lowest, highest = (space.cost(space.widths(size)) for size in (uniform[0], uniform[-1]))
    if limit < lowest:
        raise UserError(
            f"{space.where}.{kind} must be at least the {amount(lowest)} of {uniform[0].name}, the smallest size from "
            f"the student up that keeps all else of the TA, got {amount(limit)}"
        )
    if limit >= highest:
        raise UserError(
            f"{space.where}.{kind} must be below the {amount(highest)} of the TA, got {amount(limit)}: that is the TA "
            f"itself"
        )
    return space


def mix(
    objective: Objective,
    ta: PreTrainedModel,
    space: Space,
    evaluations: int,
    advance: Callable[[], object] = lambda: None,
) -> Mix:
    """The best mixture found. `advance` is called after each one that was scored, at most `evaluations` times.

    Raises: UserError where mixtures again and again take more than the seconds that were estimated.
    """
    settings, sample = PassSettings(autocast_dtype=autocast_dtype("auto", ta, ta.device)), space.sample
    sequences = num_sequences(sample)
    starts = range(0, sequences, _SEQUENCES_PER_PASS)
    parts = [{name: rows[start : start + _SEQUENCES_PER_PASS] for name, rows in sample.items()} for start in starts]

    def score(widths: Widths) -> float:
        model = live_student(ta, space.sized(widths)).eval()
        total = sum(error_sum(objective, model, part, settings).item() for part in parts)
        advance()
        return total / objective.num_targets(sequences, objective.num_tokens(sample) // sequences)

    search = WidthSearch([space.widths(size) for size in space.uniform], space.cost, score, evaluations)
    allowed, lowest = space.limit, space.cost(space.widths(space.uniform[0]))
    for _ in range(4):
        found = search.within(allowed, space.where)
        cost = space.cost(found.widths)
        if space.kind == "prefill_seconds":
            cost = prefill_seconds(objective, ta, space.sized(found.widths), sample)
        if cost <= space.limit:
            break
        allowed *= 0.95 * space.limit / cost  # the estimate by layer was too low
        if allowed < lowest:
            raise UserError(
                f"{space.where}.{space.kind}: what fits takes {amount(cost)} measured, above {amount(space.limit)}: "
                f"set it higher"
            )
    else:
        raise UserError(
            f"{space.where}.{space.kind}: no mixture was measured within {amount(space.limit)}; the last took "
            f"{amount(cost)}"
        )
    best = min(found.uniform, key=found.uniform.__getitem__)
    return Mix(
        space.sized(found.widths),
        {
            "budget": {space.kind: space.limit},
            "loss": found.loss,
            "cost": cost,
            "evaluated": found.evaluated,
            "combinations": found.combinations,
            "ended": found.ended,
            "best_uniform": space.uniform[best].name,
            "best_uniform_loss": found.uniform[best],
        },
    )


def _cost(
    objective: Objective, ta: PreTrainedModel, kind: str, axis: str, uniform: Sequence[Granularity], sample: Batch
) -> Callable[[Widths], float]:
    """The cost of a mixture: that of the smallest size, and what the width of each layer adds to it.

    Counts add up, so they are exact. Seconds are estimated: a layer adds its share of what the size of its width adds.
    """
    smallest, length = uniform[0], objective.num_tokens(sample) // num_sequences(sample)
    count = {
        "parameters": lambda size: num_parameters(ta, size),
        "bytes": lambda size: 4 * num_parameters(ta, size),
        "flops_per_token": lambda size: flops_per_token(ta, size, length),
    }.get(kind)
    added: dict[tuple[int, int], float] = {}
    if count is None:
        base = prefill_seconds(objective, ta, smallest, sample)
        for size in reversed(uniform):  # if several sizes have a width, its cost is that in the smallest of them
            more = max(0.0, prefill_seconds(objective, ta, size, sample) - base) if size is not smallest else 0.0
            added |= {step: more / len(size.layers) for step in enumerate(size.by_layer[axis])}
    else:
        base = count(smallest)
        for step in {step for size in uniform for step in enumerate(size.by_layer[axis])}:
            layer, width = step
            widths = list(smallest.by_layer[axis])
            widths[layer] = width
            added[step] = count(smallest.keeping("", axis, tuple(widths))) - base
    return lambda widths: base + sum(added[step] for step in enumerate(widths))


@torch.no_grad()
def prefill_seconds(objective: Objective, ta: PreTrainedModel, granularity: Granularity, sample: Batch) -> float:
    """Median time of a forward pass over one sequence of the sample, by the student without padding."""
    first = {name: rows[:1] for name, rows in sample.items()}
    device = next(iter(first.values())).device
    model = moved(compact_model(ta, granularity), device)
    seconds = []
    for _ in range(_LATENCY_REPEATS + 2):
        started = time.perf_counter()
        for _piece in objective.answers(model, first):
            pass
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[2:])  # the first two warm up
