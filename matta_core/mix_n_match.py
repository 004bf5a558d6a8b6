"""Mix'n'Match: the best FFN widths, layer by layer, for a budget, among those that the trained sizes have.

Source: Devvrit et al. 2023 (MatFormer), section 3.3, where layers of different trained widths make models that were
never trained, at no cost. They choose by a rule of thumb; here mixtures are scored on held-out text.
"""

import itertools
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor
from transformers import PreTrainedModel

from matta_core.config.extraction import MixConfig, amount
from matta_core.errors import UserError
from matta_core.export import compact_model
from matta_core.granularity import Granularity
from matta_core.nesting import flops_per_token, live_student, num_parameters
from matta_core.optimization import autocast_dtype
from matta_core.passes import PassSettings, cross_entropy_sum

Widths = tuple[int, ...]

_LATENCY_REPEATS = 15
_SEQUENCES_PER_PASS = 8
_HEAD_CHUNK_TOKENS = 1024


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


def mix(
    ta: PreTrainedModel,
    granularities: Mapping[str, Granularity],
    student: str,
    name: str,
    config: MixConfig,
    sample: Tensor,
    evaluations: int,
    advance: Callable[[], None] = lambda: None,
) -> Mix:
    """The best mixture for a budget. Each layer has a width that a trained size, from the Student up, has in it; heads
    and depth are the TA's, so that only sizes that keep all of these are mixed.

    `sample`: input_ids (sequences, length).
    `advance` is called after each mixture that was scored.

    Raises: UserError where there is nothing to mix, or the budget is out of reach.
    """
    where, (kind, limit) = f"extract_students.mixes.{name}", config.budget
    uniform, cost = within_reach(ta, granularities, student, name, config, sample)
    lowest = cost(uniform[0].intermediate_sizes)

    def sized(widths: Widths) -> Granularity:
        return replace(uniform[-1], name=name, intermediate_sizes=widths)

    settings = PassSettings(_HEAD_CHUNK_TOKENS, autocast_dtype("auto", ta, sample.device))

    @cache  # a budget of seconds may take several searches
    def score(widths: Widths) -> float:
        model = live_student(ta, sized(widths)).eval()
        parts = sample.split(_SEQUENCES_PER_PASS)
        total = sum(cross_entropy_sum(model, part, settings).item() for part in parts)
        advance()
        return total / (sample.shape[0] * (sample.shape[1] - 1))

    allowed = limit
    for _ in range(4):
        found = search([size.intermediate_sizes for size in uniform], cost, allowed, score, evaluations, where)
        if kind != "prefill_seconds" or (measured := prefill_seconds(ta, sized(found.widths), sample)) <= limit:
            break
        allowed *= 0.95 * limit / measured  # the estimate by layer was too low
        if allowed < lowest:
            raise UserError(
                f"{where}.{kind}: what fits takes {amount(measured)} measured, above {amount(limit)}: set it higher"
            )
    else:
        raise UserError(
            f"{where}.{kind}: no mixture was measured within {amount(limit)}; the last took {amount(measured)}"
        )
    best = uniform[min(range(len(uniform)), key=lambda index: found.uniform.get(index, math.inf))]
    return Mix(
        sized(found.widths),
        found.loss,
        measured if kind == "prefill_seconds" else cost(found.widths),
        found.evaluated,
        found.combinations,
        found.ended,
        best.name,
        min(found.uniform.values()),
    )


@dataclass(frozen=True)
class Found:
    """`uniform`: the losses of the trained sizes within the budget, by their place."""

    widths: Widths
    loss: float
    evaluated: int
    combinations: int
    ended: str
    uniform: Mapping[int, float]


