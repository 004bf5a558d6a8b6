"""Makes checkpoints readable for transformers 4.53 to 4.57, which KServe 0.16 to 0.19 carry.

It adds older spellings of the same settings beside those of our transformers, and changes nothing else.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from matta_core.pretrained import load_config

# This release's name for a tokenizer that is only a tokenizer.json, and the name that both releases know.
_BARE, _BARE_BEFORE = "TokenizersBackend", "PreTrainedTokenizerFast"


def write_older_spellings(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Complete the config.json and tokenizer_config.json of a checkpoint that was just saved.

    An older release that does not find its rope settings takes its defaults and silently computes other logits.

    Raises: AssertionError where our transformers would now read another config: a bug of ours.
    """
    if rope := older_rope(config):
        _update(folder / "config.json", rope)
        read = load_config(folder)
        assert read.rope_parameters == config.rope_parameters, f"{folder}: {read.rope_parameters}"
    _update(folder / "tokenizer_config.json", _older_tokenizer(tokenizer, folder))


def older_rope(config: PreTrainedConfig) -> dict[str, Any]:
    """`rope_parameters` spelled as `rope_theta` and `rope_scaling`, and for Gemma 3 also as `rope_local_base_freq`.

    Two things have no older spelling. A scaling of Gemma 3's sliding layers is left out by an older release; Phi-3's
    longrope is refused by it.
    """
    rope: Mapping[str, Any] = getattr(config, "rope_parameters", None) or {}
    local = {}
    if "full_attention" in rope:
        local = {"rope_local_base_freq": rope["sliding_attention"]["rope_theta"]}
        rope = rope["full_attention"]
    if not rope:
        return {}
    part = {"partial_rotary_factor": rope["partial_rotary_factor"]} if rope.get("partial_rotary_factor", 1) != 1 else {}
    scaling = {key: value for key, value in rope.items() if key not in ("rope_theta", *part)}
    scaled = {"rope_scaling": scaling} if scaling.get("rope_type", "default") != "default" else {}
    return {"rope_theta": rope["rope_theta"], **part, **scaled, **local}


def _older_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> dict[str, Any]:
    """Changes to tokenizer_config.json; None takes a key out."""
    changes: dict[str, Any] = {}
    if tokenizer.extra_special_tokens:
        # The older release expects a mapping. This one reads both forms, and knows the tokens from tokenizer.json.
        changes |= {"extra_special_tokens": None, "additional_special_tokens": tokenizer.extra_special_tokens}
    if type(tokenizer).__name__ == _BARE:
        return changes | {"tokenizer_class": _BARE_BEFORE}
    if (folder / "tokenizer.json").exists():
        # The older classes of Llama and Gemma add a BOS unless a setting forbids it. This release follows
        # tokenizer.json and does not write these settings.
        ids = tokenizer("")["input_ids"]
        begins = bool(ids) and ids[0] == tokenizer.bos_token_id
        changes["add_bos_token"] = begins
        changes["add_eos_token"] = len(ids) > begins and ids[-1] == tokenizer.eos_token_id
    return changes


def _update(file: Path, changes: Mapping[str, Any]) -> None:
    """Change a JSON file, in the form in which transformers writes it."""
    content = json.loads(file.read_text(encoding="utf-8"))
    content = {key: value for key, value in (content | changes).items() if value is not None or key not in changes}
    file.write_text(json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
