"""Granularities: what each size keeps of the TA, and whether one contains another.

Axes: FFN neurons (a prefix, per layer), attention heads (a prefix of the groups, and in each kept group a prefix of
its query heads), depth (any layers, the first and the last always: one reads the embeddings, the other feeds the head).
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, cast

from transformers import PreTrainedConfig

from matta_core.artifacts.kinds.checkpoint import Size
from matta_core.errors import UserError
from matta_core.families import family_of
from matta_core.recipe.sizes import SizeConfig


@dataclass(frozen=True)
class Granularity:
    """One size. `layers`: which of the TA's it keeps, ascending; `intermediate_sizes`: one FFN width for each."""

    name: str
    intermediate_sizes: tuple[int, ...]
    num_attention_heads: int
    num_key_value_heads: int
    layers: tuple[int, ...]

    @property
    def queries_per_group(self) -> int:
        return self.num_attention_heads // self.num_key_value_heads

    @property
    def is_uniform(self) -> bool:
        """Whether every layer has the same FFN width, as stock configs want it."""
        return len(set(self.intermediate_sizes)) == 1

    def to_dict(self) -> Size:
        """As nesting.json holds it; `name` is its key there."""
        return cast(Size, {key: value for key, value in asdict(self).items() if key != "name"})

    @classmethod
    def from_dict(cls, name: str, values: Mapping[str, Any]) -> "Granularity":
        return cls(name, **{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})


def intermediate_size(config: PreTrainedConfig) -> int:
    """FFN neurons per layer."""
    width = getattr(config, family_of(config.model_type).width_key)
    return width if width is not None else 4 * config.hidden_size  # GPT-2's convention for n_inner = None


