"""Students whose FFN width differs from layer to layer, without padding: stock modules at their own widths.

Stock configs cannot say it, so that such a checkpoint carries a small class of its own, which transformers loads only
where its user says trust_remote_code=True. Nothing of ours says so; the padded stock checkpoint is what is served.
"""

import copy
import importlib.util
import sys
from pathlib import Path
from string import Template
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from matta_core.artifacts import file_digest
from matta_core.checkpoints import save_model
from matta_core.families import family_of
from matta_core.nesting.size import Granularity
from matta_core.nesting.slices import live_student, set_width, student_config, student_parameters, take

_TOKENS_AT_A_TIME = 256
_MODULE = "modeling_matta"
_CLASS = "PerLayerWidthForCausalLM"
_SOURCE = Template('''"""$stock with an FFN width of its own in every layer: config.intermediate_sizes."""

from torch import nn
from transformers import $stock

_LAYERS = "$layers"
_NEURONS = $neurons  # parameter of a layer -> dimension along which its neurons lie


class $name($stock):
    def __init__(self, config):
        super().__init__(config)
        for layer, width in zip(self.get_submodule(_LAYERS), config.intermediate_sizes, strict=True):
            for name, dimension in _NEURONS.items():
                path, _, kind = name.rpartition(".")
                module = layer.get_submodule(path)
                parameter = getattr(module, kind)
                if parameter is None:
                    continue
                setattr(module, kind, nn.Parameter(parameter.detach().narrow(dimension, 0, width).clone()))
                if kind == "weight" and hasattr(module, "nf"):
                    module.nx, module.nf = module.weight.shape
                elif kind == "weight":
                    module.out_features, module.in_features = module.weight.shape
''')


@torch.no_grad()
def compact_model(ta: PreTrainedModel, granularity: Granularity) -> PreTrainedModel:
    """A model with its own memory and each layer at its own width, for inference here. Tied heads stay tied."""
    student = type(ta)(student_config(ta.config, granularity)).to(next(ta.parameters()).dtype)
    student.generation_config = copy.deepcopy(ta.generation_config)
    for name, ta_name, parts in student_parameters(ta, granularity):
        path, _, kind = name.rpartition(".")
        module, kept = student.get_submodule(path), take(ta.get_parameter(ta_name), parts).clone()
        if getattr(module, kind).shape == kept.shape:
            getattr(module, kind).copy_(kept)  # in place: what is tied to it stays so
        else:
            setattr(module, kind, nn.Parameter(kept))
            set_width(module, kind, kept)
    return student.eval()


@torch.no_grad()
def export_compact(
    ta: PreTrainedModel, granularity: Granularity, tokenizer: PreTrainedTokenizerBase, folder: Path, input_ids: Tensor
) -> dict[str, Any]:
    """Write a checkpoint without padding, with the class that loads it, and certify it: loaded by that class, every
    logit over input_ids (sequences, length) has the live student's bits.

    Raises: AssertionError where it has not: a bug of ours.
    """
    student, family = compact_model(ta, granularity), family_of(ta.config.model_type)
    student.config.intermediate_sizes = list(granularity.intermediate_sizes)
    student.config.auto_map = {"AutoModelForCausalLM": f"{_MODULE}.{_CLASS}"}
    save_model(student, tokenizer, folder)
    source = _SOURCE.substitute(
        stock=type(ta).__name__, layers=family.layers, neurons=dict(family.neurons), name=_CLASS
    )
    (folder / f"{_MODULE}.py").write_text(source)
    found = compare_logits(live_student(ta, granularity).eval(), _load(folder), input_ids)
    assert found.bitwise_equal, f"{folder} differs from the live student by {found.max_abs_difference}"
    return {
        "bitwise_equal": True,
        "sequences": len(input_ids),
        "tokens": input_ids.numel(),
        "weights_sha256": file_digest(folder / "model.safetensors"),
    }


class Comparison(NamedTuple):
    """Of all logits: whether they have the same bits, by how much they differ at most, and the largest one's size."""

    bitwise_equal: bool
    max_abs_difference: float
    largest: float


@torch.no_grad()
def compare_logits(live: PreTrainedModel, saved: PreTrainedModel, input_ids: Tensor) -> Comparison:
    """Two models over input_ids (sequences, length), a piece at a time: all logits of a long sequence and a large
    vocabulary would take more memory than the models."""
    equal, difference, largest = True, 0.0, 0.0
    for sequence in input_ids.split(1):
        states = [model.base_model(input_ids=sequence, use_cache=False).last_hidden_state for model in (live, saved)]
        for pieces in zip(*(state.split(_TOKENS_AT_A_TIME, dim=1) for state in states), strict=True):
            ours, theirs = (
                model.get_output_embeddings()(piece) for model, piece in zip((live, saved), pieces, strict=True)
            )
            equal = equal and torch.equal(ours, theirs)
            largest = max(largest, ours.abs().max().item())
            difference = max(difference, theirs.sub_(ours).abs_().max().item())
    return Comparison(equal, difference, largest)


def _load(folder: Path) -> PreTrainedModel:
    """By the class that was just written here, without transformers' way for code of others."""
    name = f"{_MODULE}_{abs(hash(folder))}"
    spec = importlib.util.spec_from_file_location(name, folder / f"{_MODULE}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        sys.dont_write_bytecode, kept = True, sys.dont_write_bytecode  # no __pycache__ in an artifact
        spec.loader.exec_module(module)
        return getattr(module, _CLASS).from_pretrained(folder, use_safetensors=True, trust_remote_code=False).eval()
    finally:
        sys.dont_write_bytecode = kept
        del sys.modules[name]
