"""Checks whether a TA can begin with a checkpoint, and says why not."""

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from matta_core.errors import UserError
from matta_core.families import family_of
from matta_core.families.table import TANH_GELUS
from matta_core.pretrained import load_tokenizer

logger = logging.getLogger(__name__)

_ROUNDING = 1e-5  # of the largest logit

# Two models can have tensors of the same shapes and still compute otherwise, if one of these settings differs.
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


_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")


def check_function(
    start: PreTrainedModel, ta: PreTrainedModel, name_or_path: str, tokenizer: PreTrainedTokenizerBase | None
) -> None:
    """Check all but the nested axes: what the checkpoint computes with its weights, and what its token ids mean, unless
    the dataset's tokenizer is not known yet."""
    theirs, ours = start.config, ta.config
    if getattr(start, "is_quantized", False):
        raise misfit(name_or_path, "it is quantized", "Give the checkpoint that it was made of, in bf16 or fp32")
    check_family(name_or_path, theirs, ours)
    family = family_of(ours.model_type)
    problems = _differing(theirs, ours, _FUNCTION)
    fixed = [key for axis in family.axes if axis.fixed for key in axis.keys if hasattr(ours, family.word(key))]
    for key in (*fixed, *sorted(family.features)):
        there, here = family.count(theirs, key), family.count(ours, key)
        if there != here:
            problems.append(f"{key} is {there}, not {here}")
    if getattr(ours, "scale_attn_by_inverse_layer_idx", False) and theirs.num_hidden_layers != ours.num_hidden_layers:
        problems.append("scale_attn_by_inverse_layer_idx is set, by which a layer that moves computes something else")
    if not problems:
        problems += _differing_parameters(start, ta, family.layers)
    folder = Path(name_or_path)
    weights_alone = folder.is_dir() and not any((folder / name).is_file() for name in _TOKENIZER_FILES)
    if (
        tokenizer is not None
        and not weights_alone
        and load_tokenizer(name_or_path).get_vocab() != tokenizer.get_vocab()
    ):
        problems.append("its tokenizer is not the dataset's (set prepare_data.tokenizer to the checkpoint's)")
    if problems:
        raise misfit(name_or_path, "; ".join(problems), _SAME_MODEL)


def check_family(name_or_path: str, theirs: PreTrainedConfig, ours: PreTrainedConfig) -> None:
    if theirs.model_type != ours.model_type:
        raise misfit(name_or_path, f"model_type is {theirs.model_type!r}, not {ours.model_type!r}", _SAME_MODEL)


_SAME_MODEL = "Set train.model's settings to the checkpoint's, or train.start_from to another one or to null"


def _differing(theirs: PreTrainedConfig, ours: PreTrainedConfig, keys: Sequence[str]) -> list[str]:
    pairs = {key: (getattr(theirs, key, None), getattr(ours, key, None)) for key in keys}
    return [
        f"{key} is {there!r}, not {here!r}"
        for key, (there, here) in pairs.items()
        if there != here and not {str(there), str(here)} <= {*TANH_GELUS}
    ]


def _differing_parameters(start: PreTrainedModel, ta: PreTrainedModel, layers: str) -> list[str]:
    """Parameters that differ: outside of the layers in shape (learned positions), in the first layer in name
    (biases)."""

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


@torch.no_grad()
def check_answers(start: PreTrainedModel, ta: PreTrainedModel, name_or_path: str) -> None:
    """Check that a TA that was grown, and has another name for its activation function, still answers as the checkpoint
    does, and tell it."""
    key = family_of(ta.config.model_type).activation
    there, here = getattr(start.config, key), getattr(ta.config, key)
    if there == here:
        return
    input_ids = (torch.arange(8) % ta.config.vocab_size)[None]
    theirs, ours = (model(input_ids=input_ids).logits for model in (start, ta))
    difference = ((theirs - ours).abs().max() / theirs.abs().max()).item()
    if not difference <= _ROUNDING:
        raise misfit(
            name_or_path,
            f"with {key} {here!r} in place of {there!r} its answers differ by {difference:.1e}",
            _SAME_MODEL,
        )
    logger.info("train.start_from has %s %r, trained as %r: answers differ by %.0e", key, there, here, difference)


def check_layers(name_or_path: str, theirs: PreTrainedConfig, ours: PreTrainedConfig) -> None:
    """Check that layers with a sliding window, and those without, lie where the TA has them."""
    if problems := _differing(theirs, ours, ["layer_types"]):
        raise misfit(
            name_or_path, problems[0], "Set train.model.layer_types, or the layers of train.sizes, so that they do"
        )


def misfit(name_or_path: str, why: str, remedy: str) -> UserError:
    return UserError(f"train.start_from = {name_or_path!r} does not fit the TA: {why}. {remedy}")
