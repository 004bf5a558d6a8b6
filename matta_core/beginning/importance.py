"""Measures on text which neurons, heads and layers of a trained model matter, and sorts them by it.

After sorting, the first neurons and heads are the ones to keep, so that an untrained slice is already good; the whole
model still computes the same function. It takes forward passes only: Muralidharan et al. 2024 (Minitron), section 2.2.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from matta_core.families import Axis, family_of
from matta_core.objectives.objective import Batch, Objective
from matta_core.training.passes import PassSettings, error_sum

# The scores of units by axis and layer, float64, on the CPU, as a grid: (neurons,) or (groups, queries per group).
Importance = Mapping[str, Sequence[Tensor]]


def layers_of(model: PreTrainedModel) -> nn.ModuleList:
    layers = model.get_submodule(family_of(model.config.model_type).layers)
    assert isinstance(layers, nn.ModuleList), layers
    return layers


@torch.no_grad()
def measure(model: PreTrainedModel, batches: Iterable[Batch], objective: Objective) -> Importance:
    """Importance over calibration batches, on the model's device.

    With a the activations that the FFN's output projection W reads, x_h the features of query head h that the
    attention's output projection W_h reads, and means over tokens (other axes are like the one or the other):

    - neuron j: sqrt(mean a_j^2) * |W_j|, the size of what it adds to the residual stream. This is Wanda's score (Sun et
      al. 2023), root mean square activation times weight, over the whole column, which goes with the neuron.
    - query head h: mean |W_h x_h|^2, the energy of what it adds; a group's is the sum of its heads'. Molchanov et al.
      2019, section 3, score the removal of a unit's output, and not of its weights, in this way.

    It depends on model and batches alone: ranks that measure the same agree without a message.
    """
    layers = layers_of(model)
    gauges = [_Gauge(model, axis, layer) for layer in layers for axis in family_of(model.config.model_type).nested]
    was_training, num_tokens = model.training, 0
    with ExitStack() as hooks:
        for gauge in gauges:
            hooks.callback(gauge.projection.register_forward_pre_hook(gauge.see).remove)
        model.eval()
        for batch in batches:
            objective.states(model, batch)
            num_tokens += objective.num_tokens(batch)
    model.train(was_training)
    scores: dict[str, list[Tensor]] = {}
    for gauge in gauges:
        scores.setdefault(gauge.axis.name, []).append(gauge.scores(num_tokens).cpu())
    return scores


class _Gauge:
    """Measures what an axis's units in one layer write into the residual stream, at the input of the axis's output
    projection. A neuron is one activation there, a head several."""

    def __init__(self, model: PreTrainedModel, axis: Axis, layer: nn.Module) -> None:
        family = family_of(model.config.model_type)
        self.axis, self.projection = axis, layer.get_submodule(axis.output)
        self.weight = self.projection.get_parameter("weight")
        _, self.dimension, grid = axis.read
        shares = axis.shares({key: family.count(model.config, key) for key in axis.keys})
        self.units = [shares[key] for key in grid if key in shares]
        self.size = [family.count(model.config, key) for key in grid if key not in shares]
        shape = (math.prod(self.units), *(2 * self.size))
        self.seen = torch.zeros(shape, dtype=torch.float64, device=self.weight.device)

    def see(self, _module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        features = arguments[0].float().flatten(0, 1)  # (tokens, units x size)
        if self.size:
            features = features.unflatten(-1, (-1, *self.size)).transpose(0, 1)
            self.seen += features.transpose(1, 2) @ features
        else:
            self.seen += features.pow(2).sum(0)

    def scores(self, num_tokens: int) -> Tensor:
        columns = self.weight.double().movedim(self.dimension, 0)  # (units x size, hidden)
        if self.size:
            columns = columns.unflatten(0, (-1, *self.size))
            scores = torch.einsum("hio,hij,hjo->h", columns, self.seen, columns) / num_tokens
        else:
            scores = (self.seen / num_tokens).sqrt() * columns.norm(dim=1)
        return scores.unflatten(0, self.units)


@torch.no_grad()
def layer_order(
    model: PreTrainedModel,
    batches: Sequence[Batch],
    fewest: int,
    objective: Objective,
    head_chunk_tokens: int | None = None,
) -> list[int]:
    """All layers, in the order in which they should be kept. It holds for sizes that keep at least `fewest`.

    The first and the last layer come first. Greedy removal orders the others: again and again it takes out the layer
    that the error on `batches` needs least (Song et al. 2024, SLEB). It needs about layers^2 / 2 forward passes of the
    batches, and fewer if more layers are kept. Block influence (ShortGPT) needs one pass, but in small models it chose
    worse than chance.
    """
    layers = layers_of(model)
    was_training, kept = model.training, list(range(len(layers)))
    removed: list[int] = []
    settings = PassSettings(head_chunk_tokens)
    model.eval()

    def loss_without(layer: int) -> float:
        with ExitStack() as hooks:
            for index in (*removed, layer):
                hooks.callback(layers[index].register_forward_hook(_passed_by).remove)
            return sum(error_sum(objective, model, batch, settings).item() for batch in batches)

    while len(kept) > max(2, fewest):
        least = min(kept[1:-1], key=loss_without)
        kept.remove(least)
        removed.append(least)
    model.train(was_training)
    ends = [layer for layer in kept if layer in (0, len(layers) - 1)]
    return ends + [layer for layer in kept if layer not in ends] + removed[::-1]


def _passed_by(_module: nn.Module, arguments: tuple[Tensor, ...], _output: Tensor) -> Tensor:
    return arguments[0]


def sort_by(model: PreTrainedModel, importance: Importance) -> None:
    """Put the most important units of every axis first, in every layer, in place: groups, and the heads in each group.

    The model's function stays the same. Units of equal importance keep their order.
    """
    for axis in family_of(model.config.model_type).nested:
        for layer, scores in enumerate(importance[axis.name]):
            permute(model, layer, axis, _descending(scores))


def _descending(scores: Tensor) -> list[Tensor]:
    """The order of units along each dimension of the grid, by the sum of all scores within a unit."""
    orders = []
    for dimension in range(scores.dim()):
        sums = scores.flatten(dimension).unflatten(-1, (scores.shape[dimension], -1)).sum(-1)
        orders.append(sums.argsort(dim=-1, descending=True, stable=True))
        within = orders[-1].reshape(*orders[-1].shape, *(1 for _ in scores.shape[dimension + 1 :]))
        scores = scores.take_along_dim(within, dimension)
    return orders


@torch.no_grad()
def permute(model: PreTrainedModel, layer: int, axis: Axis, orders: Sequence[Tensor]) -> None:
    """Reorder an axis's units in one layer. For heads, group orders[0][i] becomes number i, and its query head
    orders[1][i, j] becomes the group's number j."""
    family = family_of(model.config.model_type)
    cells = [orders[0]]  # for each dimension of the grid, the old numbers of all units in their new order
    for order in orders[1:]:
        cells.append(cells[-1][..., None] * order.shape[-1] + order)
    parameters = dict(model.named_parameters())
    for rest, (dimension, segments) in axis.parameters.items():
        if (parameter := parameters.get(f"{family.layers}.{layer}.{rest}")) is None:
            continue
        indices, start = [], 0
        for segment in segments:
            size = math.prod(family.count(model.config, key) for key in segment if key not in axis.keys)
            depth = sum(key in axis.keys for key in segment)
            units = cells[depth - 1].flatten() if depth else torch.zeros(1, dtype=torch.long)
            indices.append(start + (units[:, None] * size + torch.arange(size)).flatten())
            start += len(indices[-1])
        parameter.copy_(parameter.index_select(dimension, torch.cat(indices).to(parameter.device)))
