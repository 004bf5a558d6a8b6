"""Checks the checkpoints on this disk that a recipe names, by their configs and tokenizers: no weight is read.

Those on the hub, and those that only pods see, are checked by the step that loads them.
"""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from matta_core.errors import UserError, one_line
from matta_core.recipe import Recipe, TrainConfig

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from matta_core.nesting.size import Granularity


def checkpoints_here(recipe: Recipe) -> bool:
    """Whether there is anything to check, for which torch must be imported."""
    starts = [config.start_from for config in (recipe.train, recipe.train_teacher) if config is not None]
    return any(name is not None and Path(name).is_dir() for name in (recipe.score_teacher.teacher, *starts))


def check_teacher(recipe: Recipe) -> None:
    """Raises: UserError where the Teacher's folder holds no checkpoint, or one that cannot score the data's tokens."""
    if (folder := _here(recipe.score_teacher.teacher)) is None:
        return
    from matta_core.objectives.top_k import check_length, check_vocabulary
    from matta_core.pretrained import load_config

    with _of_setting("score_teacher.teacher"):
        _check_holds_one(folder)
        model = _outline(load_config(folder))
        if (tokenizer := _tokenizer_here(recipe)) is not None:
            check_vocabulary(model, folder, tokenizer)
        check_length(model, folder, recipe.prepare_data.sequence_length)


def check_start(
    recipe: Recipe, train: TrainConfig, ta_config: "PreTrainedConfig", granularities: "Mapping[str, Granularity]"
) -> None:
    """Raises: UserError that names train.start_from, where it holds no checkpoint, or one that the TA cannot begin
    with."""
    if (folder := _here(train.start_from)) is None:
        return
    from matta_core.beginning.fit import check_family, check_function
    from matta_core.beginning.grow import place_within
    from matta_core.nesting.size import whole
    from matta_core.pretrained import load_config

    with _of_setting("train.start_from"):
        if (folder / "ta" / "config.json").is_file():  # a MattaCheckpoint
            folder = folder / "ta"
        _check_holds_one(folder)
        theirs, tokenizer = load_config(folder), _tokenizer_here(recipe)
    if tokenizer is None:  # then nobody knows how many tokens there will be
        ta_config.vocab_size = theirs.vocab_size
    check_family(str(folder), theirs, ta_config)
    check_function(_outline(theirs), _outline(ta_config), str(folder), tokenizer)
    inside = [granularities[train.student], *granularities.values()]
    place_within(train, whole(theirs, "start_from"), granularities[train.ta], inside)


def _here(name: str | None) -> Path | None:
    return Path(name) if name is not None and Path(name).is_dir() else None


def _check_holds_one(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        inside = [file.parent for file in sorted(folder.glob("*/config.json"))]
        meant = f"; did you mean {inside[0]}?" if inside else ""
        raise UserError(
            f"{folder} has no config.json: give the folder of a checkpoint, with config.json and model.safetensors, or "
            f"a name on the hub{meant}"
        )


def _tokenizer_here(recipe: Recipe) -> "PreTrainedTokenizerBase | None":
    """The data's tokenizer, where it lies on this disk."""
    from matta_core.pretrained import load_tokenizer

    if (folder := _here(recipe.prepare_data.tokenizer)) is None:
        return None
    with _of_setting("prepare_data.tokenizer"):
        return load_tokenizer(folder)


def _outline(config: "PreTrainedConfig") -> "PreTrainedModel":
    """A model with names and shapes, and without weights."""
    import torch

    from matta_core.checkpoints import build_model
    from matta_core.objectives import OBJECTIVE

    try:
        with torch.device("meta"):
            return build_model(config, 0, OBJECTIVE.model_class)
    except Exception as error:  # of a config that fits no class they raise nearly anything
        raise UserError(f"its config.json makes no {OBJECTIVE.model_class}: {one_line(error)}") from None


@contextlib.contextmanager
def _of_setting(name: str) -> Iterator[None]:
    """Let errors begin with the setting that names the folder."""
    try:
        yield
    except UserError as error:
        told = str(error)
        raise UserError(told if told.startswith("prepare_data.") else f"{name}: {told}") from None
