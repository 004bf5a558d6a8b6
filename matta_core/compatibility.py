"""Checkpoints that transformers 4.53 to 4.57, which KServe 0.16 to 0.19 carry, read as the release here does.

What is written beside our transformers' own words is another spelling of the same. It takes nothing else from it.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from matta_core.pretrained import load_config

# This release's name for a tokenizer that is nothing but its tokenizer.json, and the one that both releases know.
_BARE, _BARE_BEFORE = "TokenizersBackend", "PreTrainedTokenizerFast"


def write_older_spellings(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Complete the config.json and tokenizer_config.json of a checkpoint that was just saved.

    Without its rope settings an older release takes its defaults and computes other logits, silently.

    Raises: AssertionError where our transformers would now read another config: a bug of ours.
    """
    if rope := older_rope(config):
        _update(folder / "config.json", rope)
        read = load_config(folder)
        assert read.rope_parameters == config.rope_parameters, f"{folder}: {read.rope_parameters}"
    _update(folder / "tokenizer_config.json", _older_tokenizer(tokenizer, folder))


def older_rope(config: PreTrainedConfig) -> dict[str, Any]:
    """`rope_parameters` as `rope_theta` and `rope_scaling`, for Gemma 3 also `rope_local_base_freq`.

    A scaling of Gemma 3's sliding layers has no older spelling: there, an older release leaves it out. Nor has Phi-3's
    longrope: an older release refuses it.
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
        # A mapping to the older release. This one reads both, and tells the tokens apart by tokenizer.json alone.
        changes |= {"extra_special_tokens": None, "additional_special_tokens": tokenizer.extra_special_tokens}
    if type(tokenizer).__name__ == _BARE:
        return changes | {"tokenizer_class": _BARE_BEFORE}
    if (folder / "tokenizer.json").exists():
        # The older classes of Llama and Gemma add a begin token unless they are told; this release goes by
        # tokenizer.json, and leaves these out where there is one.
        ids = tokenizer("")["input_ids"]
        begins = bool(ids) and ids[0] == tokenizer.bos_token_id
        changes["add_bos_token"] = begins
        changes["add_eos_token"] = len(ids) > begins and ids[-1] == tokenizer.eos_token_id
    return changes


def _update(file: Path, changes: Mapping[str, Any]) -> None:
    """As transformers writes it."""
    content = json.loads(file.read_text(encoding="utf-8"))
    content = {key: value for key, value in (content | changes).items() if value is not None or key not in changes}
    file.write_text(json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
