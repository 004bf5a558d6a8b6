"""What training refuses before its first step."""

import dataclasses
import json

import pytest
from support import TRAINING, make_dataset
from training_support import CONFIG, MODEL

from components.train.step import train
from matta_core.errors import UserError


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 25}, r"train.batch_size must be at most the dataset's 24 sequences, got 25"),
        ({"model": MODEL | {"num_attention_heads": 3}}, r"hidden_size must be divisible by num_attention_heads = 3"),
        ({"model": MODEL | {"hiden_size": 3}}, r"unknown setting train.model.hiden_size: gpt2 has no such field"),
        ({"model": MODEL | {"n_embd": 32}}, r"unknown setting train.model.n_embd"),
        (
            {"model": MODEL | {"num_hidden_layers": -1}},
            r"num_hidden_layers must be a whole number >= 1 and <= 1024, got -1",
        ),
        (
            {"model": MODEL | {"hidden_size": "abc"}},
            r"hidden_size must be a whole number >= 1 and <= 2147483647, got 'abc'",
        ),
        ({"model": MODEL | {"activation_function": "foo"}}, r"activation_function must be one of .* got 'foo'"),
        ({"model": MODEL | {"resid_pdrop": 0.1}}, r"resid_pdrop is not set there: .*no dropout"),
        ({"model": MODEL | {"n_inner": 3}}, r"train.model.n_inner is not set there: train.sizes sets the TA's"),
        ({"model": MODEL | {"model_type": "bert"}}, r"'bert' is not a known family: known are gpt2"),
        ({"model": MODEL | {"max_position_embeddings": 8}}, r"at least the dataset's sequence_length = 16, got 8"),
    ],
)
def test_settings_that_do_not_fit_are_refused(dataset, scores, tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        train(dataclasses.replace(CONFIG, **change), dataset.path, scores.path, output=tmp_path / "run")


def test_distillation_without_scores_is_refused(dataset, tmp_path):
    with pytest.raises(UserError, match=r"teacher_weight is 0.5, but no teacher scores are given"):
        train(CONFIG, dataset.path, None, output=tmp_path / "run")


def test_scores_of_another_dataset_are_refused(scores, tmp_path):
    from support import make_dataset

    other = make_dataset(tmp_path / "other", train_rows=32)
    with pytest.raises(UserError, match=r"holds scores of another dataset than .*run score_teacher on this one"):
        train(CONFIG, other.path, scores.path, output=tmp_path / "run")


def test_a_model_has_room_for_the_largest_id_of_a_tokenizer_with_holes(tmp_path):
    dataset = make_dataset(tmp_path / "holed", hole=50)
    trained = train(dataclasses.replace(TRAINING, steps=3), dataset.path, None, output=tmp_path / "run")
    assert json.loads((trained.path / "ta" / "config.json").read_text())["vocab_size"] == 307
    narrow = dataclasses.replace(TRAINING, model=MODEL | {"vocab_size": 257})
    with pytest.raises(
        UserError, match=r"vocab_size must be at least the tokenizer's 307, its largest token id plus one"
    ):
        train(narrow, dataset.path, None, output=tmp_path / "narrow")
