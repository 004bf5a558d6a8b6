"""What is loaded is what was saved, all of it, or it is refused with the names and the remedy."""

import ast
import json
import re
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import byte_tokenizer, tiny_model

import matta_core
from matta_core.checkpoints import save_model
from matta_core.errors import UserError
from matta_core.families import FAMILIES
from matta_core.objectives import OBJECTIVE
from matta_core.pretrained import load_config, load_model, load_tokenizer

ROOT = Path(matta_core.__file__).parent.parent
CASES = ROOT.parent / "shared" / "cases" / "teachers"

families = pytest.mark.parametrize("model_type", FAMILIES)
tied = pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])


@pytest.fixture
def saved(tmp_path):
    """Saves a model of a family, with its tensors changed as told; gives folder and model."""

    def save(model_type, change=lambda tensors: tensors, *, config=None, **settings):
        model = tiny_model(model_type, **settings)
        save_model(model, byte_tokenizer(), tmp_path / "model")
        file = tmp_path / "model" / "model.safetensors"
        save_file(change(load_file(file)), file, {"format": "pt"})
        path = tmp_path / "model" / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | (config or {})))
        return tmp_path / "model", model

    return save


def refusal(folder):
    with pytest.raises(UserError) as caught:
        load_model(folder, OBJECTIVE.model_class)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@families
@tied
def test_a_whole_checkpoint_is_loaded_to_the_last_bit(saved, model_type, tied):
    folder, model = saved(model_type, tie_word_embeddings=tied)
    loaded = load_model(folder, OBJECTIVE.model_class)
    for name, parameter in model.named_parameters():
        assert torch.equal(loaded.get_parameter(name), parameter), name


@families
@tied
def test_what_older_versions_saved_beside_the_weights_is_no_error(saved, model_type, tied):
    def add(tensors):
        of_layer = "transformer.h.0.attn." if model_type == "gpt2" else "model.layers.0.self_attn.rotary_emb."
        names = ("bias", "masked_bias") if model_type == "gpt2" else ("inv_freq", "cos_cached", "sin_cached")
        more = {of_layer + name: torch.ones(2) for name in names}
        table = "transformer.wte.weight" if model_type == "gpt2" else "model.embed_tokens.weight"
        return tensors | more | ({"lm_head.weight": tensors[table].clone()} if tied else {})

    folder, model = saved(model_type, add, tie_word_embeddings=tied)
    loaded = load_model(folder, OBJECTIVE.model_class)
    assert all(torch.equal(loaded.get_parameter(name), p) for name, p in model.named_parameters())


@families
def test_a_checkpoint_of_the_base_model_alone_is_whole_where_the_head_is_tied(saved, model_type):
    prefix = "transformer." if model_type == "gpt2" else "model."
    folder, model = saved(model_type, lambda tensors: {name.removeprefix(prefix): t for name, t in tensors.items()})
    loaded = load_model(folder, OBJECTIVE.model_class)
    assert all(torch.equal(loaded.get_parameter(name), p) for name, p in model.named_parameters())


WRAPPED = {
    "_orig_mod.": r"'_orig_mod.' in their names is of torch.compile: save the model inside",
    "module.": r"'module.' in their names is of DistributedDataParallel",
    "module._orig_mod.": r"'_orig_mod.' in their names is of torch.compile",
    "_fsdp_wrapped_module.": r"is of FullyShardedDataParallel",
    "_forward_module.": r"is of Lightning",
    "base_model.model.": r"It is a PEFT adapter, not a whole model: merge it into its base \(merge_and_unload\)",
    "wrapped.by.me.": r"Their names begin with 'wrapped.by.me.': take it out of the tensors' names",
}


@families
@pytest.mark.parametrize("prefix", WRAPPED)
def test_names_with_a_wrappers_prefix_are_refused_with_the_remedy(saved, model_type, prefix):
    folder, _ = saved(model_type, lambda tensors: {prefix + name: t for name, t in tensors.items()})
    said = refusal(folder)
    assert re.search(r"\d+ missing \(\S+, \S+, \S+ and \d+ more\), \d+ with no place in it \(", said)
    assert prefix in said
    assert re.search(WRAPPED[prefix], said)


@families
def test_a_wrapper_around_each_layer_is_found_in_the_middle_of_the_names(saved, model_type):
    def wrap(tensors):
        return {re.sub(r"\.(\d+)\.", r".\1._checkpoint_wrapped_module.", name): t for name, t in tensors.items()}

    assert "'_checkpoint_wrapped_module.' in their names is of torch's" in refusal(saved(model_type, wrap)[0])


