"""What needs torch and lm-eval: score a model on the tasks, and time it."""

import contextlib
import io
import logging
import math
import statistics
import time
from collections.abc import Iterator, Mapping
from typing import Any

import datasets
import torch
import transformers
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import resolve_max_length
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from components.evaluate.figures import BITS_PER_BYTE, LAST_TOKEN, Row, summarise

THROUGHPUT_BATCH_SIZE = 8


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """lm-eval, transformers and datasets draw a bar for every batch and file; ours is the one to look at."""
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    with contextlib.redirect_stderr(io.StringIO()):
        yield


def context_length(model: PreTrainedModel) -> int:
    """Tokens that a model sees at once."""
    return resolve_max_length(model.config)


@quiet()
def score(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, tasks: Mapping[str, Any], batch_size: int
) -> list[Row]:
    """Every question of the tasks, put to one model by lm-eval: the rows that `figures` describes."""
    language_model = HFLM(
        pretrained=model,
        tokenizer=tokenizer,
        backend="causal",
        max_length=context_length(model),
        batch_size=batch_size,
    )
    # No bootstrap: our standard errors have closed forms, and know which lines share a document.
    outcome = evaluate(language_model, {"tasks": dict(tasks)}, bootstrap_iters=0)
    rows = []
    for name in sorted(tasks):
        for sample in sorted(outcome["samples"][name], key=lambda sample: sample["doc_id"]):
            (response,) = sample["filtered_resps"]
            log_likelihood, correct = response if name == LAST_TOKEN else (response, None)
            rows.append(
                {
                    "task": name,
                    "doc_id": sample["doc_id"],
                    "document": sample["doc"]["document"],
                    "log_likelihood": log_likelihood if math.isfinite(log_likelihood) else None,
                    "correct": correct,
                    "bytes": len(sample["target"].encode()),
                }
            )
    _check_against_lm_eval(rows, outcome["results"])
    return rows


def tokens_per_second(models: Mapping[str, PreTrainedModel], sequence_length: int, repeats: int) -> dict[str, float]:
    """Median speed of a forward pass over THROUGHPUT_BATCH_SIZE sequences, by model.

    The models take turns, so that a slow moment of the machine is not one model's misfortune; the first round
    warms up and does not count.
    """
    vocab_size = min(model.config.vocab_size for model in models.values())
    input_ids = torch.randint(
        vocab_size, (THROUGHPUT_BATCH_SIZE, sequence_length), generator=torch.Generator().manual_seed(0)
    )
    seconds: dict[str, list[float]] = {name: [] for name in models}
    with torch.inference_mode():
        for _ in range(1 + repeats):
            for name, model in models.items():
                on_device = input_ids.to(model.device)
                _wait_for_accelerator()
                started = time.perf_counter()
                model(on_device, use_cache=False)
                _wait_for_accelerator()
                seconds[name].append(time.perf_counter() - started)
    return {name: input_ids.numel() / statistics.median(times[1:]) for name, times in seconds.items()}


def _check_against_lm_eval(rows: list[Row], results: Mapping[str, Any]) -> None:
    """Ours are lm-eval's own figures; only the standard errors differ."""
    figures = summarise(rows)
    for figure, task, metric in (
        ("bits_per_byte", BITS_PER_BYTE, "bits_per_byte,none"),
        ("accuracy", LAST_TOKEN, "acc,none"),
    ):
        ours, theirs = figures[figure]["value"], results[task][metric]
        assert ours is None or math.isclose(ours, theirs, rel_tol=1e-9), (figure, ours, theirs)


def _wait_for_accelerator() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
