"""Where a TA begins: random weights, or a checkpoint of its own shape, of a Student's, or of a larger model.

A checkpoint that the TA contains is put in its place, and all that is new writes nothing: the TA computes the
checkpoint's function (Chen et al. 2016, Net2Net, for the idea; zeros as in LLaMA Pro, Wu et al. 2024). A larger one is
sorted by importance and cut down (Muralidharan et al. 2024, Minitron).
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from matta_core import distributed
from matta_core.beginning.importance import layer_order, measure, sort_by
from matta_core.checkpoints import build_model, check_finite, check_plain_head
from matta_core.errors import UserError
from matta_core.families import family_of
from matta_core.nesting.size import Granularity, head_size, resolve, spread_out, whole
from matta_core.nesting.slices import region, student_config, student_parameters, take
from matta_core.pretrained import load_model, load_tokenizer
from matta_core.recipe import TrainConfig
from matta_core.students.extract import extract_student
from matta_core.training.data import Sequences, rows_of_step

# Two models whose tensors have the same shapes still differ where one of these does.
_FUNCTION = (
    "hidden_size",
    "vocab_size",
    "activation_function",
    "hidden_act",
    "hidden_activation",
    "layer_norm_epsilon",
    "rms_norm_eps",
    "rope_parameters",
    "query_pre_attn_scalar",
    "sliding_window",
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "use_bidirectional_attention",
    "scale_attn_weights",
    "scale_attn_by_inverse_layer_idx",
    "tie_word_embeddings",
)

NESTING = "nesting.json"  # train writes it beside ta/
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")


def initialize(
    config: TrainConfig,
    ta_config: PreTrainedConfig,
    tokenizer: PreTrainedTokenizerBase,
    data: Sequences,
    device: torch.device,
) -> tuple[PreTrainedModel, dict[str, Granularity]]:
    """The TA as step 0 finds it, float32 on the CPU, and its sizes: which layers they keep may follow from importance.

    A function of settings, checkpoint and `data`, the train split, up to the last bits of sums, by which other
    processors may break a near tie otherwise: see `agreed_over_ranks`; a run that is resumed has its sizes saved.

    Raises: UserError that names what does not fit, and what to set.
    """
    granularities = resolve(ta_config, config.sizes)
    ta = build_model(ta_config, config.seed)
    if config.start_from is None:
        return ta, granularities
    start = load_model(config.start_from, torch.float32)
    check_finite(start, f"train.start_from = {config.start_from!r}")
    _check(start, ta, config.start_from, tokenizer)
    # The base Student first: where two sizes have one shape, it is the one that is served.
    inside = [granularities[config.student], *granularities.values()]
    place = _place(config, whole(start.config, "start_from"), granularities[config.ta], inside)
    if config.start_order == "importance":
        batches = list(calibration(config, data, device))
        sort_by(start, measure(start.to(device), batches))
        if start.config.num_hidden_layers >= ta_config.num_hidden_layers:
            order = layer_order(start, batches, _fewest_layers(config, ta_config), config.head_chunk_tokens)[
                : ta_config.num_hidden_layers
            ]
            kept = sorted(order)
            granularities = resolve(ta_config, config.sizes, [kept.index(layer) for layer in order])
            is_cut_down = place.name == config.ta  # else it grows, and has all the layers already
            place = granularities[place.name]
            if is_cut_down:
                start = extract_student(start.cpu(), dataclasses.replace(place, layers=tuple(kept)))
    elif place == granularities[config.ta] and (order := _order_within(Path(config.start_from))):
        granularities = resolve(ta_config, config.sizes, order)
    _check_layers(config.start_from, start.config, student_config(ta_config, place))
    grow(ta, start.cpu(), place)
    check_plain_head(ta, f"train.start_from = {config.start_from!r}")
    return ta, granularities


@torch.no_grad()
def agreed_over_ranks(ta: PreTrainedModel, granularities: Mapping[str, Granularity]) -> dict[str, Granularity]:
    """Rank 0's TA, in place, and its sizes. The TA is on the rank's device."""
    device = next(ta.parameters()).device
    numbers = range(ta.config.num_hidden_layers)
    kept = torch.tensor([[layer in size.layers for layer in numbers] for size in granularities.values()], device=device)
    kept = kept.to(torch.uint8)
    distributed.copy_from_leader([kept, *(parameter.data for parameter in ta.parameters())])
    return {
        name: dataclasses.replace(size, layers=tuple(row.nonzero().flatten().tolist()))
        for (name, size), row in zip(granularities.items(), kept, strict=True)
    }


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


def calibration(config: TrainConfig, data: Sequences, device: torch.device) -> Iterator[Tensor]:
    """input_ids (1, length) of `calibration_sequences` different training sequences, drawn by the seed."""
    number = min(config.calibration_sequences, len(data))
    for row in rows_of_step(len(data), number, 0, config.seed):
        yield data.batch(row[None], device).input_ids


def _order_within(ta: Path) -> list[int] | None:
    """All layers of a TA that was trained here, in the order in which its sizes kept them: its students lie there.

    None where there is no nesting.json beside it.
    """
    nesting = ta.parent / NESTING
    if not nesting.is_file():
        return None
    kept = [size["layers"] for size in json.loads(nesting.read_text())["sizes"].values()]
    return sorted(spread_out(len(kept[-1])), key=lambda layer: -sum(layer in layers for layers in kept))


def _fewest_layers(config: TrainConfig, ta_config: PreTrainedConfig) -> int:
    """That any size keeps by number; which layers, it leaves to their importance."""
    numbers = [size.num_hidden_layers for size in config.sizes.values() if size.num_hidden_layers is not None]
    return min([ta_config.num_hidden_layers, *numbers])


def _axes(size: Granularity) -> dict[str, int]:
    return {
        "intermediate_size": max(size.intermediate_sizes),
        "num_attention_heads": size.num_attention_heads,
        "num_key_value_heads": size.num_key_value_heads,
        "query heads per key/value head": size.queries_per_group,
        "num_hidden_layers": len(size.layers),
    }


def _place(config: TrainConfig, start: Granularity, ta: Granularity, inside: Sequence[Granularity]) -> Granularity:
    """Where in the TA the checkpoint goes: as the whole, also after it is cut down to that, or as one of the sizes."""
    theirs, ours = _axes(start), _axes(ta)
    larger = [f"{axis} ({theirs[axis]}, not {ours[axis]})" for axis in ours if theirs[axis] > ours[axis]]
    smaller = [f"{axis} ({theirs[axis]}, not {ours[axis]})" for axis in ours if theirs[axis] < ours[axis]]
    if larger and smaller:
        raise _misfit(
            config.start_from,
            f"it is larger in {', '.join(larger)} and smaller in {', '.join(smaller)}",
            "A checkpoint is cut down to the TA, or grown into it, not both: change train.model and train.sizes",
        )
    if larger:
        if config.start_order != "importance":
            raise _misfit(
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
    raise _misfit(
        config.start_from,
        f"it is smaller in {', '.join(smaller)}, and none of the sizes has its shape",
        f"To grow it into the TA, make it one of train.sizes: {{{shape}}}",
    )


def _check(start: PreTrainedModel, ta: PreTrainedModel, name_or_path: str, tokenizer: PreTrainedTokenizerBase) -> None:
    """All but the axes that nest: what the checkpoint computes of its weights, and what it means by a token's id."""
    theirs, ours = start.config, ta.config
    if getattr(start, "is_quantized", False):
        raise _misfit(name_or_path, "it is quantized", "Give the checkpoint that it was made of, in bf16 or fp32")
    if theirs.model_type != ours.model_type:
        raise _misfit(name_or_path, f"model_type is {theirs.model_type!r}, not {ours.model_type!r}", _SAME_MODEL)
    family = family_of(ours.model_type)
    keys = (*_FUNCTION, "num_attention_heads") if family.no_heads else _FUNCTION
    problems = _differing(theirs, ours, keys)
    if head_size(theirs) != head_size(ours) and not family.no_heads:
        problems.append(f"head_dim is {head_size(theirs)}, not {head_size(ours)}")
    if getattr(ours, "scale_attn_by_inverse_layer_idx", False) and theirs.num_hidden_layers != ours.num_hidden_layers:
        problems.append("scale_attn_by_inverse_layer_idx is set, by which a layer that moves computes something else")
    if not problems:
        problems += _differing_parameters(start, ta, family.layers)
    folder = Path(name_or_path)
    weights_alone = folder.is_dir() and not any((folder / name).is_file() for name in _TOKENIZER_FILES)
    if not weights_alone and load_tokenizer(name_or_path).get_vocab() != tokenizer.get_vocab():
        problems.append("its tokenizer is not the dataset's (set prepare_data.tokenizer to the checkpoint's)")
    if problems:
        raise _misfit(name_or_path, "; ".join(problems), _SAME_MODEL)