@families
def test_an_untied_model_without_its_head_is_refused(saved, model_type):
    folder, _ = saved(
        model_type,
        lambda tensors: {name: t for name, t in tensors.items() if name != "lm_head.weight"},
        tie_word_embeddings=False,
    )
    assert re.search(r": 1 missing \(lm_head.weight\)\. It has no output head: .* tie_word_embeddings", refusal(folder))


def test_a_model_without_an_output_head_that_lacks_a_tensor_is_refused(saved):
    folder, _ = saved("gpt2", config={"pad_token_id": 0})
    message = r"GPT2ForSequenceClassification .*: 1 missing \(score.weight\)\. Weights and config.json must be of one"
    with pytest.raises(UserError, match=message):
        load_model(folder, model_class="AutoModelForSequenceClassification")


@families
def test_a_head_beside_tied_embeddings_that_differs_from_them_is_refused(saved, model_type):
    folder, _ = saved(model_type, tie_word_embeddings=False, config={"tie_word_embeddings": True})
    assert "ties the output head to the embeddings (tie_word_embeddings), but the file holds two" in refusal(folder)


@families
@pytest.mark.parametrize(("layers", "what"), [(3, r"\d+ missing \(.*\.2\."), (1, r"\d+ with no place in it \(.*\.1\.")])
def test_missing_and_superfluous_layers_are_refused(saved, model_type, layers, what):
    folder, _ = saved(model_type, config={"num_hidden_layers": layers, "n_layer": layers, "layer_types": None})
    assert re.search(rf"{what}.*Weights and config.json must be of one model", refusal(folder))


@families
def test_a_tensor_of_another_shape_is_refused_with_both_shapes(saved, model_type):
    folder, _ = saved(model_type, config={"vocab_size": 60})
    assert re.search(r"1 of another shape \(\S+ is \(50, 16\), not \(60, 16\)\)", refusal(folder))


@families
def test_one_tensor_that_is_missing_is_named(saved, model_type):
    family = FAMILIES[model_type]
    name = f"{family.layers}.1.{family.axes[0].output}.weight"
    folder, _ = saved(model_type, lambda tensors: {key: t for key, t in tensors.items() if key != name})
    assert f": 1 missing ({name}). Weights and config.json" in refusal(folder)


@pytest.mark.parametrize("whole", [True, False], ids=["beside a model", "alone"])
def test_an_adapter_is_refused_whether_or_not_peft_is_installed(saved, whole, monkeypatch):
    """With PEFT, transformers would load its base from the hub, or change the model beside it."""
    folder, _ = saved("llama")
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "some/base", "peft_type": "LORA"}')
    if not whole:
        (folder / "config.json").unlink()
        (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    assert "it holds an adapter_config.json. It is a PEFT adapter" in refusal(folder)


def test_names_of_an_unmerged_adapter_are_refused(saved):
    def add(tensors):
        return tensors | {"model.layers.0.self_attn.q_proj.lora_A.default.weight": torch.ones(2, 16)}

    assert "merge it into its base" in refusal(saved("llama", add)[0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"quant_method": "gptq", "bits": 4}, r"is quantized \(gptq\), by a library that is not installed: .*optimum"),
        ({"quant_method": "awq", "bits": 4}, r"is quantized \(awq\), by a library that is not installed: .*gptqmodel"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, r"\(bitsandbytes\), by a library .*bitsandbytes"),
        (
            {"quant_method": "compressed-tensors", "config_groups": {}},
            r"\(compressed-tensors\), by .*compressed-tensors",
        ),
        ({"quant_method": "gptq"}, r"is quantized \(gptq\): .*'bits'\. Mend that, or give"),
    ],
    ids=lambda value: value.get("quant_method") if isinstance(value, dict) else "",
)
def test_a_quantized_checkpoint_whose_library_is_missing_names_it(saved, settings, message):
    said = refusal(saved("llama", config={"quantization_config": settings})[0])
    assert re.search(message, said)
    assert said.endswith("or give the checkpoint without quantization, in bf16")


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", "{"),
        ("config.json", "[]"),
        ("config.json", '{"model_type": "llama", "hidden_size": "wide"}'),
        ("config.json", '{"model_type": "never_heard_of"}'),
        ("model.safetensors", ""),
        ("model.safetensors", "\0" * 100),
        ("model.safetensors", "truncated"),
    ],
)
def test_a_damaged_file_is_one_line(saved, file, content):
    folder, _ = saved("llama")
    path = folder / file
    path.write_bytes(path.read_bytes()[:-10] if content == "truncated" else content.encode())
    assert refusal(folder).startswith(f"cannot load a model from {folder}: ")


