"""The stock config of a recipe's `train.model`. It needs transformers' config classes, and torch for activations
only."""

import contextlib
import difflib
import logging
from collections.abc import Collection, Iterator, Mapping
from itertools import pairwise
from typing import Any

from transformers import AutoConfig, PreTrainedConfig, PreTrainedTokenizerBase
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from matta_core.errors import UserError, one_line
from matta_core.families import Family, family_of
from matta_core.families.table import TANH_GELUS
from matta_core.recipe.settings import shown
from matta_core.tokens import num_token_ids

_MAX_COUNT = 2**31 - 1  # of features, heads, tokens; a larger number is a typing mistake


_MAX_LAYERS = 1024


# Settings of every config that are no shape: what it answers with, what saved it, which other model it may be.
_NO_SHAPE = PreTrainedConfig().to_dict().keys() - {"model_type"} | {"add_cross_attention"}


def build_config(
    model: Mapping[str, Any],
    ta_size: Mapping[str, int],
    tokenizer: PreTrainedTokenizerBase | None,
    sequence_length: int,
) -> PreTrainedConfig:
    """A stock config from the recipe's `train.model`, for this tokenizer and sequence length.

    `ta_size`: the TA's counts that `train.sizes` sets, by the axes' keys; none where `train.model` has the whole shape.
    Without a tokenizer, `vocab_size` is that of `train.model`, or 1: then only the shape is checked. Dropout is off
    (our choice): the Teacher's distribution regularises, and students see the TA's exact features. `train.model` may
    set a `vocab_size` that is padded beyond the tokenizer's.

    Raises: UserError on a key that the architecture does not know, or a shape that its class refuses.
    """
    if not isinstance(model.get("model_type"), str):
        raise UserError(f"train.model.model_type is required, for instance gpt2; got {shown(dict(model))}")
    family = family_of(model["model_type"])
    counts = {family.word(key): count for key, count in ta_size.items()}
    wanted = _checked(model, family, {*family.dropouts, *counts, *ta_size})
    values: dict[str, Any] = {
        **dict.fromkeys(family.dropouts, 0.0),
        "max_position_embeddings": sequence_length,
        "vocab_size": num_token_ids(tokenizer) if tokenizer else 1,
        **{key: getattr(tokenizer, key, None) for key in ("bos_token_id", "eos_token_id", "pad_token_id")},
        **counts,
    }
    try:
        with _rotary_warnings_raised():
            config = AutoConfig.for_model(**(values | wanted))
    except Exception as error:  # the classes check some settings, and compute with any value of the others
        raise UserError(f"train.model: {family.model_type} refuses these settings: {one_line(error)}") from None
    if "head_dim" not in wanted and config.hidden_size % config.num_attention_heads:
        raise UserError(
            f"train.model.hidden_size must be divisible by num_attention_heads = {config.num_attention_heads}, "
            f"got {config.hidden_size}"
        )
    for axis in family.axes:
        for outer, inner in pairwise(axis.keys):
            outers, inners = family.count(config, outer), family.count(config, inner)
            if inners % outers:
                raise UserError(f"train.model.{inner} must be a multiple of {outer} = {outers}, got {inners}")
    if tokenizer and config.vocab_size < num_token_ids(tokenizer):
        raise UserError(
            f"train.model.vocab_size must be at least the tokenizer's {num_token_ids(tokenizer)}, its largest token id "
            f"plus one, got {config.vocab_size}"
        )
    if config.max_position_embeddings < sequence_length:
        raise UserError(
            f"train.model.max_position_embeddings must be at least the dataset's sequence_length = "
            f"{sequence_length}, got {config.max_position_embeddings}"
        )
    return config


