"""Loads what others saved, by name or folder. Nothing else does.

A checkpoint must have all its weights, in safetensors; no code from checkpoints is run.

If torch is installed, transformers imports it; tokenizers and configs load without it.
"""

import contextlib
import errno
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from huggingface_hub import constants
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase
from transformers.utils import GENERATION_CONFIG_NAME, cached_file, find_adapter_config_file
from transformers.utils import logging as transformers_logging

from matta_core import hub
from matta_core.errors import UserError, one_line, some_of

if TYPE_CHECKING:  # torch takes seconds to import, and prepare_data loads only tokenizers
    import torch
    from transformers import GenerationConfig, PreTrainedModel

Model = TypeVar("Model", bound="PreTrainedModel")
_GIVE_A_MODEL = (
    "Give a folder with config.json and model.safetensors, or the name of a checkpoint on the hub (safetensors only)"
)
_GIVE_A_TOKENIZER = "Give a folder with tokenizer.json, or the name of a checkpoint on the hub"
_MERGE = "It is a PEFT adapter, not a whole model: merge it into its base (merge_and_unload), and give what that saves"

# Tensors that older versions saved beside the weights, and that are computed anew today: masks, rotary tables,
# positions.
_LEFTOVERS = re.compile(
    r"(^|\.)(h\.\d+\.attn\.(masked_)?bias|rotary_emb\w*\.(\w*inv_freq|cos_cached|sin_cached)|position_ids)$"
)
_ADAPTER = re.compile(r"(^base_model\.model\.)|\.lora_|\.base_layer\.|\.modules_to_save\.")
# Parts of names, and the wrappers that put them there.
_WRAPPERS = {
    "_orig_mod.": "torch.compile",
    "module.": "DistributedDataParallel or DeepSpeed",
    "_fsdp_wrapped_module.": "FullyShardedDataParallel",
    "_checkpoint_wrapped_module.": "torch's checkpoint_wrapper",
    "_forward_module.": "Lightning",
}


def load_model(name_or_path: str | Path, model_class: str, dtype: "torch.dtype | None" = None) -> "PreTrainedModel":
    """A checkpoint from a folder or the Hugging Face hub, in `dtype` or as it was saved: every weight is the file's.
    `model_class`: see `Objective`.

    Raises: UserError where it cannot be loaded, has no safetensors, is an adapter, or does not have exactly the tensors
    of the architecture that its config.json names.
    """
    import transformers

    name = str(name_or_path)
    transformers_logging.disable_progress_bar()  # a step's own bar shows progress
    with _errors_explained(name, "a model", _GIVE_A_MODEL), _quiet():
        if find_adapter_config_file(name):
            raise UserError(f"cannot load a model from {name}: it holds an adapter_config.json. {_MERGE}")
        loaded: Any = getattr(transformers, model_class).from_pretrained(
            name,
            use_safetensors=True,
            trust_remote_code=False,
            dtype=dtype or "auto",
            ignore_mismatched_sizes=True,  # they are reported below, by name
            output_loading_info=True,
        )
    model, found = loaded
    if problem := _misloaded(model, found):
        raise UserError(f"cannot load a model from {name}: {problem}")
    return model


def moved(model: "Model", to: "torch.device | torch.dtype") -> "Model":
    """The model itself, moved to a device or a dtype. transformers' own `to` hides its types."""
    from torch import nn

    return nn.Module.to(model, to)


def load_config(name_or_path: str | Path) -> PreTrainedConfig:
    """A checkpoint's config, without its weights. Raises: UserError where there is none."""
    with _errors_explained(name_or_path, "a config", _GIVE_A_MODEL):
        return AutoConfig.from_pretrained(str(name_or_path), trust_remote_code=False)


def load_generation_config(name_or_path: str | Path) -> "GenerationConfig":
    """How a checkpoint ends and samples its texts, by its generation_config.json, or else by its config.json.

    Raises: UserError where the file is damaged.
    """
    from transformers import GenerationConfig

    name = str(name_or_path)
    with _errors_explained(name, GENERATION_CONFIG_NAME, "Mend that file, or remove it"):
        if cached_file(name, GENERATION_CONFIG_NAME, _raise_exceptions_for_missing_entries=False) is None:
            return GenerationConfig.from_model_config(load_config(name))
        return GenerationConfig.from_pretrained(name)


