"""The ranks of torchrun: rank, world size, and sums over all ranks. Without torchrun there is one rank."""

import os
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor


def rank() -> int:
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def start(device: torch.device) -> None:
    """Join the other ranks, if there are any. CPUs are connected, too, for `any_rank`."""
    if world_size() > 1 and not dist.is_initialized():
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")


def stop() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def wait_for_all() -> None:
    if dist.is_initialized():
        dist.barrier()


def sum_over_ranks(tensors: Iterable[Tensor]) -> None:
    """Replace each tensor by its sum over the ranks, in one message. With a single rank, not one bit changes."""
    if not dist.is_initialized():
        return
    tensors = list(tensors)
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    dist.all_reduce(flat)
    for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))


def any_rank(flag: bool) -> bool:
    """Whether any rank's flag is set. The CPUs ask one another, so that none waits for its GPU."""
    if not dist.is_initialized():
        return flag
    found = torch.tensor(flag, dtype=torch.uint8)
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return bool(found.item())


def copy_from_leader(tensors: Iterable[Tensor]) -> None:
    """Replace each tensor by rank 0's."""
    if dist.is_initialized():
        for tensor in tensors:
            dist.broadcast(tensor, src=0)


def pick_device() -> torch.device:
    """This rank's GPU, or the CPU."""
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
        return device
    return torch.device("cpu")
