"""Decides where bf16 pays."""

import torch
from transformers import PreTrainedModel

from matta_core.families import family_of

# On a CPU, bf16 products are worth the casts around them from about this FFN width: on two cores with AVX-512 BF16, a
# step of the demo's Teacher and of its TA (both 768 wide) takes 1.4 times as long in fp32.
_BF16_PAYS_FROM_WIDTH = 512


def autocast_dtype(precision: str, model: PreTrainedModel, device: torch.device) -> torch.dtype | None:
    """None for fp32, else bfloat16. "auto" takes bf16 on GPUs that have it, and on CPUs for wide models."""
    if precision != "auto":
        return torch.bfloat16 if precision == "bf16" else None
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else None
    cpu = torch.cpu.get_capabilities()
    has_bf16 = cpu.get("avx512_bf16") or cpu.get("amx_bf16")
    family = family_of(model.config.model_type)
    widest = max(family.count(model.config, key) for key in family.keys)  # the FFN's neurons, where there is one
    return torch.bfloat16 if has_bf16 and widest >= _BF16_PAYS_FROM_WIDTH else None
