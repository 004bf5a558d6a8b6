"""Building, loading and saving stock transformers models. safetensors only; no code from checkpoints."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.activations import ACT2FN
from transformers.utils.logging import disable_progress_bar

from matta_core.errors import UserError
from matta_core.families import Family, family_of
from matta_core.granularity import whole
from matta_core.tokens import num_token_ids


def build_config(
    model: Mapping[str, Any], intermediate_size: int, tokenizer: PreTrainedTokenizerBase | None, sequence_length: int
) -> PreTrainedConfig:
    """A stock config from the recipe's `train.model`, for this tokenizer and sequence length.

    Without a tokenizer `vocab_size` is that of `train.model`, or 1: for looking at the shape before there is one.
    Without dropout (our choice): the Teacher's distribution regularises, and students see the TA's exact features.
    `vocab_size` may be given where it is padded beyond the tokenizer's.

    Raises: UserError on a key that the architecture does not know, or a shape that its class refuses.
    """
    if "model_type" not in model:
        raise UserError(f"train.model.model_type is required, for instance gpt2; got {dict(model)}")
    family = family_of(model["model_type"])
    wanted = _checked(model, family)
    values = dict.fromkeys(family.dropouts, 0.0) | {
        "max_position_embeddings": sequence_length,
        "vocab_size": num_token_ids(tokenizer) if tokenizer else 1,
        **{key: getattr(tokenizer, key, None) for key in ("bos_token_id", "eos_token_id", "pad_token_id")},
        family.width_key: intermediate_size,
    }
    try:
        config = AutoConfig.for_model(**(values | wanted))
    except (StrictDataclassError, ValueError, TypeError) as error:
        raise UserError(f"train.model: {family.model_type} refuses these settings: {_one_line(error)}") from None
    if "head_dim" not in wanted and config.hidden_size % config.num_attention_heads:
        raise UserError(
            f"train.model.hidden_size must be divisible by num_attention_heads = {config.num_attention_heads}, "
            f"got {config.hidden_size}"
        )
    groups = whole(config, "").num_key_value_heads
    if config.num_attention_heads % groups:
        raise UserError(
            f"train.model.num_attention_heads must be a multiple of num_key_value_heads = {groups}, got "
            f"{config.num_attention_heads}"
        )
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


def _checked(model: Mapping[str, Any], family: Family) -> dict[str, Any]:
    """The recipe's settings, each of the type that the architecture's default has, and counts above zero."""
    default = AutoConfig.for_model(family.model_type)
    # In the common words only (hidden_size, not n_embd): of two words for one thing, one would be ignored.
    known = (default.to_dict().keys() - set(default.attribute_map.values())) | default.attribute_map.keys()
    ours = {family.width_key, "intermediate_size", *family.dropouts}
    checked = {}
    for key, value in model.items():
        where = f"train.model.{key}"
        if key in ours:
            raise UserError(f"{where} is not set there: widths are sizes, and there is no dropout")
        if key in family.unsupported and value != getattr(default, key):
            raise UserError(f"{where} must be {getattr(default, key)}, got {value!r}: {family.unsupported[key]}")
        if key not in known:
            raise UserError(f"unknown setting {where}: {family.model_type} has no such field")
        usual = getattr(default, key)
        if isinstance(usual, int) and not isinstance(usual, bool) and not key.endswith("_token_id"):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise UserError(f"{where} must be a whole number >= 1, got {value!r}")
        elif isinstance(usual, float):
            try:
                value = float(value)  # YAML reads 2e-2, without a dot, as a string
            except (TypeError, ValueError):
                raise UserError(f"{where} must be a number, got {value!r}") from None
        checked[key] = value
    activation = checked.get(family.activation, getattr(default, family.activation))
    if activation not in ACT2FN:
        raise UserError(
            f"train.model.{family.activation} must be one of {', '.join(sorted(ACT2FN))}, got {activation!r}"
        )
    return checked


def build_model(config: PreTrainedConfig, seed: int) -> PreTrainedModel:
    """A model with the architecture's own random initialisation, a function of the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def load_model(name_or_path: str | Path, dtype: torch.dtype | None = None) -> PreTrainedModel:
    """A checkpoint from a folder or the Hugging Face hub, in `dtype` or as it was saved.

    Raises: UserError where it cannot be loaded, or has no safetensors.
    """
    disable_progress_bar()  # a step's own bar counts models
    try:
        return AutoModelForCausalLM.from_pretrained(
            str(name_or_path), use_safetensors=True, trust_remote_code=False, dtype=dtype or "auto"
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(
            f"cannot load a model from {name_or_path}: {_one_line(error)}. Give a folder with config.json and "
            f"model.safetensors, or the name of a checkpoint on the hub (safetensors only)"
        ) from None


@torch.no_grad()
def check_plain_head(model: PreTrainedModel, name_or_path: str | Path) -> None:
    """That logits are the output head applied to the final hidden states, from which they are rebuilt here.

    Raises: UserError where they are capped, scaled or otherwise changed (Gemma 2, Granite, Cohere).
    """
    was_training = model.training
    model.eval()
    input_ids = (torch.arange(4, device=model.device) % model.config.get_text_config().vocab_size)[None]
    theirs = model(input_ids=input_ids, use_cache=False).logits.float()
    states = model.base_model(input_ids=input_ids, use_cache=False).last_hidden_state
    ours = model.get_output_embeddings()(states).float()
    model.train(was_training)
    # The same operations on the same numbers: a few last bits at most.
    allowed = 4 * torch.finfo(states.dtype).eps * ours.abs().max()
    if (difference := (theirs - ours).abs().max()) > allowed:
        raise UserError(
            f"{name_or_path} ({model.config.model_type}) changes its logits after the output head, by up to "
            f"{difference:.3g} on four tokens: MatTA rebuilds them by the head alone, so that its losses would be "
            f"wrong. Take a model without logit capping or scaling"
        )


def load_tokenizer(name_or_path: str | Path) -> PreTrainedTokenizerBase:
    """A tokenizer from a folder or the hub. Raises: UserError where there is none."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(name_or_path), trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise UserError(
            f"cannot load a tokenizer from {name_or_path}: {_one_line(error)}. Give a folder with tokenizer.json, or "
            f"the name of a checkpoint on the hub"
        ) from None
    # How it was loaded would be saved with it, so that HF_HUB_OFFLINE changed a model's digest.
    for name in ("is_local", "local_files_only"):
        tokenizer.init_kwargs.pop(name, None)
    return tokenizer


def save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """A plain Hugging Face checkpoint with its tokenizer."""
    disable_progress_bar()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
