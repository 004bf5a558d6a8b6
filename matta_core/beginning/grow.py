"""Grows a Student into a larger TA that computes the same function."""

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from matta_core.beginning.fit import misfit
from matta_core.beginning.importance import layers_of
from matta_core.errors import UserError
from matta_core.families import Family, family_of
from matta_core.nesting.size import Granularity
from matta_core.nesting.slices import put, slices, student_parameters, take
from matta_core.recipe import TrainConfig


@torch.no_grad()
def grow(ta: PreTrainedModel, student: PreTrainedModel, place: Granularity) -> None:
    """Write a student's weights into the TA, where `place` says. The TA then computes the student's function.

    New neurons, heads and layers get output projections of zero. What these projections read stays random, so that it
    learns from the first step. Where a norm follows the projections, a new layer is silenced there instead
    (`output_norms`).

    Raises: UserError where the student is wider than `place` in some layer, by more than zeros.
    """
    family = family_of(ta.config.model_type)
    for index, layer in enumerate(layers_of(ta)):
        if index not in place.layers and family.output_norms:
            for name, silent in family.output_norms.items():
                layer.get_parameter(name).fill_(silent)
            continue
        for axis in family.axes:
            for parameter in layer.get_submodule(axis.output).parameters():
                parameter.zero_()
    for name, ta_name, parts in student_parameters(ta, place):
        # If widths differ from layer to layer, extraction padded the student with zeros.
        theirs = student.get_parameter(name)
        inner = take(theirs, slices(student.config, name, place.in_itself)[1])
        if inner.count_nonzero() != theirs.count_nonzero():
            raise UserError(
                f"train.start_from: its {name} is {tuple(theirs.shape)}, and not zero beyond the {tuple(inner.shape)} "
                f"of train.sizes.{place.name}: make its whole shape one of train.sizes"
            )
        put(ta.get_parameter(ta_name), parts, inner)


def _extent(family: Family, size: Granularity) -> dict[str, int]:
    """How large a size is on every axis, with the axes' shares."""
    counts = size.padded.counts(0)
    shares = {axis.called(key): number for axis in family.axes for key, number in axis.shares(counts).items()}
    within = {called: number for called, number in shares.items() if " per " in called}
    return {**counts, **within, "num_hidden_layers": len(size.layers)}


def place_within(
    config: TrainConfig, start: Granularity, ta: Granularity, inside: Sequence[Granularity]
) -> Granularity:
    """The checkpoint's place in the TA: the whole TA, perhaps after it is cut down to that, or one of the sizes."""
    assert config.start_from is not None, "something is placed"
    family = family_of(config.model["model_type"])
    theirs, ours = _extent(family, start), _extent(family, ta)
    larger = [f"{axis} ({theirs[axis]}, not {ours[axis]})" for axis in ours if theirs[axis] > ours[axis]]
    smaller = [f"{axis} ({theirs[axis]}, not {ours[axis]})" for axis in ours if theirs[axis] < ours[axis]]
    if larger and smaller:
        raise misfit(
            config.start_from,
            f"it is larger in {', '.join(larger)} and smaller in {', '.join(smaller)}",
            "A checkpoint is cut down to the TA, or grown into it, not both: change train.model and train.sizes",
        )
    if larger:
        if config.start_order != "importance":
            raise misfit(
                config.start_from,
                f"it is larger in {', '.join(larger)}",
                "Set train.start_order to importance, so that it is cut down to its most important neurons, heads and "
                "layers",
            )
        return ta
    for size in (ta, *inside):
        if _extent(family, size) == theirs:
            return size
    shape = ", ".join(f"{axis}: {theirs[axis]}" for axis in ours if theirs[axis] != ours[axis] and " " not in axis)
    raise misfit(
        config.start_from,
        f"it is smaller in {', '.join(smaller)}, and none of the sizes has its shape",
        f"To grow it into the TA, make it one of train.sizes: {{{shape}}}",
    )
