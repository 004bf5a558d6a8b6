"""What GPUs can do at most, by their vendor's data sheets."""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Machine:
    """One GPU, or one machine without. `peak_flops`: FLOP/s of products in bf16, dense. `memory_bytes`: its own."""

    name: str
    peak_flops: float
    memory_bytes: float


# NVIDIA's data sheets of these products: "BFLOAT16 Tensor Core", halved where they state it with sparsity, and "GPU
# Memory", in GB of 10^9 bytes. Of a100, h100 and b200 the SXM versions. The pattern is found in torch's name of it.
_GPUS = {
    "a100-40": (r"A100.*40GB", 312e12, 40e9),
    "a100-80": (r"A100.*80GB", 312e12, 80e9),
    "h100-pcie": (r"H100.*PCIe", 756e12, 80e9),
    "h100": (r"H100 80GB HBM3", 989e12, 80e9),
    "h200": (r"H200", 989e12, 141e9),
    "b200": (r"\bB200", 2250e12, 180e9),
    "l4": (r"\bL4$", 121e12, 24e9),
    "l40s": (r"L40S", 362e12, 48e9),
}
GPUS = {name: Machine(name, peak, memory) for name, (_, peak, memory) in _GPUS.items()}


def gpu_called(name: str) -> Machine | None:
    """The GPU that torch calls so; None for one that the table does not have."""
    return next((GPUS[known] for known, (pattern, *_) in _GPUS.items() if re.search(pattern, name)), None)
