"""Nesting: a student is a stock model whose weights are live slices of the TA's.

Everything follows from `slices`: the live student, the extraction, and the counts of parameters and FLOPs all
call it. A family is a table: which parameters nest, on which dimension.
Source: Devvrit et al. 2023 (MatFormer) for the nested FFN; Verma et al. 2025 (MatTA) for its use as TA.
"""

import copy
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from matta_core.errors import UserError

Index = tuple[slice, ...]


@dataclass(frozen=True)
class Granularity:
    """One size: what is kept of the TA. `intermediate_size` counts FFN neurons, a prefix of the TA's."""

    name: str
    intermediate_size: int


@dataclass(frozen=True)
class Family:
    """What nests in one transformers architecture.

    `neuron_dimension`: for the end of a parameter's name, the dimension along which FFN neurons lie.
    `matrices`: a pattern for the names of the parameters that a token is multiplied with.
    """

    model_type: str
    intermediate_size_key: str
    neuron_dimension: Mapping[str, int]
    matrices: re.Pattern[str]


FAMILIES = {
    # GPT-2's Conv1D keeps its weights as (in, out).
    "gpt2": Family(
        model_type="gpt2",
        intermediate_size_key="n_inner",
        neuron_dimension={"mlp.c_fc.weight": 1, "mlp.c_fc.bias": 0, "mlp.c_proj.weight": 0},
        matrices=re.compile(r"\.(c_attn|c_proj|c_fc)\.weight$|^lm_head\.weight$"),
    ),
}


def family_of(model_type: str) -> Family:
    """The family's table. Raises: UserError that lists the known ones."""
    if model_type not in FAMILIES:
        raise UserError(f"model_type {model_type!r} is not a known family: known are {', '.join(FAMILIES)}")
    return FAMILIES[model_type]


def intermediate_size(config: PretrainedConfig) -> int:
    """FFN neurons per layer."""
    width = getattr(config, family_of(config.model_type).intermediate_size_key)
    return width if width is not None else 4 * config.hidden_size  # GPT-2's convention for n_inner = None


def student_config(ta_config: PretrainedConfig, granularity: Granularity) -> PretrainedConfig:
    """The ordinary config of a student.

    Raises: UserError where the student would be wider than the TA.
    """
    widest = intermediate_size(ta_config)
    if not 1 <= granularity.intermediate_size <= widest:
        raise UserError(
            f"size {granularity.name}: intermediate_size must be from 1 to the TA's {widest}, "
            f"got {granularity.intermediate_size}"
        )
    config = copy.deepcopy(ta_config)
    setattr(config, family_of(config.model_type).intermediate_size_key, granularity.intermediate_size)
    return config


def slices(family: Family, parameter_name: str, granularity: Granularity) -> tuple[str, Index]:
    """Where a student's parameter lies in the TA: the TA's parameter name, and the index into it."""
    for ending, dimension in family.neuron_dimension.items():
        if parameter_name.endswith(ending):
            neurons = slice(0, granularity.intermediate_size)
            return parameter_name, (slice(None),) * dimension + (neurons,)
    return parameter_name, ()


def live_student(ta: PreTrainedModel, granularity: Granularity) -> PreTrainedModel:
    """A stock model of the student's config whose weights are views of the TA's parameters.

    The views are taken anew before each module's forward, so that gradients flow into the TA, optimizer steps
    are seen at once, and a recomputed forward (activation checkpointing) sees the same weights. The student has
    no parameters of its own: it is not saved or optimized, and `generate` works on the extracted copy only.
    """
    family = family_of(ta.config.model_type)
    with torch.device("meta"):
        student = type(ta)(student_config(ta.config, granularity))
    assert not list(student.buffers()), "a family with buffers needs them shared as well"
    for module_name, module in student.named_modules():
        names = [name for name, parameter in module._parameters.items() if parameter is not None]
        sources = {}
        for name in names:
            sources[name] = slices(family, f"{module_name}.{name}", granularity)
            del module._parameters[name]
        if sources:
            module.register_forward_pre_hook(_view_taker(ta, sources))
    return student.train(ta.training)


def _view_taker(ta: PreTrainedModel, sources: Mapping[str, tuple[str, Index]]) -> Any:
    def take_views(module: nn.Module, _arguments: Any) -> None:
        for name, (ta_name, index) in sources.items():
            setattr(module, name, ta.get_parameter(ta_name)[index])

    return take_views


def num_parameters(ta: PreTrainedModel, granularity: Granularity) -> int:
    """Parameters of a student, tied ones once, from the TA's shapes and `slices` alone."""
    return sum(math.prod(shape) for shape in _student_shapes(ta, granularity, tied_once=True).values())


def flops_per_token(ta: PreTrainedModel, granularity: Granularity, sequence_length: int) -> int:
    """FLOPs of a student's forward pass per token, at a full context of `sequence_length` tokens.

    Two per weight of every matrix that a token is multiplied with, and 4 x sequence_length x hidden_size per
    layer for attention scores and their weighted sum (the causal half is counted too, as kernels compute it
    and as torch's FlopCounterMode counts it).
    """
    family = family_of(ta.config.model_type)
    shapes = _student_shapes(ta, granularity, tied_once=False)
    weights = sum(math.prod(shape) for name, shape in shapes.items() if family.matrices.search(name))
    attention = 4 * sequence_length * ta.config.hidden_size * ta.config.num_hidden_layers
    return 2 * weights + attention


def _student_shapes(ta: PreTrainedModel, granularity: Granularity, *, tied_once: bool) -> dict[str, tuple[int, ...]]:
    family = family_of(ta.config.model_type)
    shapes = {}
    for name, parameter in ta.named_parameters(remove_duplicate=tied_once):
        ta_name, index = slices(family, name, granularity)
        assert ta_name == name
        shapes[name] = tuple(parameter.data.to("meta")[index].shape)
    return shapes
