"""Checkpoints to resume from: whole or absent, safetensors and JSON only.

step-00000100/  model.safetensors  optimizer.safetensors  state.json
"""

import json
import logging
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from matta_core.artifacts import flush_to_disk, write_json_atomically

logger = logging.getLogger(__name__)

_KEPT = 2  # the newest, and one before it


def save_state(folder: Path, step: int, model: PreTrainedModel, optimizer: torch.optim.Optimizer) -> Path:
    """Write the state after `step` optimizer steps and rename it into place; then drop all but the newest two."""
    final = folder / f"step-{step:08d}"
    temporary = folder / f".{final.name}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    save_file({name: p.detach() for name, p in model.named_parameters()}, temporary / "model.safetensors")
    save_file(_optimizer_tensors(model, optimizer), temporary / "optimizer.safetensors")
    write_json_atomically(temporary / "state.json", {"step": step})
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


@torch.no_grad()
def load_newest_state(folder: Path, model: PreTrainedModel, optimizer: torch.optim.Optimizer) -> int:
    """Put the newest whole state into model and optimizer; returns its number of steps, 0 where there is none."""
    for state in reversed(saved_states(folder)):
        try:
            weights, moments = load_file(state / "model.safetensors"), load_file(state / "optimizer.safetensors")
        except (SafetensorError, OSError) as error:
            logger.warning("%s is damaged (%s): going on from the one before it", state, error)
            continue
        parameters = dict(model.named_parameters())
        for name, tensor in weights.items():
            parameters[name].copy_(tensor)
        for key, tensor in moments.items():
            name, entry = key.rsplit("|", 1)
            optimizer.state[parameters[name]][entry] = tensor.to(parameters[name].device)
        return json.loads((state / "state.json").read_text())["step"]
    return 0


def _optimizer_tensors(model: PreTrainedModel, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        f"{name}|{entry}": tensor
        for name, parameter in model.named_parameters()
        for entry, tensor in optimizer.state.get(parameter, {}).items()
    }
