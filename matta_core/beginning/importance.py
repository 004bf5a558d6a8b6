"""Which neurons, heads and layers of a trained model matter, measured on text, and sorting them by it.

Sorted, the first neurons and heads are the ones to keep, so that an untrained slice is already good; the whole model
computes the same function. Forward passes only: Muralidharan et al. 2024 (Minitron), section 2.2.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from matta_core.families import family_of
from matta_core.nesting.size import head_size, whole
from matta_core.objectives.objective import Batch, Objective
from matta_core.training.passes import PassSettings, error_sum


@dataclass(frozen=True)
class Importance:
    """float64, on CPU. `neurons`: per layer (width,); `heads`: per layer (groups, queries per group), empty where heads
    do not nest."""

    neurons: tuple[Tensor, ...]
    heads: tuple[Tensor, ...]


@torch.no_grad()
def measure(model: PreTrainedModel, batches: Iterable[Batch], objective: Objective) -> Importance:
    """Importance over calibration batches, on the model's device.

    With a the activations that the FFN's output projection W reads, x_h the features of query head h that the
    attention's output projection W_h reads, and means over tokens:

    - neuron j: sqrt(mean a_j^2) * |W_j|, the size of what it adds to the residual stream. Wanda's score (Sun et al.
      2023), root mean square activation times weight, over the whole column: removing a neuron removes it all.
    - query head h: mean |W_h x_h|^2, the energy of what it adds; a group's is the sum of its heads'. Of removing a
      unit's output and not its weights: Molchanov et al. 2019, section 3.

    A function of model and batches alone: ranks that measure the same agree without a message.
    """
    family = family_of(model.config.model_type)
    outline, size = whole(model.config, ""), head_size(model.config)
    layers = model.get_submodule(family.layers)
    device = next(model.parameters()).device

    def zeros(*shape: int) -> list[Tensor]:
        return [torch.zeros(shape, dtype=torch.float64, device=device) for _ in layers]

    squares = zeros(outline.intermediate_sizes[0])
    moments = zeros(outline.num_attention_heads, size, size)

    def see_neurons(index: int) -> Any:
        def hook(_module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            squares[index] += arguments[0].float().pow(2).flatten(0, 1).sum(0)

        return hook

    def see_heads(index: int) -> Any:
        def hook(_module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            features = arguments[0].float().flatten(0, 1).unflatten(-1, (-1, size)).transpose(0, 1)
            moments[index] += features.transpose(1, 2) @ features

        return hook

    was_training, num_tokens = model.training, 0
    with ExitStack() as hooks:
        for index, layer in enumerate(layers):
            handles = [layer.get_submodule(family.ffn_output).register_forward_pre_hook(see_neurons(index))]
            if family.queries:
                handles.append(layer.get_submodule(family.attention_output).register_forward_pre_hook(see_heads(index)))
            for handle in handles:
                hooks.callback(handle.remove)
        model.eval()
        for batch in batches:
            objective.states(model, batch)
            num_tokens += batch["input_ids"].numel()
    model.train(was_training)

    neurons, heads = [], []
    for index, layer in enumerate(layers):
        name = f"{family.ffn_output}.weight"
        columns = layer.get_parameter(name).double().movedim(family.neurons[name], 0)
        neurons.append((squares[index] / num_tokens).sqrt() * columns.flatten(1).norm(dim=1))
        if family.queries:
            name = f"{family.attention_output}.weight"
            columns = layer.get_parameter(name).double().movedim(family.queries[name], 0).unflatten(0, (-1, size))
            energy = torch.einsum("hio,hij,hjo->h", columns, moments[index], columns) / num_tokens
            heads.append(energy.unflatten(0, (outline.num_key_value_heads, outline.queries_per_group)))
    return Importance(tuple(each.cpu() for each in neurons), tuple(each.cpu() for each in heads))


@torch.no_grad()
def layer_order(
    model: PreTrainedModel, batches: Sequence[Batch], fewest: int, objective: Objective, head_chunk_tokens: int = 1024
) -> list[int]:
    """All layers, those to keep first before others, for whoever keeps at least `fewest`: the first and the last,
    then as greedy removal has it, which takes out whichever layer the error on `batches` needs least, one by one.

    Song et al. 2024 (SLEB). About layers^2 / 2 forward passes of the batches, fewer the more layers are kept. Block
    influence (ShortGPT) needs a single one, but in small models it chose worse than chance.
    """
    layers = model.get_submodule(family_of(model.config.model_type).layers)
    was_training, kept, removed = model.training, list(range(len(layers))), []
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
    """Put the most important neurons, groups, and query heads in each group first, in every layer, in place.

    The function stays. Stable: equals keep their order.
    """
    for layer, scores in enumerate(importance.neurons):
        permute_neurons(model, layer, scores.argsort(descending=True, stable=True))
    for layer, scores in enumerate(importance.heads):
        groups = scores.sum(1).argsort(descending=True, stable=True)
        permute_heads(model, layer, groups, scores[groups].argsort(dim=1, descending=True, stable=True))


def permute_neurons(model: PreTrainedModel, layer: int, order: Tensor) -> None:
    """The neuron that becomes number i is order[i]; order (width,)."""
    _permute(model, layer, family_of(model.config.model_type).neurons, order)


def permute_heads(model: PreTrainedModel, layer: int, groups: Tensor, queries: Tensor) -> None:
    """The group that becomes number i is groups[i], and its query head number j is the group's queries[i, j].

    groups (groups,); queries (groups, queries per group).
    """
    family, size = family_of(model.config.model_type), head_size(model.config)
    heads = groups[:, None] * queries.shape[1] + queries
    _permute(model, layer, family.queries, _features(heads.flatten(), size))
    _permute(model, layer, family.keys_values, _features(groups, size))


def _features(heads: Tensor, size: int) -> Tensor:
    return (heads[:, None] * size + torch.arange(size)).flatten()


@torch.no_grad()
def _permute(model: PreTrainedModel, layer: int, table: Mapping[str, int], order: Tensor) -> None:
    prefix = f"{family_of(model.config.model_type).layers}.{layer}"
    parameters = dict(model.named_parameters())
    for rest, dimension in table.items():
        if (parameter := parameters.get(f"{prefix}.{rest}")) is not None:  # biases may be off
            parameter.copy_(parameter.index_select(dimension, order.to(parameter.device)))
