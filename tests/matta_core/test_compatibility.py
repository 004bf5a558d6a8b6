"""Checkpoints in the transformers that KServe 0.16 to 0.19 carry (4.53 to 4.57), in an environment of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from support import byte_tokenizer, tiny_model
from transformers import AutoConfig, AutoTokenizer, GemmaTokenizer, LlamaTokenizer

from components.common.served.pointer import read_pointer
from components.common.served.versions import version_name
from components.common.storage.open_storage import open_storage
from components.push.release import push_version
from matta_core.checkpoints import save_model
from matta_core.families import FAMILIES
from matta_core.objectives import OBJECTIVE
from matta_core.pretrained import load_model, load_tokenizer

READER = Path(__file__).with_name("read_checkpoints.py")
TEXTS = [
    "hello world",
    " leading",
    "a  b\n\n c\t",
    "<|endoftext|>mid<|endoftext|>",
    "naïve café 日本",
    "",
    "<one> hello <two>",
]
INPUT_IDS = list(range(60, 76))
_UNREACHABLE = ("NewConnectionError", "Max retries", "Temporary failure in name resolution", "ProxyError", "timed out")

PLAIN = {"rope_type": "default", "rope_theta": 300.0}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 300.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8,
}
YARN = {"rope_type": "yarn", "rope_theta": 300.0, "factor": 2.0, "original_max_position_embeddings": 8}
LINEAR = {"rope_type": "linear", "rope_theta": 300.0, "factor": 4.0}
LOCAL = {"rope_type": "default", "rope_theta": 50.0}
# Rope settings beside each family's own: an older release that does not find them computes other logits.
VARIANTS = {
    "llama": {"theta": PLAIN, "llama3": LLAMA3, "linear": LINEAR},
    "qwen2": {"theta": PLAIN, "yarn": YARN},
    "qwen3": {"theta": PLAIN},
    "phi3": {"theta": PLAIN},
    "gemma3_text": {
        "theta": {"full_attention": PLAIN, "sliding_attention": LOCAL},
        "linear": {"full_attention": LINEAR, "sliding_attention": LOCAL},
    },
}
CHECKPOINTS = [(family, None) for family in FAMILIES] + [
    (family, variant) for family, variants in VARIANTS.items() for variant in variants
]


def pieces():
    """A small vocabulary in the style of Llama 2 and Gemma, and its merges."""
    vocabulary = {token: number for number, token in enumerate(("<pad>", "<eos>", "<bos>", "<unk>", "<s>", "</s>"))}
    vocabulary |= {f"<0x{byte:02X}>": 6 + byte for byte in range(256)}
    for letter in "▁abcdefghijklmnopqrstuvwxyz":
        vocabulary[letter] = len(vocabulary)
    merges = [("h", "e"), ("l", "l"), ("▁", "h")]
    for pair in merges:
        vocabulary["".join(pair)] = len(vocabulary)
    return {"vocab": vocabulary, "merges": merges}


def with_added_tokens():
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"extra_special_tokens": ["<one>", "<two>"]})
    return tokenizer


TOKENIZERS = {
    "added tokens": with_added_tokens,
    "llama": lambda: LlamaTokenizer(**pieces()),
    "llama, begins": lambda: LlamaTokenizer(**pieces(), add_bos_token=True),
    "llama, begins and ends": lambda: LlamaTokenizer(**pieces(), add_bos_token=True, add_eos_token=True),
    "gemma": lambda: GemmaTokenizer(**pieces()),
    "gemma, begins": lambda: GemmaTokenizer(**pieces(), add_bos_token=True),
}


def model_of(family, variant, dtype=torch.float32):
    rope = {"rope_parameters": VARIANTS[family][variant]} if variant else {}
    return tiny_model(family, vocab_size=300, **rope).eval().to(dtype)


@pytest.fixture(scope="session")
def older_python(request, tmp_path_factory):
    """An interpreter with transformers 4.57 and this one's torch. Kept in pytest's cache, made within half a minute."""
    home = request.config.cache.mkdir("transformers-4.57") / f"{sys.version_info.minor}-{torch.__version__}"
    python = home / "bin" / "python"
    if not python.exists():
        made = home.with_name(f"{home.name}.{os.getpid()}")
        subprocess.run([sys.executable, "-m", "venv", made], check=True)
        install = [made / "bin" / "python", "-m", "pip", "install", "-q", "--retries", "1", "transformers==4.57.*"]
        result = subprocess.run(install, capture_output=True, text=True)
        if result.returncode != 0 and any(sign in result.stderr for sign in _UNREACHABLE):
            pytest.skip(f"the package index is out of reach: {result.stderr.strip().splitlines()[-1]}")
        assert result.returncode == 0, result.stderr
        (packages,) = made.glob("lib/python*/site-packages")
        # After its own packages: what it has itself goes before.
        (packages / "shared.pth").write_text(f"{Path(torch.__file__).parents[1]}\n")
        try:
            made.rename(home)
        except OSError:
            assert python.exists(), f"{home} is no environment: delete it"  # another process was faster
    return python


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """A pushed version of each family and variant, one in bfloat16, and a checkpoint with each kind of tokenizer."""
    root = tmp_path_factory.mktemp("older")
    made = {}
    storage = open_storage(str(root / "pushed"))
    for family, variant in CHECKPOINTS:
        source = root / family / str(variant)
        save_model(model_of(family, variant), byte_tokenizer(), source)
        size = f"{family}-{variant or 'own'}".replace("_", "-")
        (root / "reference").write_text("logits")
        pushed = push_version(
            storage,
            size,
            source,
            root / "reference",
            may_replace=lambda served: None,
            try_out=lambda version: None,
            inputs={},
            metadata={},
            decision="d",
        )
        assert read_pointer(storage, size).version == pushed.version
        made[family, variant] = root / "pushed" / version_name(size, pushed.version)
    made["half"] = root / "half"
    save_model(model_of("qwen3", "theta", torch.bfloat16), byte_tokenizer(), made["half"])
    for name, make in TOKENIZERS.items():
        made[name] = root / name.replace(" ", "-").replace(",", "")
        save_model(model_of("gpt2", None), make(), made[name])
    return made


@pytest.fixture(scope="session")
def read_by_older(older_python, folders, tmp_path_factory):
    asked = {"folders": [str(folder) for folder in folders.values()], "texts": TEXTS, "input_ids": INPUT_IDS}
    answer = tmp_path_factory.mktemp("answer") / "found.json"
    result = subprocess.run(
        [older_python, READER, answer],
        input=json.dumps(asked),
        env=os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    found = json.loads(answer.read_text())
    assert found["version"].startswith("4.57.")
    return {name: found["folders"][str(folder)] for name, folder in folders.items()}


@pytest.mark.slow
@pytest.mark.parametrize("checkpoint", [*CHECKPOINTS, "half"], ids=str)
def test_a_pushed_version_gives_the_same_logits_and_text_in_transformers_4_57(checkpoint, folders, read_by_older):
    model, found = load_model(folders[checkpoint], OBJECTIVE.model_class).eval(), read_by_older[checkpoint]
    input_ids = torch.tensor([INPUT_IDS])
    with torch.no_grad():
        logits = model(input_ids).logits[0].float()
        written = model.generate(input_ids[:, :4], max_new_tokens=4, do_sample=False, eos_token_id=None)[0]
    assert found["loading"] == {}
    assert found["dtype"] == str(model.dtype)
    # The same kernels, at most in another order: a wrong rope moves logits by a tenth of the largest and more.
    allowed = 4 * torch.finfo(model.dtype).eps * logits.abs().max().item()
    torch.testing.assert_close(torch.tensor(found["logits"]), logits, rtol=0, atol=allowed)
    assert found["written"] == written.tolist()


@pytest.mark.slow
@pytest.mark.parametrize("checkpoint", [*CHECKPOINTS[:1], *TOKENIZERS], ids=str)
def test_its_tokenizer_gives_the_same_ids_in_transformers_4_57(checkpoint, folders, read_by_older):
    tokenizer, found = AutoTokenizer.from_pretrained(folders[checkpoint]), read_by_older[checkpoint]
    assert found["token_ids"] == [tokenizer(text)["input_ids"] for text in TEXTS]
    assert found["texts"] == [tokenizer.decode(tokenizer(text)["input_ids"]) for text in TEXTS]
    assert found["special"] == sorted(tokenizer.all_special_tokens)


@pytest.mark.parametrize(("family", "variant"), CHECKPOINTS)
def test_our_transformers_reads_the_config_that_it_would_have_without_the_older_spellings(family, variant, tmp_path):
    model = model_of(family, variant)
    save_model(model, byte_tokenizer(), tmp_path / "ours")
    model.save_pretrained(tmp_path / "stock")
    ours, stock = (AutoConfig.from_pretrained(tmp_path / name).to_dict() for name in ("ours", "stock"))
    kept = {"_name_or_path": "", "partial_rotary_factor": None}  # the latter beside rope_parameters, which go before it
    assert ours | kept == stock | kept


@pytest.mark.parametrize("name", TOKENIZERS)
def test_our_transformers_reads_the_tokenizer_that_was_saved(name, tmp_path):
    tokenizer = TOKENIZERS[name]()
    save_model(model_of("gpt2", None), tokenizer, tmp_path / "ours")
    tokenizer.save_pretrained(tmp_path / "stock")
    ours, stock = (AutoTokenizer.from_pretrained(tmp_path / folder) for folder in ("ours", "stock"))
    assert type(ours) is type(stock)
    assert ours.backend_tokenizer.to_str() == stock.backend_tokenizer.to_str()
    assert ours.special_tokens_map == stock.special_tokens_map
    assert ours.all_special_tokens == stock.all_special_tokens
    for read in (ours, stock):
        read.init_kwargs.pop("name_or_path")  # the folder
    assert ours.init_kwargs == stock.init_kwargs


def test_a_checkpoint_that_was_loaded_is_saved_with_the_same_files(tmp_path):
    """A version is named by its files: going through our hands once more must not rename it."""
    save_model(model_of("llama", "llama3"), with_added_tokens(), tmp_path / "first")
    save_model(
        load_model(tmp_path / "first", OBJECTIVE.model_class), load_tokenizer(tmp_path / "first"), tmp_path / "again"
    )
    for file in ("config.json", "tokenizer_config.json", "tokenizer.json", "model.safetensors"):
        assert (tmp_path / "again" / file).read_bytes() == (tmp_path / "first" / file).read_bytes(), file


def test_the_older_name_is_this_releases_own():
    assert transformers.PreTrainedTokenizerFast is transformers.TokenizersBackend
