"""The machine that a plan is for."""

import os
import time

import torch

from matta_core.errors import UserError
from matta_core.machines import GPUS, Machine

CPU = "cpu"
_TRIAL_WIDTH = 1024
_TRIAL_SECONDS = 0.5


def machine_named(name: str, peak_flops: float | None, memory_bytes: float | None) -> Machine:
    """A GPU of the table, this machine's CPU, or any other by its figures. Given figures take the table's place.

    Raises: UserError where the name is unknown and a figure is missing.
    """
    known = _this_cpu(peak_flops) if name == CPU else GPUS.get(name)
    if known is None and (peak_flops is None or memory_bytes is None):
        raise UserError(
            f"--gpu must be one of {', '.join([*GPUS, CPU])}, got {name!r}: for another give --peak-flops (in bf16, "
            f"dense, of its data sheet) and --memory-bytes"
        )
    if known is None:
        assert peak_flops is not None
        assert memory_bytes is not None
        return Machine(name, peak_flops, memory_bytes)
    return Machine(name, peak_flops or known.peak_flops, memory_bytes or known.memory_bytes)


def _this_cpu(peak_flops: float | None) -> Machine:
    """This machine, with its memory, and the FLOP/s of products in fp32 that a short trial reaches."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Machine(CPU, peak_flops or _measured(), memory)


def _measured() -> float:
    matrix = torch.ones(_TRIAL_WIDTH, _TRIAL_WIDTH)
    torch.mm(matrix, matrix)
    best, begin = float("inf"), time.perf_counter()
    while time.perf_counter() - begin < _TRIAL_SECONDS:
        started = time.perf_counter()
        torch.mm(matrix, matrix)
        best = min(best, time.perf_counter() - started)
    return 2 * _TRIAL_WIDTH**3 / best