@contextlib.contextmanager
def _rotary_warnings_raised() -> Iterator[None]:
    """Turn transformers' warnings of rotary settings into errors. It only warns of a misspelt or impossible setting,
    and computes with another one, or fails later.

    Raises: ValueError with the first warning.
    """
    told: list[str] = []
    logger = logging.getLogger("transformers.modeling_rope_utils")
    level = logger.level

    def note(record: logging.LogRecord) -> bool:
        told.append(record.getMessage())
        return False

    logger.addFilter(note)
    logger.setLevel(logging.WARNING)  # whatever verbosity transformers is set to
    try:
        yield
    finally:
        logger.removeFilter(note)
        logger.setLevel(level)
    if told:
        raise ValueError(told[0])


def _check_rotary(parameters: Any, where: str) -> None:
    """Check that type and base of rotary positions are possible, in each group of layers. transformers checks more."""
    if not isinstance(parameters, Mapping):
        return
    for key, value in parameters.items():
        _check_rotary(value, f"{where}.{key}")
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if key == "rope_theta" and not (is_number and value > 0):
            raise UserError(f"{where}.{key} must be a number > 0, got {shown(value)}")
        if key == "rope_type" and value not in (types := ("default", *ROPE_INIT_FUNCTIONS)):
            raise UserError(f"{where}.{key} must be one of {', '.join(types)}, got {shown(value)}")


def _checked(model: Mapping[str, Any], family: Family, ours: Collection[str]) -> dict[str, Any]:
    """The recipe's settings, checked: each has the type of the architecture's default, and counts are above zero."""
    default = AutoConfig.for_model(family.model_type)
    # Only the common words are known (hidden_size, not n_embd): of two words for one thing, one would be ignored.
    known = (default.to_dict().keys() - set(default.attribute_map.values())) | default.attribute_map.keys()
    known -= _NO_SHAPE
    counts = {family.word(key) for key in (*family.keys, *family.features)}
    checked = {}
    for key, value in model.items():
        where = f"train.model.{key}"
        if key in _NO_SHAPE:
            raise UserError(f"{where} is not set there: it is no part of a shape, and what runs needs its default")
        if key in ours:
            raise UserError(f"{where} is not set there: train.sizes sets the TA's, and there is no dropout")
        if key in family.unsupported and value != getattr(default, key):
            raise UserError(f"{where} must be {getattr(default, key)}, got {shown(value)}: {family.unsupported[key]}")
        if key not in known:
            raise UserError(f"unknown setting {where}: {family.model_type} has no such field{_instead(key, known)}")
        usual = getattr(default, key)
        is_count = isinstance(usual, int) and not isinstance(usual, bool) and not key.endswith("_token_id")
        if is_count or (key in counts and value is not None):
            high = _MAX_LAYERS if key == "num_hidden_layers" else _MAX_COUNT
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= high:
                raise UserError(f"{where} must be a whole number >= 1 and <= {high}, got {shown(value)}")
        elif isinstance(usual, float):
            if not isinstance(value, int | float) or isinstance(value, bool) or value <= 0:
                raise UserError(f"{where} must be a number > 0, got {shown(value)}")
            value = float(value)
        elif key == "rope_parameters":
            _check_rotary(value, where)
        checked[key] = value
    if checked.get(family.activation) not in (None, getattr(default, family.activation), TANH_GELUS[0]):
        from transformers.activations import ACT2FN  # needs torch

        activation = checked[family.activation]
        if not isinstance(activation, str) or activation not in ACT2FN:
            raise UserError(
                f"train.model.{family.activation} must be one of {', '.join(sorted(ACT2FN))}, got {shown(activation)}"
            )
    return checked


def _instead(key: str, known: Collection[str]) -> str:
    """A hint at what was meant by a setting that does not exist."""
    if key.startswith("rope_") and "rope_parameters" in known:
        example = "{rope_type: default, rope_theta: 1000000.0}"
        return f"; rotary positions are set by train.model.rope_parameters, for instance {example}"
    near = difflib.get_close_matches(key, known, n=1)
    return f"; did you mean {near[0]}?" if near else ""