def load_tokenizer(name_or_path: str | Path) -> PreTrainedTokenizerBase:
    """A tokenizer from a folder or the hub. Raises: UserError where there is none."""
    with _errors_explained(name_or_path, "a tokenizer", _GIVE_A_TOKENIZER):
        tokenizer = AutoTokenizer.from_pretrained(str(name_or_path), trust_remote_code=False)
        tokenizer.encode("a")  # a tokenizer may load without something it needs, such as its <unk>
    # These record how it was loaded. If they were saved, HF_HUB_OFFLINE would change a model's digest.
    for name in ("is_local", "local_files_only"):
        tokenizer.init_kwargs.pop(name, None)
    return tokenizer


def _misloaded(model: "PreTrainedModel", found: dict[str, Any]) -> str | None:
    """Which tensors the file lacks, has too many, or has in another shape, and the remedy; None if all are right."""
    missing = sorted(found["missing_keys"])
    unexpected = sorted(name for name in found["unexpected_keys"] if not _LEFTOVERS.search(name))
    reshaped = [f"{name} is {tuple(theirs)}, not {tuple(ours)}" for name, theirs, ours in found["mismatched_keys"]]
    parts = [
        f"{len(names)} {what} ({some_of(names)})"
        for names, what in (
            (missing, "missing"),
            (unexpected, "with no place in it"),
            (sorted(reshaped), "of another shape"),
        )
        if names
    ]
    if parts:
        return (
            f"its tensors are not those of the {type(model).__name__} in its config.json: {', '.join(parts)}. "
            f"{_remedy(model, missing, unexpected)}"
        )
    head, table = model.get_output_embeddings(), model.get_input_embeddings()
    if model.config.get_text_config().tie_word_embeddings and head is not None and head.weight is not table.weight:
        return (
            "its config.json ties the output head to the embeddings (tie_word_embeddings), but the file holds two "
            "different tensors: set that to false in its config.json, or save the model again"
        )
    return None


def _remedy(model: "PreTrainedModel", missing: list[str], unexpected: list[str]) -> str:
    if any(_ADAPTER.search(name) for name in unexpected):
        return _MERGE
    for part, wrapper in _WRAPPERS.items():
        if any(name.startswith(part) or f".{part}" in name for name in unexpected):
            return (
                f"{part!r} in their names is of {wrapper}: save the model inside of that wrapper, or take it out of "
                f"the tensors' names"
            )
    prefixes = {name.removesuffix(ours) for name in unexpected for ours in missing if name.endswith(f".{ours}")}
    if len(prefixes) == 1:
        return f"Their names begin with {prefixes.pop()!r}: take it out of the tensors' names"
    head = model.get_output_embeddings()
    of_head = set() if head is None else set(head.parameters())
    if missing and {name for name, parameter in model.named_parameters() if parameter in of_head}.issuperset(missing):
        return (
            "It has no output head: save it with its head, or, where its head is its embeddings, set "
            "tie_word_embeddings to true in its config.json"
        )
    return "Weights and config.json must be of one model, whole: save it again, with both"


@contextlib.contextmanager
def _errors_explained(source: str | Path, what: str, remedy: str) -> Iterator[None]:
    """Turn the libraries' errors into one line: for a damaged file they raise nearly anything. A name on the hub is
    looked up among what was kept where the hub cannot be reached."""
    name = str(source)
    with hub.or_what_was_kept() if _is_on_the_hub(name) else contextlib.nullcontext() as unreachable:
        try:
            yield
        except (UserError, MemoryError):
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise  # the hub's cache failed, not the file
            reason = one_line(error) if str(error) else repr(error)
            if unreachable is not None and isinstance(error, OSError):
                reason = f"nothing of it was kept, and {constants.ENDPOINT} cannot be reached ({one_line(unreachable)})"
            elif what == "a model" and (method := _quantization(name)):
                lacks = isinstance(error, ImportError)
                reason = (
                    f"it is quantized ({method}){', by a library that is not installed' if lacks else ''}: {reason}"
                )
                mend = "Install it" if lacks else "Mend that"
                remedy = f"{mend}, or give the checkpoint without quantization, in bf16"
            raise UserError(f"cannot load {what} from {name}: {reason.rstrip('.')}. {remedy}") from error


def _is_on_the_hub(name: str) -> bool:
    return re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?", name) is not None and not Path(name).exists()


def _quantization(name: str) -> str | None:
    """How a checkpoint is quantized, by its config.json."""
    try:
        settings = AutoConfig.from_pretrained(name, trust_remote_code=False).quantization_config
        return str(settings["quant_method"] if isinstance(settings, dict) else settings.quant_method)
    except Exception:  # no readable config, or not quantized: then the error itself is reported
        return None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence transformers' long report of tensors and its warnings: the ones that matter are errors here."""
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)
