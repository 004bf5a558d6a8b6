"""Nesting: a student is a stock model whose weights are live slices of the TA's.

Everything follows from `slices`: the live student, the extraction, the initialisation, the optimizer's blocks, and the
counts of parameters and FLOPs all call it. A family's table says what nests in an architecture (`families/`).
Source: Devvrit et al. 2023 (MatFormer) for the nested FFN; Verma et al. 2025 (MatTA) for its use as TA.
"""

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from matta_core.families import family_of
from matta_core.nesting.size import Granularity, whole


class Grid(NamedTuple):
    """A segment of a dimension, seen as a grid of `blocks`, of which the first `kept` are taken along each axis."""

    blocks: tuple[int, ...]
    kept: tuple[int, ...]


class Part(NamedTuple):
    """The part of one dimension that is kept. The dimension is the concatenation of `grids`."""

    dimension: int
    grids: tuple[Grid, ...]


def slices(ta_config: PreTrainedConfig, parameter_name: str, granularity: Granularity) -> tuple[str, tuple[Part, ...]]:
    """Where a student's parameter lies in the TA: the TA's parameter name, and the parts of it that are kept."""
    prefix = family_of(ta_config.model_type).layers
    layer, rest = _layer_and_rest(prefix, parameter_name)
    if layer is None:
        return parameter_name, ()
    parts = _along_axes(ta_config, rest, granularity, layer)
    smaller = tuple(part for part in parts if any(grid.blocks != grid.kept for grid in part.grids))
    return f"{prefix}.{granularity.layers[layer]}.{rest}", smaller


def _along_axes(ta_config: PreTrainedConfig, rest: str, granularity: Granularity, layer: int) -> Iterator[Part]:
    """The dimensions of a layer's parameter that lie along an axis, whether all of it is kept or less."""
    family, ta = family_of(ta_config.model_type), whole(ta_config, "")
    for axis in family.axes:
        if rest in axis.parameters:
            dimension, segments = axis.parameters[rest]
            features = {key: family.count(ta_config, key) for segment in segments for key in segment}
            of_ta = features | axis.shares(ta.counts(granularity.layers[layer]))
            kept = features | axis.shares(granularity.counts(layer))
            grids = (Grid(tuple(of_ta[key] for key in keys), tuple(kept[key] for key in keys)) for keys in segments)
            yield Part(dimension, tuple(grids))


def take(tensor: Tensor, parts: Sequence[Part]) -> Tensor:
    """The kept part, in the student's shape: a view if memory allows it, else a copy through which gradients flow."""
    tensor = tensor.view_as(tensor)  # never the parameter itself, which a module would take for its own
    for part in parts:
        last = [part.dimension + len(grid.kept) - 1 for grid in part.grids]
        kept = [region.flatten(part.dimension, end) for region, end in zip(_regions(tensor, part), last, strict=True)]
        tensor = torch.cat(kept, part.dimension) if len(kept) > 1 else kept[0]
    return tensor


def put(tensor: Tensor, parts: Sequence[Part], values: Tensor) -> None:
    """Write values, in the student's shape, to where `take` reads them."""
    if not parts:
        tensor.copy_(values)
        return
    *before, part = sorted(parts)  # the last dimension is spread out first, so that the others keep their numbers
    pieces = values.split([math.prod(grid.kept) for grid in part.grids], part.dimension)
    for region, grid, piece in zip(_regions(tensor, part), part.grids, pieces, strict=True):
        put(region, before, piece.unflatten(part.dimension, grid.kept))


def _regions(tensor: Tensor, part: Part) -> Iterator[Tensor]:
    """For each segment a view of the kept part, spread out into its grid."""
    start = 0
    for grid in part.grids:
        length = math.prod(grid.blocks)
        region = tensor.narrow(part.dimension, start, length).unflatten(part.dimension, grid.blocks)
        for axis, number in enumerate(grid.kept):
            region = region.narrow(part.dimension + axis, 0, number)
        yield region
        start += length


def student_parameters(ta: PreTrainedModel, granularity: Granularity) -> Iterator[tuple[str, str, tuple[Part, ...]]]:
    """For every parameter of a student: its name, its name in the TA, and the kept parts. Tied ones appear once."""
    prefix = family_of(ta.config.model_type).layers
    for ta_name, _ in ta.named_parameters():
        layer, rest = _layer_and_rest(prefix, ta_name)
        if layer is None:
            yield ta_name, ta_name, ()
        elif layer in granularity.layers:
            name = f"{prefix}.{granularity.layers.index(layer)}.{rest}"
            yield name, *slices(ta.config, name, granularity)


def cuts(ta: PreTrainedModel, granularities: Iterable[Granularity]) -> dict[str, dict[int, list[int]]]:
    """Where the sizes' boundaries lie: parameter name -> dimension -> ascending offsets inside it.

    Matrices that lie side by side in one parameter (GPT-2's c_attn) are cut apart, too. The cuts are for optimizers
    whose preconditioner must not mix neurons that are trained in every step with those that rarely are.
    """
    prefix = family_of(ta.config.model_type).layers
    offsets: dict[str, dict[int, set[int]]] = {}
    for granularity in (whole(ta.config, ""), *granularities):
        for name, _ in ta.named_parameters():
            layer, rest = _layer_and_rest(prefix, name)
            if layer in granularity.layers:
                for part in _along_axes(ta.config, rest, granularity, granularity.layers.index(layer)):
                    if found := set(_edges(part)):
                        offsets.setdefault(name, {}).setdefault(part.dimension, set()).update(found)
    return {name: {axis: sorted(found) for axis, found in by.items()} for name, by in offsets.items()}


def _edges(part: Part) -> Iterator[int]:
    """The places where segments begin, and where their kept parts begin and end, without the dimension's own 0."""
    first = 0
    for grid in part.grids:
        length = math.prod(grid.blocks)
        starts = {first}
        for axis, number in enumerate(grid.kept):
            block = math.prod(grid.blocks[axis + 1 :])
            if number < grid.blocks[axis]:  # in every block of the axes before it
                starts.update(
                    edge
                    for start in range(first, first + length, block * grid.blocks[axis])
                    for edge in (start, start + number * block)
                )
        yield from starts - {0}
        first += length


def _layer_and_rest(prefix: str, parameter_name: str) -> tuple[int | None, str]:
    """("model.layers", "model.layers.3.mlp.up_proj.weight") -> 3, "mlp.up_proj.weight"; None outside the layers."""
    match = re.fullmatch(rf"{re.escape(prefix)}\.(\d+)\.(.+)", parameter_name)
    return (int(match[1]), match[2]) if match else (None, parameter_name)
