"""Students whose FFN width differs from layer to layer, without padding: stock modules at their own widths.

Stock configs cannot express such widths. So the checkpoint carries a small class of its own, which transformers loads
only if its user says trust_remote_code=True. Our own code never does; the padded stock checkpoint is the one that is
served.
"""

import copy
import importlib.util
import sys
from pathlib import Path
from string import Template

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from matta_core.artifacts import file_digest
from matta_core.artifacts.kinds.family import Certificate
from matta_core.checkpoints import save_model
from matta_core.errors import UserError
from matta_core.families import family_of
from matta_core.nesting.config import student_config
from matta_core.nesting.live import live_student, set_width
from matta_core.nesting.size import Granularity
from matta_core.nesting.slices import student_parameters, take
from matta_core.objectives.objective import Batch, Objective, num_sequences
from matta_core.pretrained import moved
from matta_core.students.comparison import compare_answers

_MODULE = "modeling_matta"


_CLASS = "PerLayerWidthForCausalLM"


_SOURCE = Template('''"""$stock with a width of its own in every layer: config.$widths."""

from torch import nn
from transformers import $stock

_LAYERS = "$layers"
_DIMENSIONS = $dimensions  # parameter of a layer -> that along which the width lies, once or more


class $name($stock):
    def __init__(self, config):
        super().__init__(config)
        for layer, width in zip(self.get_submodule(_LAYERS), config.$widths, strict=True):
            for name, dimension in _DIMENSIONS.items():
                path, _, kind = name.rpartition(".")
                module = layer.get_submodule(path)
                parameter = getattr(module, kind)
                if parameter is None:
                    continue
                length = parameter.shape[dimension] // max(config.$widths) * width
                setattr(module, kind, nn.Parameter(parameter.detach().narrow(dimension, 0, length).clone()))
                if kind == "weight" and hasattr(module, "nf"):
                    module.nx, module.nf = module.weight.shape
                elif kind == "weight":
                    module.out_features, module.in_features = module.weight.shape
''')


@torch.no_grad()
def compact_model(ta: PreTrainedModel, granularity: Granularity) -> PreTrainedModel:
    """A model with its own memory, each layer at its own width, for inference in this process. Tied heads stay tied."""
    student = moved(type(ta)(student_config(ta.config, granularity)), next(ta.parameters()).dtype)
    if ta.can_generate():
        student.generation_config = copy.deepcopy(ta.generation_config)
    for name, ta_name, parts in student_parameters(ta, granularity):
        path, _, kind = name.rpartition(".")
        module, kept = student.get_submodule(path), take(ta.get_parameter(ta_name), parts).clone()
        if getattr(module, kind).shape == kept.shape:
            getattr(module, kind).copy_(kept)  # in place, so that tied parameters stay tied
        else:
            setattr(module, kind, nn.Parameter(kept))
            set_width(module, kind, kept)
    return student.eval()


@torch.no_grad()
def export_compact(
    objective: Objective,
    ta: PreTrainedModel,
    granularity: Granularity,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    batch: Batch,
) -> Certificate:
    """Write a checkpoint without padding, with the class that loads it, and certify it: loaded by that class, its
    answers to the batch must have the live student's bits.

    Raises: UserError where no axis may differ by layer. AssertionError where the bits differ, which is a bug of ours.
    """
    if not granularity.by_layer:
        raise UserError(
            f"{granularity.name} cannot be written without padding: no axis of {ta.config.model_type} may differ by "
            f"layer, and its stock checkpoint has none; set extract_students.compact to false"
        )
    student, family = compact_model(ta, granularity), family_of(ta.config.model_type)
    ((key, widths),) = granularity.by_layer.items()
    (axis,) = (axis for axis in family.axes if axis.by_layer)
    setattr(student.config, f"{key}s", list(widths))
    student.config.auto_map = {objective.model_class: f"{_MODULE}.{_CLASS}"}
    save_model(student, tokenizer, folder)
    source = _SOURCE.substitute(
        stock=type(ta).__name__,
        layers=family.layers,
        widths=f"{key}s",
        dimensions={name: dimension for name, (dimension, _) in axis.parameters.items()},
        name=_CLASS,
    )
    (folder / f"{_MODULE}.py").write_text(source)
    found = compare_answers(objective, live_student(ta, granularity).eval(), _load(folder), batch)
    assert found.bitwise_equal, f"{folder} differs from the live student by {found.max_abs_difference}"
    return {
        "bitwise_equal": True,
        "sequences": num_sequences(batch),
        "tokens": objective.num_tokens(batch),
        "weights_sha256": file_digest(folder / "model.safetensors"),
    }


def _load(folder: Path) -> PreTrainedModel:
    """Load a checkpoint by the class that was just written here, without transformers' way for foreign code."""
    name = f"{_MODULE}_{abs(hash(folder))}"
    spec = importlib.util.spec_from_file_location(name, folder / f"{_MODULE}.py")
    assert spec is not None, "of a file that was just written"
    assert spec.loader is not None, "of a .py"
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        sys.dont_write_bytecode, kept = True, sys.dont_write_bytecode  # no __pycache__ in an artifact
        spec.loader.exec_module(module)
        return getattr(module, _CLASS).from_pretrained(folder, use_safetensors=True, trust_remote_code=False).eval()
    finally:
        sys.dont_write_bytecode = kept
        del sys.modules[name]
