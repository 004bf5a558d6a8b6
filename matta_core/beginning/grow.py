"""A Student in its place in a larger TA that computes the same function."""

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from matta_core.beginning.fit import misfit
from matta_core.errors import UserError
from matta_core.families import family_of
from matta_core.nesting.size import Granularity
from matta_core.nesting.slices import region, student_parameters, take
from matta_core.recipe import TrainConfig


@torch.no_grad()
def grow(ta: PreTrainedModel, student: PreTrainedModel, place: Granularity) -> None:
    """Put a student's weights where `place` says, in place; the TA then computes the student's function.

    Output projections are zero for what is new: neurons and heads in the student's layers, and whole layers. What
    these projections read stays random, so that it learns from the first step. Where a norm follows the projections,
    a new layer is silenced there instead (`output_norms`).

    Raises: UserError where the student is wider than `place` in some layer, and not by zeros.
    """
    family = family_of(ta.config.model_type)
    for index, layer in enumerate(ta.get_submodule(family.layers)):
        if index not in place.layers and family.output_norms:
            for name, silent in family.output_norms.items():
                layer.get_parameter(name).fill_(silent)
            continue
        for projection in (family.ffn_output, family.attention_output):
            for parameter in layer.get_submodule(projection).parameters():
                parameter.zero_()
    for name, ta_name, parts in student_parameters(ta, place):
        kept = region(ta.get_parameter(ta_name), parts)
        theirs = student.get_parameter(name)
        shape = take(ta.get_parameter(ta_name), parts).shape
        # Where widths differ from layer to layer, extraction padded the student's with zeros.
        inner = theirs[tuple(slice(0, length) for length in shape)]
        if inner.count_nonzero() != theirs.count_nonzero():
            raise UserError(
                f"train.start_from: its {name} is {tuple(theirs.shape)}, and not zero beyond the {tuple(shape)} of "
                f"train.sizes.{place.name}: make its whole shape one of train.sizes"
            )
        kept.copy_(inner.reshape(kept.shape))


def _axes(size: Granularity) -> dict[str, int]:
    return {
        "intermediate_size": max(size.intermediate_sizes),
        "num_attention_heads": size.num_attention_heads,
        "num_key_value_heads": size.num_key_value_heads,
        "query heads per key/value head": size.queries_per_group,
        "num_hidden_layers": len(size.layers),
    }


def place_within(
    config: TrainConfig, start: Granularity, ta: Granularity, inside: Sequence[Granularity]
) -> Granularity:
    """Where in the TA the checkpoint goes: as the whole, also after it is cut down to that, or as one of the sizes."""
    theirs, ours = _axes(start), _axes(ta)
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
        if _axes(size) == theirs:
            return size
    shape = ", ".join(f"{axis}: {theirs[axis]}" for axis in ours if theirs[axis] != ours[axis] and " " not in axis)
    raise misfit(
        config.start_from,
        f"it is smaller in {', '.join(smaller)}, and none of the sizes has its shape",
        f"To grow it into the TA, make it one of train.sizes: {{{shape}}}",
    )
