"""What of a recipe needs transformers to be checked: `python -m pipelines.checks.models`, the recipe as JSON on stdin.

A mistake ends it with status 2 and one line.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from components.common.command_line import run_command
from components.evaluate.definitions import check_tasks
from matta_core.errors import UserError
from matta_core.families.table import TANH_GELUS
from matta_core.recipe import Recipe, TrainConfig
from matta_core.recipe.settings import errors_of_section
from pipelines.checks.checkpoints import check_start, check_teacher, checkpoints_here

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from matta_core.nesting.size import Granularity

# Stands for a vocabulary whose size is not known yet; the shape is only checked, no model is built.
_UNKNOWN = 1


def main() -> None:
    recipe = Recipe.from_json(sys.stdin.read())
    if not needs_torch(recipe):
        sys.modules["torch"] = None  # type: ignore[assignment]  # transformers takes it for not installed
    check_models(recipe)


def needs_torch(recipe: Recipe) -> bool:
    """Whether the check counts parameters, outlines models, or looks a name up among torch's activations."""
    trainings = [config for config in (recipe.train, recipe.train_teacher) if config is not None]
    named = ("_act", "_activation", "activation_function")
    settings = [item for config in trainings for item in config.model.items()]
    activations = any(key.endswith(named) and value != TANH_GELUS[0] for key, value in settings)
    return activations or bool(recipe.extract_students.mixes) or checkpoints_here(recipe)


def check_models(recipe: Recipe) -> None:
    """Raises: UserError as `pipelines.checks.recipe.check` says."""
    vocabulary = vocabulary_of(recipe)
    if recipe.train_teacher is not None:
        with errors_of_section("train_teacher"):
            shape = _shape(recipe.train_teacher, vocabulary, recipe.prepare_data.sequence_length)
            check_start(recipe, recipe.train_teacher, *shape)
    config, granularities = _shape(recipe.train, vocabulary, recipe.prepare_data.sequence_length)
    if vocabulary is not None and recipe.score_teacher.top_k > vocabulary:
        raise UserError(
            f"score_teacher.top_k must be at most the vocabulary's {vocabulary}, got {recipe.score_teacher.top_k}"
        )
    if recipe.extract_students.mixes and config.vocab_size != _UNKNOWN:
        _check_mixes(recipe, config, granularities)
    check_teacher(recipe)
    check_start(recipe, recipe.train, config, granularities)
    check_tasks(recipe.evaluate.tasks, files=False)


def vocabulary_of(recipe: Recipe) -> int | None:
    """How many token ids there will be; None where only the tokenizer on the hub can tell."""
    name = recipe.prepare_data.tokenizer
    if name is None:
        return recipe.prepare_data.vocab_size
    file = Path(name) / "tokenizer.json"
    if not file.is_file():
        return None
    from tokenizers import Tokenizer

    try:
        return max(Tokenizer.from_file(str(file)).get_vocab().values()) + 1
    except Exception:  # the library raises no narrower one; prepare_data, the first step, says what is wrong
        return None


def _shape(
    train: TrainConfig, vocabulary: int | None, sequence_length: int
) -> tuple["PreTrainedConfig", "dict[str, Granularity]"]:
    """The TA's config, and all its sizes."""
    from matta_core.model_config import build_config
    from matta_core.nesting.config import student_config
    from matta_core.nesting.size import resolve

    config = build_config(train.model, train.sizes[train.ta], None, sequence_length)
    if vocabulary is not None:
        if train.model.get("vocab_size", vocabulary) < vocabulary:
            raise UserError(
                f"train.model.vocab_size must be at least the tokenizer's {vocabulary}, got {config.vocab_size}"
            )
        config.vocab_size = train.model.get("vocab_size", vocabulary)
    granularities = resolve(config, train.sizes)
    for granularity in granularities.values():
        student_config(config, granularity)
    return config, granularities


def _check_mixes(recipe: Recipe, config: "PreTrainedConfig", granularities: "dict[str, Granularity]") -> None:
    """Check from shapes alone that budgets can be kept. Extraction itself checks a budget of seconds."""
    import torch

    from matta_core.checkpoints import build_model
    from matta_core.objectives import OBJECTIVE
    from matta_core.students.mix import space_of

    with torch.device("meta"):
        ta = build_model(config, 0, OBJECTIVE.model_class)
        sample = {"input_ids": torch.zeros((1, recipe.prepare_data.sequence_length), dtype=torch.long)}
    for name, mix in recipe.extract_students.mixes.items():
        if mix.budget[0] != "prefill_seconds":
            space_of(OBJECTIVE, ta, granularities, recipe.train.student, name, mix, sample)


if __name__ == "__main__":
    run_command(main)
