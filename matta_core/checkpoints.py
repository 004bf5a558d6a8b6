"""Building, checking and saving stock transformers models."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

from matta_core.compatibility import write_older_spellings
from matta_core.errors import UserError, some_of
from matta_core.pretrained import load_config, load_generation_config


def build_model(config: PreTrainedConfig, seed: int, model_class: str) -> PreTrainedModel:
    """A model with the architecture's own random initialisation, a function of the seed. `model_class`: see
    `Objective`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return getattr(transformers, model_class).from_config(config, dtype=torch.float32, trust_remote_code=False)


@torch.no_grad()
def non_finite(tensors: Iterable[tuple[str, Tensor]]) -> list[str]:
    """The names of the tensors that hold NaN or infinity. The device is waited for once."""
    floating = [(name, tensor) for name, tensor in tensors if tensor.is_floating_point()]
    if not floating:
        return []
    finite = torch.stack([tensor.isfinite().all() for _, tensor in floating]).tolist()
    return [name for (name, _), whole in zip(floating, finite, strict=True) if not whole]


def check_finite(model: PreTrainedModel, what: str) -> None:
    """Check all weights. Raises: UserError that names `what` and the weights that hold NaN or infinity."""
    if names := non_finite(model.named_parameters()):
        raise UserError(
            f"{what} holds NaN or infinity in {some_of(names)}: it was damaged, or diverged when it was trained. Take "
            f"another checkpoint"
        )


def carry_generation(model: PreTrainedModel, start_from: str, chosen: Mapping[str, Any]) -> None:
    """Copy generation settings and special token ids from the checkpoint that training starts from. Ids that `chosen`,
    the recipe's train.model, sets stay. Students inherit both."""
    theirs, generation = load_config(start_from), load_generation_config(start_from)
    for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
        if key not in chosen and getattr(theirs, key, None) is not None:
            setattr(model.config, key, getattr(theirs, key))
        if key in chosen or getattr(generation, key) is None:
            setattr(generation, key, getattr(model.config, key))
    model.generation_config = generation


def save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Save a plain Hugging Face checkpoint with its tokenizer. Older releases of transformers can read it, too."""
    disable_progress_bar()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_older_spellings(model.config, tokenizer, folder)
