"""Making, loading and saving stock transformers models. safetensors only; no code from checkpoints."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils.logging import disable_progress_bar

from matta_core.errors import UserError


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
