"""Checkpoints on this disk are checked before the first step, and the setting is named."""

import json
import shutil
import subprocess
import sys

import pytest
from support import byte_tokenizer, tiny_model

from components.common.command_line import DEFAULT_RECIPE, load_recipe
from matta_core.errors import UserError
from pipelines.checks.checkpoints import checkpoints_here
from pipelines.checks.models import check_models, needs_torch

SHAPE = {"model_type": "llama", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}
SHAPE |= {
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
    "initializer_range": 0.2,
    "max_position_embeddings": 64,
}


@pytest.fixture
def folder(tmp_path):
    tiny_model("llama", vocab_size=257, max_position_embeddings=64).save_pretrained(tmp_path / "model")
    byte_tokenizer().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def recipe(tokenizer, *overrides, model=SHAPE, sizes="{s: 8, xl: 32}", length=64):
    settings = [f"train.model={json.dumps(model)}", f"train.sizes={sizes}", "gate.per_student={}"]
    data = [
        f"prepare_data.tokenizer={tokenizer}",
        f"prepare_data.sequence_length={length}",
        "evaluate.last_token_context=16",
    ]
    return load_recipe(overrides=[*settings, *data, *overrides])


def of_teacher(folder, tokenizer, *overrides, **changed):
    return recipe(tokenizer, "train_teacher=null", f"score_teacher.teacher={folder}", *overrides, **changed)


def test_what_fits_passes(folder):
    check_models(of_teacher(folder, folder, "score_teacher.top_k=16"))
    check_models(recipe(folder, f"train.start_from={folder}"))
    check_models(recipe("null", f"train.start_from={folder}"))  # how many tokens there will be is not known


def test_a_folder_without_a_config_is_told_with_its_setting(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    for made, setting in (
        (of_teacher(tmp_path / "empty", folder), "score_teacher.teacher"),
        (recipe(folder, f"train.start_from={tmp_path / 'empty'}"), "train.start_from"),
        (recipe(folder, f"train_teacher.start_from={tmp_path / 'empty'}"), "train_teacher.start_from"),
    ):
        with pytest.raises(
            UserError, match=rf"^{setting}: {tmp_path}/empty has no config.json: give the folder of a .*hub$"
        ):
            check_models(made)
    with pytest.raises(UserError, match=rf"^score_teacher.teacher: .*; did you mean {folder}\?$"):
        check_models(of_teacher(tmp_path, folder))


def test_a_teacher_with_another_vocabulary_is_told_with_its_setting(folder, tmp_path):
    byte_tokenizer(hole=3).save_pretrained(tmp_path / "other")
    with pytest.raises(UserError, match=r"^score_teacher.teacher: the vocabulary of teacher .* is not the dataset's"):
        check_models(of_teacher(folder, tmp_path / "other", "score_teacher.top_k=16"))


def test_a_teacher_with_a_short_context_is_told_with_its_setting(folder):
    made = of_teacher(folder, "null", model=SHAPE | {"max_position_embeddings": 128}, length=128)
    with pytest.raises(UserError, match=r"^score_teacher.teacher: teacher .* reads at most 64 tokens"):
        check_models(made)


@pytest.mark.parametrize(
    ("model", "sizes", "told"),
    [
        ({"hidden_size": 32}, "{s: 8, xl: 32}", "hidden_size is 16, not 32"),
        ({"model_type": "qwen3"}, "{s: 8, xl: 32}", "model_type is 'llama', not 'qwen3'"),
        ({}, "{s: 8, xl: 24}", "it is larger in .* Set train.start_order to importance"),
        ({}, "{s: 8, xl: 64}", "it is smaller in .* To grow it into the TA, make it one of train.sizes"),
    ],
)
def test_a_start_of_another_shape_is_told_with_its_setting(folder, model, sizes, told):
    made = recipe(folder, f"train.start_from={folder}", model=SHAPE | model, sizes=sizes)
    with pytest.raises(UserError, match=rf"^train.start_from = '{folder}' does not fit the TA: .*{told}"):
        check_models(made)


def test_a_config_that_makes_no_model_is_told_with_its_setting(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "t5", "architectures": None}))
    with pytest.raises(UserError, match=r"^score_teacher.teacher: its config.json makes no AutoModelForCausalLM: "):
        check_models(of_teacher(folder, folder))


def test_nothing_is_looked_up_for_names_on_the_hub(folder):
    assert not checkpoints_here(of_teacher("owner/name", folder))
    assert not needs_torch(of_teacher("owner/name", folder))
    check_models(of_teacher("owner/name", folder, "score_teacher.top_k=16"))


def test_a_run_tells_it_before_anything_is_written(folder, tmp_path):
    shutil.rmtree(tmp_path / "model")
    (tmp_path / "model").mkdir()
    settings = ["train_teacher=null", "score_teacher.teacher=./model"]
    command = [sys.executable, "-m", "pipelines.matta_pipeline", "run", "--output", "out", "--recipe", DEFAULT_RECIPE]
    command += [text for one in settings for text in ("--set", one)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert done.stderr.startswith("error: score_teacher.teacher: model has no config.json: give the folder")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