def search(
    sizes: Sequence[Widths],
    cost: Callable[[Widths], float],
    limit: float,
    score: Callable[[Widths], float],
    evaluations: int,
    where: str = "mix",
) -> Found:
    """The lowest score at a cost of at most `limit`, of all mixtures or of as many as `evaluations` allows.

    `sizes`: widths by layer of each trained size, ascending; the first fits. All mixtures are scored where they are
    few enough. Else: what each single step up is worth is measured from the smallest size; the budget is filled by
    worth per cost; then, as long as evaluations last, one layer goes up and another down wherever that is better.
    The trained sizes that fit are always among those compared.

    Raises: UserError where `evaluations` does not suffice for the single steps.
    """
    levels = [sorted({size[layer] for size in sizes}) for layer in range(len(sizes[0]))]
    combinations = math.prod(len(level) for level in levels)
    scores: dict[Widths, float] = {}

    def scored(widths: Widths) -> float:
        if widths not in scores:
            scores[widths] = score(widths)
        return scores[widths]

    uniform = {index: scored(size) for index, size in enumerate(sizes) if cost(size) <= limit}
    if combinations <= evaluations:
        for widths in itertools.product(*levels):
            if cost(widths) <= limit:
                scored(widths)
        ended = "exhaustive"
    else:
        needed = len(uniform) + sum(len(level) - 1 for level in levels) + 1
        if needed > evaluations:
            raise UserError(f"{where}: extract_students.mix_evaluations must be at least {needed}, got {evaluations}")
        worth = _worth(sizes[0], levels, scored)
        start = _filled(sizes[0], levels, worth, cost, limit)
        scored(start)
        ended = _exchange(min(scores, key=_within(cost, limit, scores)), levels, worth, cost, limit, scored, scores,
                          evaluations)  # fmt: skip
    best = min(scores, key=_within(cost, limit, scores))
    return Found(best, scores[best], len(scores), combinations, ended, uniform)


def _within(
    cost: Callable[[Widths], float], limit: float, scores: Mapping[Widths, float]
) -> Callable[[Widths], tuple[float, float]]:
    """Orders mixtures by score, those above the budget last; equals by cost."""
    return lambda widths: (scores[widths] if cost(widths) <= limit else math.inf, cost(widths))


def _worth(
    smallest: Widths, levels: Sequence[Sequence[int]], scored: Callable[[Widths], float]
) -> dict[tuple[int, int], float]:
    """By layer and width: how much the loss of the smallest size falls where this layer alone has that width."""
    base = scored(smallest)
    return {
        (layer, width): base - scored((*smallest[:layer], width, *smallest[layer + 1 :])) if width != smallest[layer]
        else 0.0
        for layer, level in enumerate(levels)
        for width in level
    }  # fmt: skip


def _filled(
    smallest: Widths,
    levels: Sequence[Sequence[int]],
    worth: Mapping[tuple[int, int], float],
    cost: Callable[[Widths], float],
    limit: float,
) -> Widths:
    """From the smallest up: always the step that is worth most per cost and still fits."""
    widths = smallest
    while True:
        steps = []
        for layer, level in enumerate(levels):
            for width in level:
                raised = (*widths[:layer], width, *widths[layer + 1 :])
                if width > widths[layer] and cost(raised) <= limit:
                    gain = worth[layer, width] - worth[layer, widths[layer]]
                    steps.append((gain / max(cost(raised) - cost(widths), 1e-12), raised))
        if not steps:
            return widths
        widths = max(steps)[1]


def _exchange(
    widths: Widths,
    levels: Sequence[Sequence[int]],
    worth: Mapping[tuple[int, int], float],
    cost: Callable[[Widths], float],
    limit: float,
    scored: Callable[[Widths], float],
    scores: Mapping[Widths, float],
    evaluations: int,
) -> str:
    """Local search: neighbours in the order of what they should be worth, the first better one is taken."""
    while True:
        neighbours = {}
        for (up, higher), (down, lower) in itertools.product(worth, worth):
            if up == down or higher <= widths[up] or lower > widths[down]:
                continue
            changed = list(widths)
            changed[up], changed[down] = higher, lower
            if cost(tuple(changed)) <= limit:
                neighbours[tuple(changed)] = sum(worth[layer, width] for layer, width in enumerate(changed))
        for neighbour in sorted(neighbours, key=lambda each: -neighbours[each]):
            if neighbour not in scores and len(scores) >= evaluations:
                return "evaluations spent"
            if scored(neighbour) < scores[widths]:
                widths = neighbour
                break
        else:
            return "local optimum"


