"""Checks that a model's logits are its output head applied to its final hidden states."""

from pathlib import Path

import torch
from transformers import PreTrainedModel

from matta_core.errors import UserError


@torch.no_grad()
def check_plain_head(model: PreTrainedModel, name_or_path: str | Path) -> None:
    """Check that logits are the output head applied to the final hidden states: that is how they are rebuilt here.

    Raises: UserError where they are capped, scaled or otherwise changed (Gemma 2, Granite, Cohere).
    """
    was_training = model.training
    model.eval()
    input_ids = (torch.arange(4, device=model.device) % model.config.get_text_config().vocab_size)[None]
    theirs = model(input_ids=input_ids, use_cache=False).logits.float()
    states = model.base_model(input_ids=input_ids, use_cache=False).last_hidden_state
    ours = model.get_output_embeddings()(states).float()
    model.train(was_training)
    # These are the same operations on the same numbers: they differ in a few last bits at most.
    allowed = 4 * torch.finfo(states.dtype).eps * ours.abs().max()
    if (difference := (theirs - ours).abs().max()) > allowed:
        raise UserError(
            f"{name_or_path} ({model.config.model_type}) changes its logits after the output head, by up to "
            f"{difference:.3g} on four tokens: MatTA rebuilds them by the head alone, so that its losses would be "
            f"wrong. Take a model without logit capping or scaling"
        )
