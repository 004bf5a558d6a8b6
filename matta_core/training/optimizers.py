"""AdamW, Shampoo, SOAP and Muon, over whole parameters or over blocks aligned with the nesting.

A nested student is a prefix of neurons or heads. A preconditioner that spans several sizes mixes the statistics of
neurons that get gradients in every step with those of neurons that get them rarely. So Shampoo, SOAP and Muon see each
hidden matrix in blocks, cut at the sizes' boundaries. AdamW works elementwise, so a cut would change nothing for it.

Shampoo and SOAP come from pytorch_optimizer (Apache-2.0; it needs only torch and numpy). heavyball compiles its steps,
for which the images lack a compiler; Meta's distributed_shampoo is not on PyPI; NVIDIA's emerging_optimizers needs
Python 3.12. Muon is torch's own.

Ranks are data parallel: all have the same gradients and compute the same update. So each rank repeats the work of the
roots, the eigenbases and Muon's iterations, and keeps the whole state.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise, product
from typing import Any

import torch
from pytorch_optimizer.optimizer.shampoo import ScalableShampoo
from pytorch_optimizer.optimizer.soap import SOAP
from pytorch_optimizer.optimizer.utils.graft import Graft, LayerWiseGrafting
from pytorch_optimizer.optimizer.utils.preconditioner import PreConditioner
from torch import Tensor, nn
from transformers import PreTrainedModel

from matta_core.families import family_of
from matta_core.recipe import OptimizerConfig, TrainConfig
from matta_core.recipe.optimizer import PRECONDITIONED

Slot = tuple[dict[Any, Any] | list[Any], Any]  # where a tensor is kept: its container, and its key there

Cuts = Mapping[str, Mapping[int, Sequence[int]]]  # a parameter's name -> dimension -> ascending inner offsets


def make_optimizer(model: PreTrainedModel, config: TrainConfig, cuts: Cuts | None = None) -> "ModelOptimizer":
    """The recipe's optimizer, with decoupled weight decay on matrices and none on biases and norms.

    `cuts` says where hidden matrices are cut into blocks; a matrix that it leaves out stays whole. It also separates
    fused matrices, such as GPT-2's c_attn.

    AdamW always trains embeddings and the output head: a preconditioner for the vocabulary's side would have
    vocab_size**2 entries, and an absent token has no gradient (Jordan et al. 2024 do the same for Muon).

    Sources: Loshchilov & Hutter 2019 (AdamW; betas as in GPT-3, Brown et al. 2020, appendix B); Gupta et al. 2018 and
    Anil et al. 2020 (Shampoo, grafting); Vyas et al. 2024 (SOAP); Jordan et al. 2024 and Liu et al. 2025 (Muon).
    """
    settings, decay = config.optimizer, config.weight_decay
    parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert not cuts or cuts.keys() <= parameters.keys(), (
        f"cuts of unknown parameters: {cuts.keys() - parameters.keys()}"
    )
    hidden = {} if settings.name == "adamw" else hidden_matrices(model)
    longest = settings.max_block_size if settings.name in PRECONDITIONED else None
    blocks = [
        Block(name, matrix, index)
        for name, matrix in hidden.items()
        for index in block_indices(matrix.shape, (cuts or {}).get(name, {}), longest)
    ]
    rest = {name: parameter for name, parameter in parameters.items() if name not in hidden}
    groups = [
        {"params": [p for p in rest.values() if p.dim() >= 2], "weight_decay": decay},
        {"params": [p for p in rest.values() if p.dim() < 2], "weight_decay": 0.0},
    ]
    betas = (settings.momentum if settings.name == "adamw" else 0.9, settings.beta2)
    parts: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(groups, lr=config.learning_rate, betas=betas, eps=settings.epsilon, fused=True)
    ]
    if blocks:
        parts.append(_of_blocks(settings, [block.view for block in blocks], config.learning_rate, decay))
    return ModelOptimizer(parts, rest, blocks)


def hidden_matrices(model: PreTrainedModel) -> dict[str, nn.Parameter]:
    """The trained 2-D parameters of the layers, by name, without embeddings and head."""
    layers = f"{family_of(model.config.model_type).layers}."
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and parameter.dim() == 2 and name.startswith(layers)
    }


def block_indices(
    shape: Sequence[int], cuts: Mapping[int, Sequence[int]], longest: int | None = None
) -> list[tuple[slice, ...]]:
    """Where the blocks of a tensor lie. It is cut at `cuts`, then into equal pieces where a side exceeds `longest`."""
    sides = []
    for dimension, size in enumerate(shape):
        edges = [0, *cuts.get(dimension, ()), size]
        assert all(start < end for start, end in pairwise(edges)), f"cuts {edges} of dimension {dimension}"
        side = []
        for start, end in pairwise(edges):
            pieces = -(-(end - start) // (longest or size))
            inner = [start + (end - start) * piece // pieces for piece in range(pieces + 1)]
            side += [slice(*ends) for ends in pairwise(inner)]
        sides.append(side)
    return list(product(*sides))


class Block:
    """A part of a matrix as a parameter of its own, in the same memory: its updates update the model."""

    def __init__(self, name: str, matrix: nn.Parameter, index: tuple[slice, ...]) -> None:
        self.name = f"{name}[{', '.join(f'{side.start}:{side.stop}' for side in index)}]"
        self.matrix, self.index = matrix, index
        self.view = nn.Parameter(matrix.detach()[index])

    def take_gradient(self) -> None:
        self.view.grad = None if self.matrix.grad is None else self.matrix.grad[self.index]


class ModelOptimizer:
    """One optimizer for the loop: AdamW, and beside it the one that works on blocks."""

    def __init__(
        self, parts: Sequence[torch.optim.Optimizer], whole: Mapping[str, nn.Parameter], blocks: Sequence[Block]
    ) -> None:
        self._parts, self._whole, self._blocks = parts, whole, blocks

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return [group for part in self._parts for group in part.param_groups]

    def step(self) -> None:
        for block in self._blocks:
            block.take_gradient()
        # Shampoo's roots begin with a power iteration from a random vector. It must always be the same one, or a
        # resumed run and the other ranks would not repeat it. fork_rng keeps the draw from changing anybody else's
        # state.
        devices = {p.device.index for p in self._parameters().values() if p.device.type == "cuda"}
        with torch.random.fork_rng(devices):
            torch.manual_seed(0)
            for part in self._parts:
                part.step()
        for block in self._blocks:
            block.view.grad = None

    def zero_grad(self) -> None:
        for parameter in (*self._whole.values(), *(block.matrix for block in self._blocks)):
            parameter.grad = None

    def fill_state(self) -> None:
        """Create the whole state by a first step without gradients, so that values can be loaded into it.

        This step decays the weights: load them afterwards.
        """
        for parameter in (*self._whole.values(), *(block.matrix for block in self._blocks)):
            parameter.grad = torch.zeros_like(parameter)
        self.step()
        self.zero_grad()

    def state_slots(self) -> dict[str, Slot]:
        """The places of the state's tensors, by parameter or block and entry."""
        return {
            f"{name}|{path}": slot
            for name, parameter in self._parameters().items()
            for part in self._parts
            for path, slot in _slots(part.state.get(parameter, {}))
        }

    def _parameters(self) -> dict[str, nn.Parameter]:
        return {**self._whole, **{block.name: block.view for block in self._blocks}}


