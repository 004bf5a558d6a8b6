"""How fast a model answers: the prompt (prefill) and then token by token (decode)."""

import statistics
import time
from collections.abc import Mapping

import torch
from transformers import PreTrainedModel

from matta_core.artifacts.kinds.evaluation import Latency

BATCH_SIZES = (1, 8)
# Models take turns while their weights in memory stay below this. Any machine that trained them can spare as much; a
# container does not tell how much more there is.
TURNS_BYTES = 2**30


def latency(
    models: Mapping[str, PreTrainedModel], prompt_tokens: int, new_tokens: int, repeats: int
) -> dict[str, Latency]:
    """The latency of each model: medians over `repeats`.

    Prefill is one pass over `prompt_tokens` random tokens per sequence, up to the logits of the next one. Decode is the
    `new_tokens` passes after it, of one token per sequence, greedy, with the cache of keys and values. An end of text
    does not end it. "tokens_per_second" counts all sequences of a batch.

    The models take turns, so that a slow moment of the machine does not hit one model alone. The first round warms up
    and does not count.
    """
    result: dict[str, Latency] = {name: {"prefill": {}, "decode": {}} for name in models}
    for batch_size in BATCH_SIZES:
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in models}
        for _ in range(1 + repeats):
            for name, model in models.items():
                times[name].append(generate(model, batch_size, prompt_tokens, new_tokens))
        for name, measured in times.items():
            prefill, decode = (statistics.median(seconds) for seconds in zip(*measured[1:], strict=True))
            result[name]["prefill"][str(batch_size)] = {
                "seconds": prefill,
                "tokens_per_second": batch_size * prompt_tokens / prefill,
            }
            result[name]["decode"][str(batch_size)] = {
                "seconds_per_token": decode / new_tokens,
                "tokens_per_second": batch_size * new_tokens / decode,
            }
    return result


@torch.inference_mode()
def generate(model: PreTrainedModel, batch_size: int, prompt_tokens: int, new_tokens: int) -> tuple[float, float]:
    """The seconds of the prefill, and those of all decoding steps after it."""
    generator = torch.Generator().manual_seed(0)
    input_ids = torch.randint(model.config.vocab_size, (batch_size, prompt_tokens), generator=generator)
    input_ids = input_ids.to(model.device)
    started = _now(model.device)
    outputs = model(input_ids, use_cache=True, logits_to_keep=1)
    prefilled = _now(model.device)
    for _ in range(new_tokens):
        token = outputs.logits[:, -1:].argmax(-1)
        outputs = model(token, past_key_values=outputs.past_key_values, use_cache=True, logits_to_keep=1)
    return prefilled - started, _now(model.device) - prefilled


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
