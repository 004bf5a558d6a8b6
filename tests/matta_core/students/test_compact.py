"""Compact checkpoints: each layer at its own width, loaded by a small class only where the user says so."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from support import byte_tokenizer, granularity, tiny_model

from matta_core.checkpoints import save_model
from matta_core.errors import UserError
from matta_core.families import FAMILIES
from matta_core.nesting.cost import num_parameters
from matta_core.nesting.live import live_student
from matta_core.objectives import OBJECTIVE
from matta_core.pretrained import load_model
from matta_core.students.certify import certify
from matta_core.students.compact import compact_model, export_compact
from matta_core.students.extract import extract_student

INPUT_IDS = torch.arange(32).reshape(2, 16)
BATCH = {"input_ids": INPUT_IDS}
LOAD = """
import json, sys, torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True).eval()
prompt = torch.arange(32).reshape(2, 16)
with torch.no_grad():
    logits = model(prompt).logits
model.generate(prompt[:, :4], max_new_tokens=2, do_sample=False, pad_token_id=0)
save_file({"logits": logits}, sys.argv[2])
print(sum(parameter.numel() for parameter in model.parameters()))
"""


def uneven(model_type, **overrides):
    ta = tiny_model(model_type, vocab_size=257, num_hidden_layers=3, **overrides).eval()
    return ta, granularity(ta, intermediate_sizes=(8, 24, 16))


@pytest.mark.parametrize("model_type", FAMILIES)
@pytest.mark.parametrize("tied", [True, False])
def test_a_compact_model_equals_the_live_student_bit_for_bit(model_type, tied):
    ta, size = uneven(model_type, tie_word_embeddings=tied)
    compact = compact_model(ta, size)
    with torch.no_grad():
        assert torch.equal(compact(INPUT_IDS).logits, live_student(ta, size)(INPUT_IDS).logits)
    assert sum(parameter.numel() for parameter in compact.parameters()) == num_parameters(ta, size)
    before = ta(INPUT_IDS).logits
    with torch.no_grad():
        for parameter in compact.parameters():
            parameter.zero_()
    assert torch.equal(ta(INPUT_IDS).logits, before), "it has its own memory"


@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_compact_checkpoint_is_certified_by_its_own_class_and_refused_without(model_type, tmp_path):
    ta, size = uneven(model_type)
    certificate = export_compact(OBJECTIVE, ta, size, byte_tokenizer(), tmp_path / "compact", BATCH)
    assert certificate["bitwise_equal"]
    assert certificate["tokens"] == 32
    config = json.loads((tmp_path / "compact" / "config.json").read_text())
    assert config["intermediate_sizes"] == [8, 24, 16]
    # Stock code would take a checkpoint of other shapes for one of its own.
    with pytest.raises(UserError, match=r"cannot load a model from .*compact"):
        load_model(tmp_path / "compact", OBJECTIVE.model_class)


def test_padding_that_is_not_zero_is_no_certificate_though_no_logit_shows_it(tmp_path):
    ta, size = uneven("llama")
    student = extract_student(ta, size)
    save_model(student, byte_tokenizer(), tmp_path / "good")
    assert certify(OBJECTIVE, ta, size, tmp_path / "good", BATCH)["padded_equal"]
    with torch.no_grad():
        student.model.layers[0].mlp.up_proj.weight[20, 3] = 1.0  # neuron 20 of 8: its output is multiplied by zero
    save_model(student, byte_tokenizer(), tmp_path / "bad")
    certificate = certify(OBJECTIVE, ta, size, tmp_path / "bad", BATCH)
    assert certificate["max_abs_difference"] <= 1e-5
    assert not certificate["padded_equal"]


@pytest.mark.slow
@pytest.mark.parametrize("model_type", ["gpt2", "gemma3_text"])
def test_a_compact_checkpoint_loads_where_its_user_trusts_its_code(model_type, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    ta, size = uneven(model_type)
    export_compact(OBJECTIVE, ta, size, byte_tokenizer(), tmp_path / "compact", BATCH)
    command = [sys.executable, "-c", LOAD, str(tmp_path / "compact"), str(tmp_path / "logits.safetensors")]
    process = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    assert int(process.stdout) == num_parameters(ta, size)
    with torch.no_grad():
        live = live_student(ta, size)(INPUT_IDS).logits
    assert torch.equal(load_file(tmp_path / "logits.safetensors")["logits"], live)