def _of_blocks(
    settings: OptimizerConfig, blocks: Sequence[nn.Parameter], rate: float, decay: float
) -> torch.optim.Optimizer:
    if settings.name == "muon":
        return torch.optim.Muon(
            blocks, lr=rate, weight_decay=decay, momentum=settings.momentum, adjust_lr_fn="match_rms_adamw"
        )
    if settings.name == "soap":
        # As in the authors' own code, the first step only sets the eigenbases and moves no block.
        return SOAP(
            blocks,
            lr=rate,
            betas=(settings.momentum, settings.beta2),
            eps=settings.epsilon,
            weight_decay=decay,
            precondition_frequency=settings.preconditioner_every_steps,
            max_precondition_dim=settings.max_block_size,
        )
    every = settings.preconditioner_every_steps
    return ScalableShampoo(
        blocks,
        lr=rate,
        betas=(settings.momentum, settings.beta2),
        moving_average_for_momentum=True,
        nesterov=False,
        weight_decay=decay,
        decoupled_weight_decay=True,
        start_preconditioning_step=every,  # before the first roots, the direction is that of the plain gradient
        preconditioning_compute_steps=every,
        block_size=settings.max_block_size,
        no_preconditioning_for_layers_with_dim_gt=settings.max_block_size,
        shape_interpretation=False,  # it would merge a small block's sides into one vector, without preconditioner
        graft_type=LayerWiseGrafting.RMSPROP,  # with the moving average: Adam's size of update
        diagonal_eps=settings.epsilon,
        # use_svd is off: it has no ridge, and a direction without gradients would get an infinite root.
    )


def _slots(container: dict[Any, Any] | list[Any]) -> Iterator[tuple[str, Slot]]:
    """All tensors in a parameter's state. The rest is settings; steps are counted in a tensor or in the group."""
    for key, value in container.items() if isinstance(container, dict) else enumerate(container):
        if isinstance(value, Tensor):
            yield str(key), (container, key)
        elif isinstance(value, dict | list | PreConditioner | Graft):
            inner = value if isinstance(value, dict | list) else vars(value)
            for path, slot in _slots(inner):
                yield f"{key}.{path}", slot
