"""Checkpoints to resume from: whole or absent, safetensors and JSON only.

step-00000100/  model.safetensors  optimizer.safetensors  state.json
"""

import json
import os
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from matta_core.artifacts import write_json_atomically

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
        _flush(file)
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
    """Put the newest state into model and optimizer; returns the number of steps done, 0 where there is none."""
    states = saved_states(folder)
    if not states:
        return 0
    newest = states[-1]
    parameters = dict(model.named_parameters())
    for name, tensor in load_file(newest / "model.safetensors").items():
        parameters[name].copy_(tensor)
    for key, tensor in load_file(newest / "optimizer.safetensors").items():
        name, entry = key.rsplit("|", 1)
        device = "cpu" if entry == "step" and not optimizer.defaults.get("fused") else parameters[name].device
        optimizer.state[parameters[name]][entry] = tensor.to(device)
    return json.loads((newest / "state.json").read_text())["step"]


def _optimizer_tensors(model: PreTrainedModel, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        f"{name}|{entry}": tensor
        for name, parameter in model.named_parameters()
        for entry, tensor in optimizer.state.get(parameter, {}).items()
    }


def _flush(file: Path) -> None:
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
