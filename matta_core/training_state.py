"""Checkpoints to resume from: whole or absent, safetensors and JSON only.

step-00000100/  model.safetensors  optimizer.safetensors  state.json
"""

import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from matta_core.artifacts import flush_to_disk, write_json_atomically
from matta_core.errors import UserError
from matta_core.granularity import Granularity
from matta_core.optimizers import ModelOptimizer

logger = logging.getLogger(__name__)

_KEPT = 2  # the newest, and one before it


def save_state(
    folder: Path, step: int, model: PreTrainedModel, optimizer: ModelOptimizer, sizes: Mapping[str, Granularity]
) -> Path:
    """Write the state after `step` optimizer steps and rename it into place; then drop all but the newest two.

    `sizes` are in it, since which layers they keep may have been measured: another machine could measure otherwise.
    """
    final = folder / f"step-{step:08d}"
    temporary = folder / f".{final.name}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    tensors = {key: holder[place] for key, (holder, place) in optimizer.state_slots().items()}
    save_file({name: p.detach() for name, p in model.named_parameters()}, temporary / "model.safetensors")
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, temporary / "optimizer.safetensors")
    state = {
        "step": step,
        "sizes": {name: size.to_dict() for name, size in sizes.items()},
        "group_steps": [group.get("step") for group in optimizer.param_groups],  # some count there, some in tensors
        # A matrix that LAPACK wrote lies column by column. Read back row by row, it gives other last bits in products.
        "strides": {key: tensor.stride() for key, tensor in tensors.items()},
    }
    write_json_atomically(temporary / "state.json", state)
    for file in temporary.iterdir():
        flush_to_disk(file)
    shutil.rmtree(final, ignore_errors=True)
    temporary.rename(final)
    for old in saved_states(folder)[:-_KEPT]:
        shutil.rmtree(old)
    return final


def saved_states(folder: Path) -> list[Path]:
    """Whole states, oldest first."""
    return sorted(path for path in folder.glob("step-*") if (path / "state.json").is_file())


def saved_sizes(folder: Path) -> dict[str, Granularity] | None:
    """The sizes that are being trained, from the newest state; None where there is none."""
    states = saved_states(folder)
    if not states:
        return None
    sizes = json.loads((states[-1] / "state.json").read_text())["sizes"]
    return {name: Granularity.from_dict(name, size) for name, size in sizes.items()}


@torch.no_grad()
def load_newest_state(folder: Path, model: PreTrainedModel, optimizer: ModelOptimizer) -> int:
    """Put the newest whole state into model and optimizer; returns its number of steps, 0 where there is none.

    Raises: UserError where the state is not of this optimizer.
    """
    for path in reversed(saved_states(folder)):
        try:
            weights, moments = load_file(path / "model.safetensors"), load_file(path / "optimizer.safetensors")
        except (SafetensorError, OSError) as error:
            logger.warning("%s is damaged (%s): going on from the one before it", path, error)
            continue
        state = json.loads((path / "state.json").read_text())
        _load_optimizer(optimizer, moments, state, path)
        parameters = dict(model.named_parameters())
        for name, tensor in weights.items():
            parameters[name].copy_(tensor)
        return state["step"]
    return 0


def _load_optimizer(optimizer: ModelOptimizer, saved: dict[str, Tensor], state: dict[str, Any], path: Path) -> None:
    optimizer.fill_state()
    slots = optimizer.state_slots()
    shapes = {key: holder[place].shape for key, (holder, place) in slots.items()}
    if shapes != {key: tensor.shape for key, tensor in saved.items()}:
        raise UserError(
            f"{path} was written with another optimizer or other blocks than the recipe's: set optimizer.name and "
            f"optimizer.max_block_size back, or begin anew with another --output"
        )
    for key, (holder, place) in slots.items():
        # A copy in any case: a tensor of the file's lies where the file has it, and products depend on alignment too.
        fresh = torch.empty_strided(
            saved[key].shape, state["strides"][key], dtype=saved[key].dtype, device=holder[place].device
        )
        holder[place] = fresh.copy_(saved[key])
    for group, steps in zip(optimizer.param_groups, state["group_steps"], strict=True):
        if steps is not None:
            group["step"] = steps
