"""The student in training: a stock model whose weights are views of the TA's."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from matta_core.nesting.config import student_config
from matta_core.nesting.size import Granularity
from matta_core.nesting.slices import Part, slices, take


def live_student(ta: PreTrainedModel, granularity: Granularity) -> PreTrainedModel:
    """A stock model of the student's config whose weights are views of the TA's parameters.

    The views are taken anew before each module's forward. So gradients flow into the TA, optimizer steps are seen at
    once, and a recomputed forward (activation checkpointing) sees the same weights. The student has no parameters of
    its own: it is not saved or optimized, and `generate` works on the extracted copy only.
    """
    with torch.device("meta"):
        student = type(ta)(student_config(ta.config, granularity))
    for module_name, module in student.named_modules():
        prefix = f"{module_name}." if module_name else ""
        sources = {}
        for name in [name for name, parameter in module._parameters.items() if parameter is not None]:
            sources[name] = slices(ta.config, prefix + name, granularity)
            set_width(module, name, take(ta.get_parameter(sources[name][0]).detach(), sources[name][1]))
            del module._parameters[name]
        for name in [name for name, buffer in module._buffers.items() if buffer is not None]:
            module._buffers[name] = ta.get_buffer(prefix + name)  # no buffer lies in a layer: see docs/families.md
        if sources:
            module.register_forward_pre_hook(_view_taker(ta, sources))
    return student.train(ta.training)


def set_width(module: nn.Module, name: str, weight: Tensor) -> None:
    """Set the sizes that a module keeps beside its weight. GPT-2's Conv1D reads its own; Linear shows its own."""
    if name == "weight" and isinstance(module, Conv1D):
        module.nx, module.nf = weight.shape
    elif name == "weight" and isinstance(module, nn.Linear):
        module.out_features, module.in_features = weight.shape


def _view_taker(ta: PreTrainedModel, sources: Mapping[str, tuple[str, tuple[Part, ...]]]) -> Any:
    def take_views(module: nn.Module, _arguments: Any) -> None:
        for name, (ta_name, parts) in sources.items():
            setattr(module, name, take(ta.get_parameter(ta_name), parts))

    return take_views
