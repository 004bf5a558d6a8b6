"""Checkpoints to resume from. They are whole or absent, safetensors and JSON only, and refused if altered.

step-00000100/  model.safetensors  optimizer.safetensors  state.json, which holds the sha256 of the others and its own
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from matta_core.artifacts import digest_of, file_digest, flush_to_disk, write_json_atomically
from matta_core.nesting.size import Granularity
from matta_core.training.optimizers import ModelOptimizer

_KEPT = 2  # the newest, and the one before it
_STATE = "state.json"
_TENSORS = ("model.safetensors", "optimizer.safetensors")


class DamagedStateError(Exception):
    """A checkpoint was altered, or is not of this training. The message names it and says why."""


@dataclass(frozen=True)
class SavedState:
    """A whole checkpoint: the steps done, and the sizes, whose layers importance may have chosen."""

    path: Path
    step: int
    sizes: Mapping[str, Granularity]
    group_steps: tuple[int | None, ...]  # some optimizers count in their groups, some in tensors
    strides: Mapping[str, tuple[int, ...]]


def save_state(
    folder: Path, step: int, model: PreTrainedModel, optimizer: ModelOptimizer, sizes: Mapping[str, Granularity]
) -> Path:
    """Write the state after `step` optimizer steps and rename it into place. Then delete all but it and the one before.

    It holds `sizes`, because importance may have chosen their layers, and another machine could measure otherwise.
    """
    final = state_folder(folder, step)
    temporary = folder / f".{final.name}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    tensors = tensors_of(optimizer)
    save_file({name: p.detach() for name, p in model.named_parameters()}, temporary / _TENSORS[0])
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, temporary / _TENSORS[1])
    state = {
        "step": step,
        "sizes": {name: size.to_dict() for name, size in sizes.items()},
        "group_steps": [group.get("step") for group in optimizer.param_groups],
        # LAPACK writes a matrix column by column. If it were read back row by row, products would have other last bits.
        "strides": {key: tensor.stride() for key, tensor in tensors.items()},
        "files": {name: file_digest(temporary / name) for name in _TENSORS},
    }
    write_json_atomically(temporary / _STATE, {"sha256": digest_of(state), **state})
    for file in temporary.iterdir():
        flush_to_disk(file)
    _remove(final)
    temporary.rename(final)
    # Later ones were refused, or this training would have resumed from them.
    later = [path for path in state_folders(folder) if path.name > final.name]
    for old in [*later, *state_folders(folder)[len(later) + _KEPT :]]:
        _remove(old)
    return final


def state_folder(folder: Path, step: int) -> Path:
    """The folder of the state after `step` steps."""
    return folder / f"step-{step:08d}"


def state_folders(folder: Path) -> list[Path]:
    """The folders of checkpoints, newest first. `read_state` tells whether one can be trusted."""
    return sorted(folder.glob("step-*"), reverse=True)


def read_state(path: Path) -> SavedState:
    """Check a checkpoint's files against their sha256. Raises: DamagedStateError."""
    try:
        state = json.loads((path / _STATE).read_bytes())
        if state.pop("sha256") != digest_of(state):
            raise DamagedStateError(f"{path / _STATE} was altered (its sha256 does not match)")
        for name in _TENSORS:
            if file_digest(path / name) != state["files"][name]:
                raise DamagedStateError(f"{path / name} was altered (its sha256 is not that in {_STATE})")
        sizes = {name: Granularity.from_dict(name, size) for name, size in state["sizes"].items()}
        strides = {key: tuple(stride) for key, stride in state["strides"].items()}
        return SavedState(path, state["step"], sizes, tuple(state["group_steps"]), strides)
    except OSError as error:
        raise DamagedStateError(f"{error.filename or path} cannot be read ({error.strerror})") from None
    except (ValueError, TypeError, AttributeError, LookupError, RecursionError) as error:
        raise DamagedStateError(f"{path / _STATE} holds no state ({type(error).__name__}: {error})") from None


@torch.no_grad()
def load_state(state: SavedState, model: PreTrainedModel, optimizer: ModelOptimizer) -> None:
    """Load a whole checkpoint into model and optimizer. Raises: DamagedStateError where it belongs to others."""
    weights, moments = (load_file(state.path / name) for name in _TENSORS)
    parameters = dict(model.named_parameters())
    if _outline(weights) != _outline(parameters):
        raise DamagedStateError(f"{state.path} was written with another model than the recipe's")
    optimizer.fill_state()
    slots = optimizer.state_slots()
    if _outline(moments) != _outline(tensors_of(optimizer)) or len(state.group_steps) != len(optimizer.param_groups):
        raise DamagedStateError(f"{state.path} was written with another optimizer or other blocks than the recipe's")
    for key, (holder, place) in slots.items():
        # Always copy: a file's tensor has the file's alignment in memory, on which last bits of products depend.
        fresh = torch.empty_strided(
            moments[key].shape, state.strides[key], dtype=moments[key].dtype, device=holder[place].device
        )
        holder[place] = fresh.copy_(moments[key])
    for group, steps in zip(optimizer.param_groups, state.group_steps, strict=True):
        if steps is not None:
            group["step"] = steps
    for name, tensor in weights.items():
        parameters[name].copy_(tensor)


def tensors_of(optimizer: ModelOptimizer) -> dict[str, Tensor]:
    """The optimizer's state, by name."""
    return {key: holder[place] for key, (holder, place) in optimizer.state_slots().items()}


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _outline(tensors: Mapping[str, Tensor]) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}