_SAME_MODEL = "Set train.model's settings to the checkpoint's, or train.start_from to another one or to null"


def _differing(theirs: PreTrainedConfig, ours: PreTrainedConfig, keys: Sequence[str]) -> list[str]:
    pairs = {key: (getattr(theirs, key, None), getattr(ours, key, None)) for key in keys}
    return [f"{key} is {there!r}, not {here!r}" for key, (there, here) in pairs.items() if there != here]


def _differing_parameters(start: PreTrainedModel, ta: PreTrainedModel, layers: str) -> list[str]:
    """Outside of the layers, by shape (learned positions); in the first layer, by name (biases)."""

    def outline(model: PreTrainedModel) -> dict[str, tuple[int, ...] | None]:
        named = [(name, tuple(parameter.shape)) for name, parameter in model.named_parameters()]
        outside = {name: shape for name, shape in named if not name.startswith(f"{layers}.")}
        return outside | {name: None for name, _ in named if name.startswith(f"{layers}.0.")}

    theirs, ours = outline(start), outline(ta)
    problems = [
        f"{name} is {theirs[name]}, not {shape}"
        for name, shape in ours.items()
        if name in theirs and theirs[name] != shape
    ]
    if problems:
        problems += _differing(start.config, ta.config, ["max_position_embeddings"])
    problems += [f"{name} is missing" for name in ours if name not in theirs]
    return problems + [f"{name} has no place" for name in theirs if name not in ours]


def _check_layers(name_or_path: str, theirs: PreTrainedConfig, ours: PreTrainedConfig) -> None:
    """Layers with a sliding window and without must lie where the TA has such ones."""
    if problems := _differing(theirs, ours, ["layer_types"]):
        raise _misfit(
            name_or_path, problems[0], "Set train.model.layer_types, or the layers of train.sizes, so that they do"
        )


def _misfit(name_or_path: str, why: str, remedy: str) -> UserError:
    return UserError(f"train.start_from = {name_or_path!r} does not fit the TA: {why}. {remedy}")
