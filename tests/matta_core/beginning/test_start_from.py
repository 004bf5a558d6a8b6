"""train.start_from: the TA begins with a checkpoint's weights, or says why it cannot."""

import dataclasses
import json
import logging
import shutil
from unittest.mock import Mock

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import TRAINING, byte_tokenizer, make_dataset, tiny_gpt2
from transformers import GenerationConfig

from components.extract_students.step import extract_students
from components.train.step import train
from matta_core.beginning.fit import check_answers
from matta_core.checkpoints import save_model
from matta_core.errors import UserError
from matta_core.objectives import OBJECTIVE
from matta_core.pretrained import load_model
from matta_core.recipe import ExtractStudentsConfig, SizeConfig

CONFIG = dataclasses.replace(TRAINING, steps=6, eval_every_steps=3)


def start_from(checkpoint, **changes):
    return dataclasses.replace(CONFIG, start_from=str(checkpoint), **changes)


def evaluations(artifact, size="xl"):
    rows = [json.loads(line) for line in (artifact.path / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row[f"eval/cross_entropy/{size}"] for row in rows if f"eval/cross_entropy/{size}" in row}


@pytest.fixture
def trained(dataset, tmp_path):
    """A MattaCheckpoint that has learnt something."""
    return train(dataclasses.replace(CONFIG, steps=30), dataset.path, None, output=tmp_path / "trained")


@pytest.mark.parametrize("form", ["matta checkpoint", "hugging face folder"])
def test_the_loss_at_step_0_is_that_of_the_checkpoint(dataset, trained, tmp_path, form):
    checkpoint = trained.path if form == "matta checkpoint" else trained.path / "ta"
    again = train(start_from(checkpoint), dataset.path, None, output=tmp_path / "again")
    scratch = train(CONFIG, dataset.path, None, output=tmp_path / "scratch")
    assert evaluations(again)[0] == evaluations(trained)[30]
    assert evaluations(again)[0] < evaluations(scratch)[0] - 1  # and that is not where a new TA begins


@pytest.mark.parametrize("order", ["as_is", "importance"])
def test_a_resumed_run_goes_on_from_its_own_weights_and_not_from_the_checkpoint_again(
    dataset, trained, tmp_path, monkeypatch, order
):
    config = start_from(trained.path, start_order=order)
    whole = train(config, dataset.path, None, output=tmp_path / "whole")
    real, steps = torch.optim.AdamW.step, iter(range(4))

    def dies(self, *arguments, **options):
        if next(steps, None) is None:
            raise KeyboardInterrupt
        return real(self, *arguments, **options)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(torch.optim.AdamW, "step", dies)
        train(config, dataset.path, None, output=tmp_path / "killed")
    resumed = train(config, dataset.path, None, output=tmp_path / "killed")
    ours, theirs = (load_file(run.path / "ta" / "model.safetensors") for run in (resumed, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.slow
def test_a_ta_whose_layers_were_chosen_by_importance_goes_on_with_these(dataset, tmp_path):
    """Its Student lies in them, wherever layers would go by default."""
    deep = {"model": CONFIG.model | {"num_hidden_layers": 4}}
    sizes = {"s": SizeConfig(num_hidden_layers=3), "xl": SizeConfig(intermediate_size=32)}
    chosen = {}
    for seed in range(8):
        stock = tiny_gpt2(vocab_size=257, num_hidden_layers=4, seed=seed)
        stock.save_pretrained(tmp_path / f"stock-{seed}")
        config = start_from(tmp_path / f"stock-{seed}", sizes=sizes, start_order="importance", **deep)
        first = train(config, dataset.path, None, output=tmp_path / f"first-{seed}")
        second = train(
            start_from(first.path, sizes=sizes, **deep), dataset.path, None, output=tmp_path / f"second-{seed}"
        )
        layers, again = (
            json.loads((run.path / "nesting.json").read_text())["sizes"]["s"]["layers"] for run in (first, second)
        )
        assert again == layers
        assert evaluations(second, "s")[0] == evaluations(first, "s")[6]
        chosen[tuple(layers)] = chosen.get(tuple(layers), 0) + 1
        if len(chosen) == 2:
            break
    assert set(chosen) == {(0, 1, 3), (0, 2, 3)}  # else one of the choices was not tried


def test_the_key_follows_the_contents_and_not_the_path(dataset, trained, tmp_path):
    shutil.copytree(trained.path, tmp_path / "copy")
    tiny_gpt2(vocab_size=257, seed=1).save_pretrained(tmp_path / "other")
    runs = [
        train(config, dataset.path, None, output=tmp_path / name)
        for name, config in (
            ("scratch", CONFIG),
            ("one", start_from(trained.path / "ta")),
            ("two", start_from(tmp_path / "copy" / "ta")),
            ("three", start_from(tmp_path / "other")),
        )
    ]
    scratch, one, two, three = (run.key for run in runs)
    assert one == two
    assert len({scratch, one, three}) == 3


def test_weights_in_half_precision_are_trained_in_full(dataset, tmp_path):
    tiny_gpt2(vocab_size=257).to(torch.bfloat16).save_pretrained(tmp_path / "half")
    run = train(start_from(tmp_path / "half"), dataset.path, None, output=tmp_path / "run")
    assert all(tensor.dtype == torch.float32 for tensor in load_file(run.path / "ta" / "model.safetensors").values())


@pytest.mark.parametrize(
    ("checkpoint", "message"),
    [
        ({"intermediate_size": 64}, r"it is larger in intermediate_size \(64, not 32\)\. Set train.start"),
        ({"vocab_size": 300}, r"vocab_size is 300, not 257\. Set train.model's settings to the checkpoint's"),
        ({"max_position_embeddings": 32}, r"wpe.weight is \(32, 16\), not .*; max_position_embeddings is 32, not 16"),
        ({"num_hidden_layers": 3}, r"it is larger in num_hidden_layers \(3, not 2\)"),
        (
            {"num_hidden_layers": 3, "intermediate_size": 8},
            r"larger in num_hidden_layers \(3, not 2\) and smaller in intermediate_size \(8, not 32\)\. A check",
        ),
        (
            {"num_hidden_layers": 1, "intermediate_size": 24},
            r"none of the sizes has its shape\. .* one of train.sizes: \{intermediate_size: 24, num_hidden_layers: 1\}",
        ),
        ({"num_attention_heads": 4}, r"num_attention_heads is 4, not 2"),
        ({"activation_function": "gelu"}, r"activation_function is 'gelu', not 'gelu_new'"),
    ],
)
def test_a_checkpoint_of_another_shape_is_refused_by_name(dataset, tmp_path, checkpoint, message):
    tiny_gpt2(**{"vocab_size": 257} | checkpoint).save_pretrained(tmp_path / "other")
    with pytest.raises(UserError, match=rf"train.start_from = '.*other' does not fit the TA: .*{message}"):
        train(start_from(tmp_path / "other"), dataset.path, None, output=tmp_path / "run")


@pytest.mark.parametrize("ours", ["gelu_pytorch_tanh", "gelu_new"])
def test_another_name_of_the_activation_function_is_told_with_its_rounding(dataset, trained, tmp_path, caplog, ours):
    caplog.set_level(logging.INFO)
    config = start_from(trained.path, model=CONFIG.model | {"activation_function": ours})
    run = train(config, dataset.path, None, output=tmp_path / "run")
    assert evaluations(run)[0] == pytest.approx(evaluations(trained)[30], rel=1e-6)
    assert load_model(run.path / "ta", OBJECTIVE.model_class).config.activation_function == ours
    assert ("has activation_function 'gelu_new', trained as" in caplog.text) == (ours != "gelu_new")


def test_answers_that_differ_by_more_than_rounding_are_refused():
    start, ta = tiny_gpt2(), tiny_gpt2(activation_function="gelu")
    with pytest.raises(UserError, match=r"activation_function 'gelu' in place of 'gelu_new' its answers differ by"):
        check_answers(start, ta, "it")


def test_a_checkpoint_with_another_tokenizer_is_refused(trained, tmp_path):
    other = make_dataset(tmp_path / "other")
    tokenizer = byte_tokenizer()
    text = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary = text["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (trained.path / "ta" / "tokenizer.json").write_text(json.dumps(text))
    with pytest.raises(UserError, match=r"its tokenizer is not the dataset's \(set prepare_data.tokenizer"):
        train(start_from(trained.path / "ta"), other.path, None, output=tmp_path / "run")


def test_a_missing_checkpoint_an_altered_one_and_a_url_are_told(dataset, trained, tmp_path):
    with pytest.raises(UserError, match=r"cannot load a model from .*/nowhere"):
        train(start_from(tmp_path / "nowhere"), dataset.path, None, output=tmp_path / "run")
    (trained.path / "nesting.json").write_text("{}")
    with pytest.raises(UserError, match=r"nesting.json .*manifest"):
        train(start_from(trained.path), dataset.path, None, output=tmp_path / "run")
    with pytest.raises(ValueError, match=r"start_from must be a folder or a name on the hub, got 'gs://"):
        start_from("gs://bucket/xl")


CHAT = {"eos_token_id": [0, 7], "do_sample": True, "temperature": 0.6, "top_p": 0.9, "repetition_penalty": 1.1}


@pytest.fixture
def chat(tmp_path):
    """A checkpoint with two end tokens, and its own way to sample."""
    model = tiny_gpt2(vocab_size=257, eos_token_id=[0, 7])
    model.generation_config = GenerationConfig(bos_token_id=0, **CHAT)
    save_model(model, byte_tokenizer(), tmp_path / "chat")
    return tmp_path / "chat"


def saved_settings(folder):
    generation, model = (json.loads((folder / name).read_text()) for name in ("generation_config.json", "config.json"))
    return generation, model["eos_token_id"]


@pytest.mark.parametrize("form", ["straight on", "resumed", "from its TA again"])
def test_end_tokens_and_sampling_settings_go_on_to_the_students(dataset, chat, tmp_path, monkeypatch, form):
    run = tmp_path / "run"
    if form == "resumed":
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr("matta_core.train.save_model", Mock(side_effect=KeyboardInterrupt))
            train(start_from(chat), dataset.path, None, output=run)
    artifact = train(start_from(chat), dataset.path, None, output=run)
    if form == "from its TA again":
        artifact = train(start_from(artifact.path), dataset.path, None, output=tmp_path / "again")
    students = extract_students(ExtractStudentsConfig(), artifact.path, dataset.path, output=tmp_path / "students")
    for folder in (artifact.path / "ta", students.path / "s", students.path / "xl"):
        generation, eos = saved_settings(folder)
        assert CHAT.items() <= generation.items()
        assert eos == [0, 7]
        model = load_model(folder, OBJECTIVE.model_class)
        assert model.generation_config.eos_token_id == [0, 7]


def test_what_the_recipe_says_of_a_token_goes_before_the_checkpoint(dataset, chat, tmp_path):
    config = start_from(chat, model=CONFIG.model | {"eos_token_id": 9})
    generation, eos = saved_settings(train(config, dataset.path, None, output=tmp_path / "run").path / "ta")
    assert (generation["eos_token_id"], eos) == (9, 9)
    assert generation["temperature"] == 0.6


def test_without_a_generation_config_the_end_token_is_its_configs(dataset, chat, tmp_path):
    (chat / "generation_config.json").unlink()
    generation, eos = saved_settings(train(start_from(chat), dataset.path, None, output=tmp_path / "run").path / "ta")
    assert (generation["eos_token_id"], eos) == ([0, 7], [0, 7])
    assert "temperature" not in generation


def test_a_damaged_generation_config_is_told(dataset, chat, tmp_path):
    (chat / "generation_config.json").write_text("{")
    with pytest.raises(UserError, match=r"cannot load generation_config.json from .*chat: .*Mend that file, or"):
        train(start_from(chat), dataset.path, None, output=tmp_path / "run")


def test_weights_that_are_no_numbers_and_half_a_checkpoint_are_refused(dataset, chat, tmp_path):
    file = chat / "model.safetensors"
    tensors = load_file(file)
    tensors["transformer.wpe.weight"][0, 0] = float("nan")
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(UserError, match=r"chat' holds NaN or infinity in transformer.wpe.weight: it was damaged"):
        train(start_from(chat), dataset.path, None, output=tmp_path / "run")
    save_file({f"_orig_mod.{name}": tensor for name, tensor in tensors.items()}, file, {"format": "pt"})
    with pytest.raises(UserError, match=r"'_orig_mod.' in their names is of torch.compile"):
        train(start_from(chat), dataset.path, None, output=tmp_path / "again")
