"""Nesting: a student is a stock model whose weights are live slices of the TA's.

Everything follows from `slices`: the live student, the extraction, the initialisation, the optimizer's blocks, and the
counts of parameters and FLOPs all call it. What nests in an architecture is its family's table (`families/`).
Source: Devvrit et al. 2023 (MatFormer) for the nested FFN; Verma et al. 2025 (MatTA) for its use as TA.
"""

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from matta_core.families import family_of
from matta_core.nesting.size import Granularity, head_size, whole


class Part(NamedTuple):
    """Of one dimension, seen as a grid of `blocks`, the first `kept` along each of the grid's axes."""

    dimension: int
    blocks: tuple[int, ...]
    kept: tuple[int, ...]


def slices(ta_config: PreTrainedConfig, parameter_name: str, granularity: Granularity) -> tuple[str, tuple[Part, ...]]:
    """Where a student's parameter lies in the TA: the TA's parameter name, and the parts of it that are kept."""
    family = family_of(ta_config.model_type)
    layer, rest = _layer_and_rest(family.layers, parameter_name)
    if layer is None:
        return parameter_name, ()
    ta = whole(ta_config, "")
    ta_layer = granularity.layers[layer]
    size = head_size(ta_config)
    widths = (ta.intermediate_sizes[ta_layer],), (granularity.intermediate_sizes[layer],)
    groups = (ta.num_key_value_heads, size), (granularity.num_key_value_heads, size)
    queries = tuple((of.num_key_value_heads, of.queries_per_group, size) for of in (ta, granularity))
    parts = tuple(
        Part(table[rest], blocks, kept)
        for table, (blocks, kept) in ((family.neurons, widths), (family.queries, queries), (family.keys_values, groups))
        if rest in table and blocks != kept
    )
    return f"{family.layers}.{ta_layer}.{rest}", parts


def region(tensor: Tensor, parts: Sequence[Part]) -> Tensor:
    """A view of what is kept; every nested dimension is spread out into its grid. Writing to it writes the tensor."""
    tensor = tensor.view_as(tensor)  # never the parameter itself: a module would take that for its own
    for part in sorted(parts, reverse=True):  # from the last dimension: those before it keep their number
        tensor = tensor.unflatten(part.dimension, part.blocks)
        for axis, number in enumerate(part.kept):
            tensor = tensor.narrow(part.dimension + axis, 0, number)
    return tensor


def take(tensor: Tensor, parts: Sequence[Part]) -> Tensor:
    """What is kept, in the student's shape: a view where memory allows one, else a copy that gradients flow through."""
    kept = region(tensor, parts)
    for part in sorted(parts):  # from the first: those before it are already folded
        if len(part.kept) > 1:
            kept = kept.flatten(part.dimension, part.dimension + len(part.kept) - 1)
    return kept


def student_parameters(
    ta: PreTrainedModel, granularity: Granularity, *, tied_once: bool = True
) -> Iterator[tuple[str, str, tuple[Part, ...]]]:
    """Of every parameter of a student: its name, the TA's name, and the parts. Tied ones once, or under each name."""
    prefix = family_of(ta.config.model_type).layers
    for ta_name, _ in ta.named_parameters(remove_duplicate=tied_once):
        layer, rest = _layer_and_rest(prefix, ta_name)
        if layer is None:
            yield ta_name, ta_name, ()
        elif layer in granularity.layers:
            name = f"{prefix}.{granularity.layers.index(layer)}.{rest}"
            yield name, *slices(ta.config, name, granularity)


def cuts(ta: PreTrainedModel, granularities: Iterable[Granularity]) -> dict[str, dict[int, list[int]]]:
    """Where the sizes' boundaries lie: parameter name -> dimension -> ascending offsets inside it.

    Matrices that lie side by side in one parameter (GPT-2's c_attn) are cut apart as well. For optimizers whose
    preconditioner must not mix neurons that are trained in every step with those that rarely are.
    """
    offsets: dict[str, dict[int, set[int]]] = {}
    for granularity in granularities:
        for _, name, parts in student_parameters(ta, granularity):
            for part in parts:
                found = offsets.setdefault(name, {}).setdefault(part.dimension, set())
                for axis, number in enumerate(part.kept):
                    block = math.prod(part.blocks[axis + 1 :])
                    if number < part.blocks[axis]:  # in every block of the axes before it
                        starts = range(0, math.prod(part.blocks), block * part.blocks[axis])
                        found.update(edge for start in starts for edge in (start, start + number * block) if edge)
    for name, parameter in ta.named_parameters():
        for ending, (dimension, number) in family_of(ta.config.model_type).fused.items():
            if name.endswith(ending):
                each = parameter.shape[dimension] // number
                found = offsets.setdefault(name, {}).setdefault(dimension, set())
                found.update(each * index for index in range(1, number))
    return {name: {axis: sorted(found) for axis, found in by.items()} for name, by in offsets.items()}


def _layer_and_rest(prefix: str, parameter_name: str) -> tuple[int | None, str]:
    """("model.layers", "model.layers.3.mlp.up_proj.weight") -> 3, "mlp.up_proj.weight"; None outside the layers."""
    match = re.fullmatch(rf"{re.escape(prefix)}\.(\d+)\.(.+)", parameter_name)
    return (int(match[1]), match[2]) if match else (None, parameter_name)
