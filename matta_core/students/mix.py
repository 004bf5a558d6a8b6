"""Mix'n'Match: the best FFN widths, layer by layer, for a budget, among those that the trained sizes have.

Source: Devvrit et al. 2023 (MatFormer), section 3.3, where layers of different trained widths make models that were
never trained, at no cost. They choose by a rule of thumb; here mixtures are scored on held-out text.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import PreTrainedModel

from matta_core.errors import UserError
from matta_core.nesting.cost import flops_per_token, num_parameters
from matta_core.nesting.live import live_student
from matta_core.nesting.size import Granularity
from matta_core.pretrained import moved
from matta_core.recipe.extraction import MixConfig, amount
from matta_core.students.compact import compact_model
from matta_core.students.search import Widths, WidthSearch
from matta_core.training.passes import PassSettings, cross_entropy_sum
from matta_core.training.precision import autocast_dtype

_LATENCY_REPEATS = 15
_SEQUENCES_PER_PASS = 8
_HEAD_CHUNK_TOKENS = 1024


@dataclass(frozen=True)
class Space:
    """What a mix can be: mixtures of the widths of `uniform`, trained sizes, that cost at most `limit`.

    `cost` is in the budget's unit, `kind`; `sample`: input_ids (sequences, length), on the device of the search.
    """

    name: str
    kind: str
    limit: float
    uniform: Sequence[Granularity]
    cost: Callable[[Widths], float]
    sample: Tensor

    def sized(self, widths: Widths) -> Granularity:
        return replace(self.uniform[-1], name=self.name, intermediate_sizes=widths)

    @property
    def where(self) -> str:
        return f"extract_students.mixes.{self.name}"


@dataclass(frozen=True)
class Mix:
    """What a search found. Losses are nats per token on its sample; `cost` is in the budget's unit."""

    granularity: Granularity
    loss: float
    cost: float
    evaluated: int
    combinations: int
    ended: str  # exhaustive, local optimum, or evaluations spent
    best_uniform: str
    best_uniform_loss: float


def space_of(
    ta: PreTrainedModel,
    granularities: Mapping[str, Granularity],
    student: str,
    name: str,
    config: MixConfig,
    sample: Tensor,
) -> Space:
    """The mixtures for a budget. Each layer has a width that a trained size, from the Student up, has in it; heads and
    depth are the TA's, so that only sizes that keep all of these are mixed.

    Raises: UserError where there is nothing to mix, or the budget is out of reach.
    """
    kind, limit = config.budget
    ta_size = list(granularities.values())[-1]
    from_student = list(granularities.values())[list(granularities).index(student) :]
    uniform = [size for size in from_student if _is_alike(size, ta_size)]
    space = Space(name, kind, limit, uniform, _cost(ta, kind, uniform, sample), sample)
    if len(uniform) < 2:
        raise UserError(
            f"{space.where}: widths are mixed of sizes from the student {student!r} up that keep all of the TA's "
            f"layers and heads, and there is only {ta_size.name}: train another such size"
        )
    lowest, highest = (space.cost(size.intermediate_sizes) for size in (uniform[0], uniform[-1]))
    if limit < lowest:
        raise UserError(
            f"{space.where}.{kind} must be at least the {amount(lowest)} of {uniform[0].name}, the smallest size from "
            f"the student up with the TA's layers and heads, got {amount(limit)}"
        )
    if limit >= highest:
        raise UserError(
            f"{space.where}.{kind} must be below the {amount(highest)} of the TA, got {amount(limit)}: that is the TA "
            f"itself"
        )
    return space


def mix(ta: PreTrainedModel, space: Space, evaluations: int, advance: Callable[[], object] = lambda: None) -> Mix:
    """The best mixture found. `advance` is called after each that was scored, at most `evaluations` times.

    Raises: UserError where what was estimated to take the budget's seconds takes more, again and again.
    """
    settings, sample = PassSettings(_HEAD_CHUNK_TOKENS, autocast_dtype("auto", ta, space.sample.device)), space.sample

    def score(widths: Widths) -> float:
        model = live_student(ta, space.sized(widths)).eval()
        parts = sample.split(_SEQUENCES_PER_PASS)
        total = sum(cross_entropy_sum(model, part, settings).item() for part in parts)
        advance()
        return total / (sample.shape[0] * (sample.shape[1] - 1))

    search = WidthSearch([size.intermediate_sizes for size in space.uniform], space.cost, score, evaluations)
    allowed, lowest = space.limit, space.cost(space.uniform[0].intermediate_sizes)
    for _ in range(4):
        found = search.within(allowed, space.where)
        cost = space.cost(found.widths)
        if space.kind == "prefill_seconds":
            cost = prefill_seconds(ta, space.sized(found.widths), sample)
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
        found.loss,
        cost,
        found.evaluated,
        found.combinations,
        found.ended,
        space.uniform[best].name,
        found.uniform[best],
    )


def _is_alike(size: Granularity, ta: Granularity) -> bool:
    """Whether it differs from the TA in FFN widths alone."""
    return replace(size, name=ta.name, intermediate_sizes=ta.intermediate_sizes) == ta


def _cost(ta: PreTrainedModel, kind: str, uniform: Sequence[Granularity], sample: Tensor) -> Callable[[Widths], float]:
    """What a mixture costs: what the smallest size does, and what the width of each layer adds to that.

    Exact for counts, which add up. Seconds are estimated: a layer adds its share of what the size of its width adds.
    """
    smallest = uniform[0]
    count = {
        "parameters": lambda size: num_parameters(ta, size),
        "bytes": lambda size: 4 * num_parameters(ta, size),
        "flops_per_token": lambda size: flops_per_token(ta, size, sample.shape[1]),
    }.get(kind)
    added: dict[tuple[int, int], float] = {}
    if count is None:
        base = prefill_seconds(ta, smallest, sample)
        for size in reversed(uniform):  # a width that several sizes have costs what it does in the smallest of them
            more = max(0.0, prefill_seconds(ta, size, sample) - base) if size is not smallest else 0.0
            added |= {step: more / len(size.layers) for step in enumerate(size.intermediate_sizes)}
    else:
        base = count(smallest)
        for step in {step for size in uniform for step in enumerate(size.intermediate_sizes)}:
            layer, width = step
            widths = list(smallest.intermediate_sizes)
            widths[layer] = width
            added[step] = count(replace(smallest, intermediate_sizes=tuple(widths))) - base
    return lambda widths: base + sum(added[step] for step in enumerate(widths))


@torch.no_grad()
def prefill_seconds(ta: PreTrainedModel, granularity: Granularity, sample: Tensor) -> float:
    """Median time of a forward pass over one sequence of the sample, by the student without padding."""
    model, prompt = moved(compact_model(ta, granularity), sample.device), sample[:1]
    seconds = []
    for _ in range(_LATENCY_REPEATS + 2):
        started = time.perf_counter()
        model(input_ids=prompt, use_cache=False)
        if prompt.is_cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[2:])  # the first two warm up