def head_size(config: PreTrainedConfig) -> int:
    """Features per attention head."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def whole(config: PreTrainedConfig, name: str) -> Granularity:
    """The granularity that keeps everything of a model with this config."""
    heads = config.num_attention_heads
    layers = config.num_hidden_layers
    return Granularity(
        name,
        (intermediate_size(config),) * layers,
        heads,
        getattr(config, "num_key_value_heads", None) or heads,
        tuple(range(layers)),
    )


def spread_out(num_layers: int) -> list[int]:
    """All layers, in the order in which they are kept where importance is not known: the first, the last, then always
    the one farthest from those before it. Whoever keeps n layers keeps the first n of this order, so that fewer are
    contained in more."""
    order = [0] if num_layers == 1 else [0, num_layers - 1]
    distances = {layer: min(abs(layer - kept) for kept in order) for layer in range(num_layers) if layer not in order}
    while distances:
        order.append(max(distances, key=lambda layer: (distances[layer], -layer)))
        del distances[order[-1]]
        distances = {layer: min(distance, abs(layer - order[-1])) for layer, distance in distances.items()}
    return order


def resolve(
    ta_config: PreTrainedConfig, sizes: Mapping[str, SizeConfig], layer_order: Sequence[int] | None = None
) -> dict[str, Granularity]:
    """Every size in full, ascending, the TA last. `layer_order`: all layers, those to keep first before others
    (`spread_out` by default).

    Raises: UserError with the reason where a size is not contained in the TA, or in the size after it.
    """
    order = list(layer_order or spread_out(ta_config.num_hidden_layers))
    granularities = {name: _resolve(ta_config, name, size, order) for name, size in sizes.items()}
    names = list(granularities)
    ta = whole(ta_config, names[-1])
    if granularities[ta.name] != ta:
        raise UserError(
            f"train.sizes.{ta.name}: the last size is the TA itself, whole: its layers and heads are those of "
            f"train.model; give its intermediate_size alone"
        )
    for inner, outer in pairwise(names):
        reason = why_not_nested(granularities[inner], granularities[outer])
        if reason:
            raise UserError(
                f"train.sizes must ascend, each contained in the next: {outer} does not contain {inner}: {reason}"
            )
    return granularities


def why_not_nested(inner: Granularity, outer: Granularity) -> str | None:
    """The reason why `outer` does not contain `inner` as a smaller size; None where it does."""
    if missing := sorted(set(inner.layers) - set(outer.layers)):
        return f"layer {missing[0]} is kept by {inner.name} and not by {outer.name}"
    widths = dict(zip(outer.layers, outer.intermediate_sizes, strict=True))
    for layer, width in zip(inner.layers, inner.intermediate_sizes, strict=True):
        if width > widths[layer]:
            return f"in layer {layer}, {inner.name} has {width} neurons and {outer.name} {widths[layer]}"
    if inner.num_key_value_heads > outer.num_key_value_heads:
        return f"{inner.name} has {inner.num_key_value_heads} key/value heads and {outer.name} has " + str(
            outer.num_key_value_heads
        )
    if inner.queries_per_group > outer.queries_per_group:
        return (
            f"{inner.name} has {inner.queries_per_group} query heads per key/value head and {outer.name} "
            f"{outer.queries_per_group}"
        )
    if inner.to_dict() == outer.to_dict():
        return "they are the same"
    return None


def _resolve(ta_config: PreTrainedConfig, name: str, size: SizeConfig, order: Sequence[int]) -> Granularity:
    ta, where = whole(ta_config, "the TA"), f"train.sizes.{name}"
    layers = _layers(size, where, order)
    if size.intermediate_sizes is not None:
        widths = size.intermediate_sizes
        if len(widths) != len(layers):
            raise UserError(f"{where}.intermediate_sizes must have one width for each of {len(layers)} layers, got "
                            f"{len(widths)}")  # fmt: skip
    else:
        width = ta.intermediate_sizes[0] if size.intermediate_size is None else size.intermediate_size
        widths = (width,) * len(layers)
    heads, groups = _heads(ta_config, ta, size, where)
    granularity = Granularity(name, widths, heads, groups, layers)
    reason = why_not_nested(granularity, ta)
    if reason and granularity.to_dict() != ta.to_dict():
        raise UserError(f"{where} is not contained in the TA: {reason}")
    return granularity


def _layers(size: SizeConfig, where: str, order: Sequence[int]) -> tuple[int, ...]:
    last = len(order) - 1
    if size.layers is not None:
        if size.layers[0] != 0 or size.layers[-1] != last:
            raise UserError(
                f"{where}.layers must hold the TA's first layer, 0, and its last, {last}, and none beyond; got "
                f"{list(size.layers)}"
            )
        return size.layers
    number = len(order) if size.num_hidden_layers is None else size.num_hidden_layers
    if not min(2, len(order)) <= number <= len(order):
        raise UserError(
            f"{where}.num_hidden_layers must be from {min(2, len(order))} (the first layer and the last) to the TA's "
            f"{len(order)}, got {number}"
        )
    return tuple(sorted(order[:number]))


def _heads(ta_config: PreTrainedConfig, ta: Granularity, size: SizeConfig, where: str) -> tuple[int, int]:
    """Query heads, and groups. One of the two given: the other keeps the TA's number of queries per group, or, where
    that number is what changes, the TA's groups."""
    heads, groups = size.num_attention_heads, size.num_key_value_heads
    family = family_of(ta_config.model_type)
    if (heads, groups) == (None, None):
        return ta.num_attention_heads, ta.num_key_value_heads
    if family.no_heads:
        raise UserError(
            f"{where}: attention heads of {family.model_type} do not nest: {family.no_heads}. Nest intermediate_size "
            f"or layers, or take a family like llama"
        )
    if groups is None:
        groups = heads if ta.queries_per_group == 1 else ta.num_key_value_heads
    if heads is None:
        heads = groups * ta.queries_per_group
    if heads % groups:
        raise UserError(
            f"{where}.num_attention_heads must be a multiple of num_key_value_heads = {groups}, got {heads}"
        )
    return heads, groups
