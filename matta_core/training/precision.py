"""Decides where bf16 pays."""

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

# On a CPU, bf16 products are worth the casts around them from about this FFN width: on two cores with AVX-512 BF16, a
# step of the demo's Teacher and of its TA (both 768 wide) takes 1.4 times as long in fp32.
_BF16_PAYS_FROM_WIDTH = 512


def autocast_dtype(precision: str, model: PreTrainedModel, device: torch.device) -> torch.dtype | None:
    """None for fp32, else bfloat16. "auto" takes bf16 on GPUs that have it, and on CPUs for wide models."""
    if precision != "auto":
        return torch.bfloat16 if precision == "bf16" else None
    pays = device.type == "cuda" or _widest_product(model) >= _BF16_PAYS_FROM_WIDTH
    return torch.bfloat16 if pays and has_bf16(device) else None


def has_bf16(device: torch.device) -> bool:
    """Whether the device multiplies in bf16, without emulation."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    cpu = torch.cpu.get_capabilities()
    return bool(cpu.get("avx512_bf16") or cpu.get("amx_bf16"))


def _widest_product(model: PreTrainedModel) -> int:
    """The most features that one product sums over: the FFN's width, where there is one.

    Outputs do not count: some classes lay several projections into one matrix, and the head has the vocabulary's.
    """
    widths = [module.in_features for module in model.modules() if isinstance(module, nn.Linear)]
    return max(widths + [module.nx for module in model.modules() if isinstance(module, Conv1D)])
