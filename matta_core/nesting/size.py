"""Granularities: what each size keeps of the TA, and whether one contains another.

A size keeps the first units of each of the family's axes. In depth it keeps any layers, but always the first, which
reads the embeddings, and the last, which feeds the head.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, cast

from transformers import PreTrainedConfig

from matta_core.artifacts.kinds.checkpoint import Size
from matta_core.errors import UserError
from matta_core.families import Axis, Family, family_of
from matta_core.recipe.sizes import DEPTH, SizeConfig


@dataclass(frozen=True)
class Granularity:
    """One size. `layers` are those of the TA's that it keeps, ascending. `kept` has, by the axes' keys, how many units
    it keeps: one number, or one for each of `layers` if the axis may differ by layer."""

    name: str
    layers: tuple[int, ...]
    kept: Mapping[str, int | tuple[int, ...]]

    def counts(self, layer: int) -> dict[str, int]:
        """How many units the layer at this place in `layers` keeps, by key."""
        return {key: count[layer] if isinstance(count, tuple) else count for key, count in self.kept.items()}

    @property
    def by_layer(self) -> dict[str, tuple[int, ...]]:
        """The counts of axes that may differ by layer."""
        return {key: counts for key, counts in self.kept.items() if isinstance(counts, tuple)}

    def keeping(self, name: str, key: str, counts: tuple[int, ...]) -> "Granularity":
        """The same size with other counts on one axis, under another name."""
        return replace(self, name=name, kept={**self.kept, key: counts})

    @property
    def is_uniform(self) -> bool:
        """Whether all layers are alike, as stock configs want it."""
        return all(len(set(counts)) == 1 for counts in self.by_layer.values())

    @property
    def padded(self) -> "Granularity":
        """The size of its stock checkpoint, in which every layer is as wide as the widest."""
        widest = {key: (max(counts),) * len(counts) for key, counts in self.by_layer.items()}
        return replace(self, kept={**self.kept, **widest})

    @property
    def in_itself(self) -> "Granularity":
        """Where the size lies in its own checkpoint, which is padded."""
        return replace(self, layers=tuple(range(len(self.layers))))

    def to_dict(self) -> Size:
        """The size in the form of nesting.json, where `name` is its key."""
        kept = {f"{key}s" if isinstance(count, tuple) else key: count for key, count in self.kept.items()}
        return cast(Size, {**kept, "layers": self.layers})

    @classmethod
    def from_dict(cls, name: str, values: Mapping[str, Any]) -> "Granularity":
        kept = {key: count for key, count in values.items() if isinstance(count, int)}
        by_layer = {key.removesuffix("s"): tuple(counts) for key, counts in values.items() if key not in kept}
        layers = by_layer.pop("layer")
        return cls(name, layers, {**by_layer, **kept})


def whole(config: PreTrainedConfig, name: str) -> Granularity:
    """The granularity that keeps everything of a model with this config."""
    family, layers = family_of(config.model_type), config.num_hidden_layers
    kept = {}
    for axis in family.axes:
        for key in reversed(list(axis.keys)):  # in nesting.json's order
            number = family.count(config, key)
            kept[key] = (number,) * layers if axis.by_layer else number
    return Granularity(name, tuple(range(layers)), kept)


def spread_out(num_layers: int) -> list[int]:
    """All layers, in the order in which they are kept if importance is not known: the first, the last, then always the
    one that is farthest from those before it. A size with n layers keeps the first n of this order, so that a smaller
    size is contained in a larger one."""
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
    """Every size in full, ascending, with the TA last. `layer_order` has all layers in the order in which they are kept
    (by default that of `spread_out`).

    Raises: UserError with the reason where a size is not contained in the TA, or in the size after it.
    """
    order = list(layer_order or spread_out(ta_config.num_hidden_layers))
    granularities = {name: _resolve(ta_config, name, size, order) for name, size in sizes.items()}
    names = list(granularities)
    ta = whole(ta_config, names[-1])
    if granularities[ta.name] != ta:
        raise UserError(
            f"train.sizes.{ta.name}: the last size is the TA itself, whole: its counts are those of "
            f"train.model; give it only those that train.model leaves out"
        )
    for inner, outer in pairwise(names):
        reason = why_not_nested(family_of(ta_config.model_type), granularities[inner], granularities[outer])
        if reason:
            raise UserError(
                f"train.sizes must ascend, each contained in the next: {outer} does not contain {inner}: {reason}"
            )
    return granularities


def why_not_nested(family: Family, inner: Granularity, outer: Granularity) -> str | None:
    """The reason why `outer` does not contain `inner` as a smaller size; None where it does."""
    if missing := sorted(set(inner.layers) - set(outer.layers)):
        return f"layer {missing[0]} is kept by {inner.name} and not by {outer.name}"
    for place, layer in enumerate(inner.layers):
        for axis in family.axes:
            ours, theirs = axis.shares(inner.counts(place)), axis.shares(outer.counts(outer.layers.index(layer)))
            for key in axis.keys:
                if ours[key] > theirs[key]:
                    where = f"in layer {layer}, " if axis.by_layer else ""
                    return f"{where}{inner.name} has {ours[key]} {axis.called(key)} and {outer.name} {theirs[key]}"
    if inner.to_dict() == outer.to_dict():
        return "they are the same"
    return None


def _resolve(ta_config: PreTrainedConfig, name: str, size: SizeConfig, order: Sequence[int]) -> Granularity:
    family, ta, where = family_of(ta_config.model_type), whole(ta_config, "the TA"), f"train.sizes.{name}"
    known = [setting for axis in family.axes for setting, _ in axis.settings]
    if unknown := [setting for setting in size if setting not in (*known, *DEPTH)]:
        raise UserError(f"{where}.{unknown[0]}: {family.model_type} has none; its axes are {', '.join(known)}")
    layers = _layers(size, where, order)
    kept = dict(ta.kept)
    for axis in family.axes:
        kept |= _kept(family, axis, size, ta.counts(0), len(layers), where)
    granularity = Granularity(name, layers, kept)
    reason = why_not_nested(family, granularity, ta)
    if reason and granularity.to_dict() != ta.to_dict():
        raise UserError(f"{where} is not contained in the TA: {reason}")
    return granularity


def _layers(size: SizeConfig, where: str, order: Sequence[int]) -> tuple[int, ...]:
    last = len(order) - 1
    if layers := size.get("layers"):
        if layers[0] != 0 or layers[-1] != last:
            raise UserError(
                f"{where}.layers must hold the TA's first layer, 0, and its last, {last}, and none beyond; got "
                f"{list(layers)}"
            )
        return layers
    number = size.get("num_hidden_layers", len(order))
    if not min(2, len(order)) <= number <= len(order):
        raise UserError(
            f"{where}.num_hidden_layers must be from {min(2, len(order))} (the first layer and the last) to the TA's "
            f"{len(order)}, got {number}"
        )
    return tuple(sorted(order[:number]))


def _kept(
    family: Family, axis: Axis, size: SizeConfig, ta: Mapping[str, int], layers: int, where: str
) -> dict[str, int | tuple[int, ...]]:
    """What a size keeps of an axis. If it sets one of two counts, the other keeps the TA's share; if it sets that
    share, the first keeps the TA's number."""
    said = {key: size[setting] for setting, key in axis.settings if setting in size}
    if said and axis.fixed:
        others = " or ".join(key for other in family.nested for key in other.keys)
        raise UserError(
            f"{where}: {axis.name} of {family.model_type} do not nest: {axis.fixed}. Nest {others} or layers, or take "
            f"a family like llama"
        )
    if axis.by_layer:
        (key,) = axis.keys
        count = said.get(key, ta[key])
        counts = count if isinstance(count, tuple) else (count,) * layers
        if len(counts) != layers:
            raise UserError(f"{where}.{key}s must have one width for each of {layers} layers, got {len(counts)}")
        return {key: counts}
    shares, first, pairs = axis.shares(ta), next(iter(axis.keys)), list(pairwise(axis.keys))
    for outer, inner in reversed(pairs):
        if inner in said:
            said.setdefault(outer, said[inner] if shares[inner] == 1 else ta[outer])
    said.setdefault(first, ta[first])
    for outer, inner in pairs:
        said.setdefault(inner, said[outer] * shares[inner])
        if said[inner] % said[outer]:
            raise UserError(f"{where}.{inner} must be a multiple of {outer} = {said[outer]}, got {said[inner]}")
    return said
