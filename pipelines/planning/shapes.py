"""The models of a recipe, as shapes without weights. Nothing is downloaded."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from matta_core.checkpoints import build_model
from matta_core.errors import UserError
from matta_core.model_config import build_config
from matta_core.nesting.config import student_config
from matta_core.nesting.cost import flops_per_token, num_parameters, teacher_flops_per_token
from matta_core.nesting.size import Granularity, resolve
from matta_core.objectives import OBJECTIVE
from matta_core.pretrained import load_config
from matta_core.recipe import Recipe, TrainConfig
from pipelines.checks.models import vocabulary_of


@dataclass(frozen=True)
class Family:
    """A TA with its sizes; `students` are stock models of the other sizes' shapes."""

    ta: PreTrainedModel
    granularities: Mapping[str, Granularity]
    students: Mapping[str, PreTrainedModel]

    def forward_flops(self, sequence_length: int) -> dict[str, int]:
        """Of each size, per token."""
        return {name: flops_per_token(self.ta, size, sequence_length) for name, size in self.granularities.items()}

    @property
    def num_parameters(self) -> int:
        return num_parameters(self.ta, list(self.granularities.values())[-1])


@dataclass(frozen=True)
class Teacher:
    """What a Teacher costs. `outputs` is the width of its answers, None where only its size is known."""

    num_parameters: int
    flops_per_token: int
    outputs: int
    bytes_per_weight: int


def family_of_recipe(recipe: Recipe, train: TrainConfig, section: str) -> Family:
    """Raises: UserError where the number of tokens is not known, or the shapes do not fit one another."""
    length = recipe.prepare_data.sequence_length
    config = build_config(train.model, train.sizes[train.ta], None, length)
    config.vocab_size = train.model.get("vocab_size") or vocabulary_of(recipe) or 0
    if not config.vocab_size:
        raise UserError(
            f"{section}.model.vocab_size must be set, for only the tokenizer {recipe.prepare_data.tokenizer} tells how "
            f"many tokens there are, and a plan downloads nothing"
        )
    granularities = resolve(config, train.sizes)
    students = {name: outline(student_config(config, size)) for name, size in granularities.items() if name != train.ta}
    return Family(outline(config), granularities, students)


def teacher_of(recipe: Recipe, own: Family | None, num_parameters: int | None, vocabulary: int) -> Teacher:
    """The recipe's Teacher: `own`, which it trains, one in a folder, or one of a given number of parameters.

    Raises: UserError where nothing tells its shape.
    """
    length = recipe.prepare_data.sequence_length
    if own is not None:
        return _teacher(own.ta, length, torch.float32.itemsize)
    name = recipe.score_teacher.teacher
    assert name is not None, "a recipe trains a Teacher or names one"
    if num_parameters is not None:  # two FLOPs per weight; attention to the context is left out
        return Teacher(num_parameters, 2 * num_parameters, vocabulary, torch.bfloat16.itemsize)
    if not Path(name).is_dir():
        raise UserError(
            f"score_teacher.teacher is {name}, which is not on this disk, and a plan downloads nothing: give "
            f"--teacher-parameters, how many it has"
        )
    config = load_config(name)
    as_saved = getattr(config, "dtype", None) if recipe.score_teacher.precision != "fp32" else None
    return _teacher(outline(config), length, (as_saved or torch.float32).itemsize)


def _teacher(model: PreTrainedModel, sequence_length: int, bytes_per_weight: int) -> Teacher:
    number = sum(parameter.numel() for parameter in model.parameters())
    flops = teacher_flops_per_token(model, sequence_length)
    return Teacher(number, flops, model.config.vocab_size, bytes_per_weight)


def outline(config: PreTrainedConfig) -> PreTrainedModel:
    """A model with names and shapes, and without weights."""
    with torch.device("meta"):
        return build_model(config, 0, OBJECTIVE.model_class)
