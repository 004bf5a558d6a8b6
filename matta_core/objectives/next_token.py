"""The objective of next tokens: cross-entropy with the text, and the distributions of Teacher and TA."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from matta_core.errors import UserError
from matta_core.objectives.closed_form import Target, loss_and_gradient, with_gradient
from matta_core.objectives.divergences import align, cross_entropy, hidden_state_mse
from matta_core.objectives.objective import Answer, Batch, Sums
from matta_core.objectives.packed_scores import COLUMNS, pack, schema, unpack
from matta_core.objectives.plain_head import check_plain_head
from matta_core.objectives.top_k import (
    TeacherTargets,
    check_length,
    check_vocabulary,
    teacher_targets,
    top_k_scores,
)
from matta_core.recipe import BUILT_IN_TASKS, LossConfig, ScoreTeacherConfig
from matta_core.tokens import num_token_ids

_TOKENS_AT_A_TIME = 256
REFERENCE_TOKENS = 16


@dataclass(frozen=True)
class NextTokens:
    """The tokens to predict: labels and mask (tokens,), and the Teacher's scores of each."""

    labels: Tensor
    mask: Tensor
    teacher: TeacherTargets | None

    def __getitem__(self, chunk: slice) -> "NextTokens":
        return NextTokens(self.labels[chunk], self.mask[chunk], None if self.teacher is None else self.teacher[chunk])


@dataclass(frozen=True)
class Lesson:
    """What students learn from the TA: its final hidden states, and its distribution, made when it is needed."""

    answer: Answer
    temperature: float

    @cached_property
    def target(self) -> Target:
        return Target.of_logits(self.answer.outputs, self.temperature)


class NextToken:
    """See `Objective`. A batch has input_ids (sequences, length), and the Teacher's `top_k` columns."""

    model_class = "AutoModelForCausalLM"
    columns: tuple[str, ...] = ("input_ids",)
    teacher_columns: tuple[str, ...] = COLUMNS
    figure = "cross_entropy"
    figure_title = "cross-entropy, nats per token"
    own_terms: Mapping[str, str] = {"cross_entropy": "cross_entropy", "teacher_divergence": "teacher"}
    ta_terms: Mapping[str, str] = {"ta_divergence": "distillation", "hidden_state_mse": "hidden_state"}
    tasks: tuple[str, ...] = BUILT_IN_TASKS

    def num_targets(self, sequences: int, sequence_length: int) -> int:
        return sequences * (sequence_length - 1)

    def num_tokens(self, batch: Batch) -> int:
        return batch["input_ids"].numel()

    def states(self, model: PreTrainedModel, batch: Batch) -> tuple[Tensor, NextTokens]:
        hidden = model.base_model(input_ids=batch["input_ids"], use_cache=False).last_hidden_state
        states, labels, mask = align(hidden, batch["input_ids"])
        return states, NextTokens(labels, mask, teacher_targets(batch, len(labels)))

    def outputs(self, model: PreTrainedModel, states: Tensor) -> Tensor:
        return model.get_output_embeddings()(states).float()

    def lesson(self, ta: Answer, config: LossConfig) -> Lesson:
        return Lesson(ta, config.loss_temperature)

    def loss(
        self,
        own: Answer,
        lesson: Lesson | None,
        targets: NextTokens,
        weights: Mapping[str, float],
        config: LossConfig,
    ) -> tuple[Tensor, Sums]:
        target = lesson.target if lesson is not None and "ta_divergence" in weights else None
        logits = own.outputs
        sums, gradient = loss_and_gradient(
            logits.detach(), targets.labels, targets.mask, weights, config, teacher=targets.teacher, ta=target
        )
        first, *others = (weights[term] * value for term, value in sums.items())
        total = with_gradient(logits, sum(others, first), gradient)
        if lesson is not None and "hidden_state_mse" in weights:
            mse = hidden_state_mse(own.states, lesson.answer.states, targets.mask)
            total, sums["hidden_state_mse"] = total + weights["hidden_state_mse"] * mse, mse.detach()
        return total, sums

    def error(self, own: Answer, targets: NextTokens) -> Tensor:
        return cross_entropy(own.outputs, targets.labels, targets.mask)

    def figures(self, mean: float) -> dict[str, float]:
        return {"cross_entropy": mean, "perplexity": math.exp(min(mean, 700.0))}

    def answers(self, model: PreTrainedModel, batch: Batch) -> Iterator[Tensor]:
        """Logits at every position, piece by piece: all of them at once would take more memory than the models."""
        for sequence in batch["input_ids"].split(1):
            states = model.base_model(input_ids=sequence, use_cache=False).last_hidden_state
            for piece in states.split(_TOKENS_AT_A_TIME, dim=1):
                yield model.get_output_embeddings()(piece)

    def reference(self, model: PreTrainedModel, batch: Batch) -> dict[str, Tensor]:
        """The first REFERENCE_TOKENS of the batch: input_ids (1, n), and their logits (n, vocabulary) float32."""
        prompt = batch["input_ids"][:1, :REFERENCE_TOKENS].contiguous()
        return {"input_ids": prompt, "logits": model(input_ids=prompt).logits[0].float().contiguous()}

    def check_model(self, model: PreTrainedModel, name_or_path: str | Path) -> None:
        check_plain_head(model, name_or_path)

    def check_teacher(
        self,
        model: PreTrainedModel,
        name_or_path: str | Path,
        config: ScoreTeacherConfig,
        tokenizer: PreTrainedTokenizerBase,
        sequence_length: int,
    ) -> None:
        check_vocabulary(model, name_or_path, tokenizer)
        check_length(model, name_or_path, sequence_length)
        check_plain_head(model, name_or_path)
        if config.top_k > (num_ids := num_token_ids(tokenizer)):
            raise UserError(f"score_teacher.top_k must be at most the vocabulary's {num_ids}, got {config.top_k}")

    def scores(self, own: Answer, config: ScoreTeacherConfig, num_ids: int) -> dict[str, Tensor]:
        return top_k_scores(own.outputs, config.top_k, num_ids, config.tail_samples).columns()

    def score_schema(self, config: ScoreTeacherConfig, sequence_length: int) -> pa.Schema:
        return schema(config, sequence_length - 1)

    def pack(self, scores: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
        return pack(scores)

    def unpack(self, columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return unpack(columns)