def within_reach(
    ta: PreTrainedModel,
    granularities: Mapping[str, Granularity],
    student: str,
    name: str,
    config: MixConfig,
    sample: Tensor,
) -> tuple[list[Granularity], Callable[[Widths], float]]:
    """The sizes that are mixed, and what a mixture costs. Raises: UserError as `mix` does, before any search."""
    where, (kind, limit) = f"extract_students.mixes.{name}", config.budget
    uniform = _mixable(granularities, student, where)
    cost = _cost(ta, kind, lambda widths: replace(uniform[-1], intermediate_sizes=widths), uniform, sample)
    lowest, highest = cost(uniform[0].intermediate_sizes), cost(uniform[-1].intermediate_sizes)
    if not lowest <= limit:
        raise UserError(
            f"{where}.{kind} must be at least the {amount(lowest)} of {uniform[0].name}, the smallest size from the "
            f"student up with the TA's layers and heads, got {amount(limit)}"
        )
    if limit >= highest:
        raise UserError(
            f"{where}.{kind} must be below the {amount(highest)} of the TA, got {amount(limit)}: that is the TA itself"
        )
    return uniform, cost


def _mixable(granularities: Mapping[str, Granularity], student: str, where: str) -> list[Granularity]:
    ta = list(granularities.values())[-1]
    names = list(granularities)
    from_student = [granularities[name] for name in names[names.index(student) :]]
    alike = [replace(ta, name=size.name, intermediate_sizes=size.intermediate_sizes) for size in from_student
             if len(size.layers) == len(ta.layers)]  # fmt: skip
    mixable = [size for size in alike if size == granularities[size.name]]
    if len(mixable) < 2:
        raise UserError(
            f"{where}: widths are mixed of sizes from the student {student!r} up that keep all of the TA's layers and "
            f"heads, and there is only {ta.name}: train another such size"
        )
    return mixable


def _cost(
    ta: PreTrainedModel,
    kind: str,
    sized: Callable[[Widths], Granularity],
    uniform: Sequence[Granularity],
    sample: Tensor,
) -> Callable[[Widths], float]:
    """What a mixture costs. Seconds are estimated: each layer's width adds what it adds in the size that has it."""
    if kind == "parameters":
        return lambda widths: num_parameters(ta, sized(widths))
    if kind == "bytes":
        return lambda widths: 4 * num_parameters(ta, sized(widths))
    if kind == "flops_per_token":
        return lambda widths: flops_per_token(ta, sized(widths), sample.shape[1])
    layers = len(uniform[0].layers)
    seconds = [prefill_seconds(ta, size, sample) for size in uniform]
    share = {
        (layer, width): max(0.0, seconds[index] - seconds[0]) / layers
        for index, size in reversed(list(enumerate(uniform)))
        for layer, width in enumerate(size.intermediate_sizes)
    }
    return lambda widths: seconds[0] + sum(share[layer, width] for layer, width in enumerate(widths))


@torch.no_grad()
def prefill_seconds(ta: PreTrainedModel, granularity: Granularity, sample: Tensor) -> float:
    """Median time of a forward pass over one sequence of the sample, by the student without padding."""
    model, prompt = compact_model(ta, granularity).to(sample.device), sample[:1]
    seconds = []
    for _ in range(_LATENCY_REPEATS + 2):
        started = time.perf_counter()
        model(input_ids=prompt, use_cache=False)
        if prompt.is_cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[2:])  # the first two warm up
