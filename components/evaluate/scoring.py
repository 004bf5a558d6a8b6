"""Puts every question to one model. Needs torch and lm-eval."""

import contextlib
import io
import logging
import math
from collections.abc import Iterator, Sequence
from typing import Any

import datasets
import transformers
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import resolve_max_length
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from components.evaluate.catalogue import FEWSHOT_SEED, EvaluationTask
from components.evaluate.figures import summarise
from components.evaluate.questions import EvaluationSet
from matta_core.errors import UserError
from matta_core.tokens import before_a_document


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence lm-eval, transformers and datasets, which draw a bar for every batch and file. Ours stays."""
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    with contextlib.redirect_stderr(io.StringIO()):
        yield


def context_length(config: PreTrainedConfig) -> int:
    """How many tokens a model sees at once."""
    return resolve_max_length(config)


class _LanguageModel(HFLM):
    """lm-eval's model with BOS as in training. It takes questions that were cut by another tokenizer than its own."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch_size: int) -> None:
        super().__init__(
            pretrained=model,
            tokenizer=tokenizer,
            backend="causal",
            max_length=context_length(model.config),
            batch_size=batch_size,
            add_bos_token=True,  # encode with whatever the tokenizer puts before a text
            prefix_token_id=before_a_document(tokenizer),
        )

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, left_truncate_len: int | None = None, **_: Any
    ) -> list[int]:
        """Encode as the tokenizer does. lm-eval's own method drops the BOS where a text begins with its letters."""
        add = self.add_bos_token if add_special_tokens is None else add_special_tokens
        return self.tokenizer.encode(string, add_special_tokens=add)[-(left_truncate_len or 0) :]

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """Score texts without their BOS. lm-eval adds one itself, so the tokenizer must not."""
        self.add_bos_token = False
        try:
            return super().loglikelihood_rolling(requests, disable_tqdm)
        finally:
            self.add_bos_token = True

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Encode context and continuation. If the model's tokens merge over the cut, the whole has no more tokens than
        the context, and lm-eval would score nothing: then the continuation is tokenized by itself."""
        context_ids, continuation_ids = super()._encode_pair(context, continuation)
        if not continuation_ids:
            context_ids, continuation_ids = (
                self.tok_encode(context),
                self.tok_encode(continuation, add_special_tokens=False),
            )
        return context_ids, continuation_ids


@quiet()
def score(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, evaluation_set: EvaluationSet, batch_size: int
) -> list[float | None]:
    """Put every question to one model, by one call of lm-eval. A value is None where a number was not finite.

    If any log-likelihood is not finite, the texts that the model wrote have no value either: what a broken model writes
    is no answer.
    """
    language_model = _LanguageModel(model, tokenizer, _batch_size(model, batch_size))
    for task in evaluation_set.tasks:
        task.task.set_fewshot_seed(FEWSHOT_SEED)
    # No bootstrap: our standard errors have closed forms and account for questions that share a document.
    outcome = evaluate(
        language_model,
        {"tasks": {task.name: task.task for task in evaluation_set.tasks}},
        samples=dict(evaluation_set.samples),
        bootstrap_iters=0,
    )
    evaluation_set.check_same()
    samples = {task.name: _samples(outcome["samples"][task.name]) for task in evaluation_set.tasks}
    broken = not all(_finite(sample["filtered_resps"]) for rows in samples.values() for sample in rows)
    values: list[float | None] = []
    for task in evaluation_set.tasks:
        for sample in samples[task.name]:
            if not _finite(sample["filtered_resps"]) or (broken and task.new_tokens):
                values.append(None)
            else:
                values.append(_value(task, sample))
    _check_against_lm_eval(evaluation_set, values, samples, outcome["results"])
    return values


def _batch_size(model: PreTrainedModel, wanted: int) -> int:
    """The wanted batch, or less where the logits of a pass, in fp32, would exceed 1 GiB (8 GiB on a GPU)."""
    room = 2**33 if model.device.type == "cuda" else 2**30
    return max(1, min(wanted, room // (4 * context_length(model.config) * model.config.vocab_size)))


def _samples(samples: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The samples in order. If a task reads answers in several ways (lm-eval's filters), those of the first."""
    first = samples[0]["filter"]
    return sorted((sample for sample in samples if sample["filter"] == first), key=lambda sample: sample["doc_id"])


def _value(task: EvaluationTask, sample: dict[str, Any]) -> float | None:
    if task.metric not in sample:
        raise UserError(
            f"evaluate.tasks.{task.name} gives no {task.metric} per question, only {', '.join(sample['metrics'])}: "
            f"set its metric to one of those"
        )
    value = sample[task.metric]
    if task.metric == "bits_per_byte":
        log_likelihood, num_bytes = value
        value = -log_likelihood / math.log(2) / num_bytes
    return float(value) if math.isfinite(value) else None


def _finite(responses: Any) -> bool:
    """Whether all numbers in a model's responses are finite. These are likelihoods, (likelihood, greedy) or texts."""
    if isinstance(responses, list | tuple):
        return all(_finite(response) for response in responses)
    return not isinstance(responses, float) or math.isfinite(responses)


def _check_against_lm_eval(
    evaluation_set: EvaluationSet,
    values: Sequence[float | None],
    samples: dict[str, list[dict[str, Any]]],
    results: dict[str, Any],
) -> None:
    """Check that our figures are lm-eval's own. Only the standard errors differ."""
    figures = summarise(evaluation_set.questions, values)
    for task in evaluation_set.tasks:
        ours = figures[task.name]["value"]
        theirs = results[task.name][f"{task.metric},{samples[task.name][0]['filter']}"]
        assert ours is None or math.isclose(ours, theirs, rel_tol=1e-9), (task.name, ours, theirs)