@pytest.mark.parametrize("content", ["{", "[]", '{"version": "1.0", "model": {"type": "None"}}'])
def test_a_damaged_tokenizer_is_one_line(saved, content):
    folder, _ = saved("llama")
    (folder / "tokenizer.json").write_text(content)
    with pytest.raises(UserError, match=r"cannot load a tokenizer from .*Give a folder with tokenizer.json") as caught:
        load_tokenizer(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not CASES.is_dir(), reason="a user's clone has no ../shared")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("orig_mod", r"21 missing .*'_orig_mod.' in their names"),
        ("untied_no_head", r"1 missing \(lm_head.weight\)"),
        ("q_gptq", r"it is quantized \(gptq\)"),
    ],
)
def test_the_cases_that_were_taken_for_teachers_are_refused(name, message):
    assert re.search(message, refusal(CASES / name))
    load_model(CASES / "good", OBJECTIVE.model_class)


@pytest.mark.parametrize("offline", [True, False])
def test_a_saved_tokenizer_does_not_tell_how_it_was_loaded(tmp_path, offline, monkeypatch):
    """Else a model's digest, by which it is pushed, would depend on HF_HUB_OFFLINE."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
    byte_tokenizer().save_pretrained(tmp_path / "made")
    load_tokenizer(tmp_path / "made").save_pretrained(tmp_path / "saved")
    made, saved = (json.loads((tmp_path / name / "tokenizer_config.json").read_text()) for name in ("made", "saved"))
    assert saved == made


def test_code_of_a_checkpoint_is_never_run_nor_asked_about(saved, tmp_path, monkeypatch):
    """Left unset, transformers asks on the terminal, and `yes |` answers."""
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("a question was asked"))
    code = f"import pathlib; pathlib.Path({str(tmp_path / 'ran')!r}).touch()"
    auto_map = {"AutoConfig": "theirs.C", "AutoModelForCausalLM": "theirs.M", "AutoTokenizer": ["theirs.T", None]}
    folder, _ = saved("llama", config={"model_type": "theirs", "auto_map": auto_map})
    (folder / "theirs.py").write_text(code)
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    tokenizer |= {"tokenizer_class": "Theirs", "auto_map": {"AutoTokenizer": ["theirs.T", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    for load in (partial(load_model, model_class=OBJECTIVE.model_class), load_config, load_tokenizer):
        with pytest.raises(UserError):
            load(folder)
    assert not (tmp_path / "ran").exists()


# Files that must do without us, as they show or test that stock transformers is enough.
STOCK = {"matta_core/objectives/next_token_query.py", "matta_core/students/compact.py", "matta_core/pretrained.py"}
LOADS = {"from_pretrained", "from_config"}


def sources():
    return [
        file for top in ("matta_core", "components", "pipelines", "benchmarks") for file in (ROOT / top).rglob("*.py")
    ]


def test_nothing_is_loaded_but_by_one_module_and_never_with_code_of_others():
    found = []
    for file in sources():
        name = str(file.relative_to(ROOT))
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in LOADS:
                if ast.unparse(node.func) == "GenerationConfig.from_pretrained":
                    continue  # plain values: no code belongs to them, and the option does not exist
                trusts = {key.arg: ast.unparse(key.value) for key in node.keywords}.get("trust_remote_code")
                assert trusts == "False", f"{name}:{node.lineno} does not say trust_remote_code=False"
                if node.func.attr == "from_pretrained":
                    found.append(name)
    assert set(found) == STOCK


def test_scripts_that_are_run_as_text_do_not_trust_code_either():
    """What a model card shows to people is theirs to run: it lies in `card.py`."""
    for file in sources():
        if file.name == "card.py":
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            is_text = isinstance(node, ast.Constant) and isinstance(node.value, str)
            if is_text and (file.name, ".from_pretrained" in node.value) == ("paper_size.py", True):
                assert "trust_remote_code=False" in node.value
            elif is_text:
                assert ".from_pretrained(" not in node.value, file
