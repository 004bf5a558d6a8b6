"""What a model learns, and how that is told: all that the training loop, the Teacher and the certificate ask of it."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import pyarrow as pa
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from matta_core.recipe import LossConfig, ScoreTeacherConfig

Batch = Mapping[str, Tensor]  # column -> (sequences, ...): int64 or float32
Sums = dict[str, Tensor]  # term -> unweighted sum over targets, a detached scalar


@dataclass(frozen=True)
class Answer:
    """What a model gives for a chunk of targets: states (targets, hidden), and its head's outputs, made when asked."""

    states: Tensor
    head: Callable[[Tensor], Tensor]

    @cached_property
    def outputs(self) -> Tensor:
        return self.head(self.states)


class Targets(Protocol):
    """What is to be answered, target by target."""

    def __getitem__(self, chunk: slice) -> "Targets": ...


class Objective(Protocol):
    """One objective, without state: a module of this room defines it, and `matta_core.objectives` picks it.

    A batch holds sequences, and a sequence one target or several. The loss is a sum over targets, so that chunks of
    them, micro-batches and ranks add up; the loop divides once, by the number of targets in the whole step. `targets`
    are those that `states` gave, or a chunk of them.
    """

    model_class: str  # the stock class in transformers that builds and loads its models
    columns: tuple[str, ...]  # of the dataset, in a batch
    teacher_columns: tuple[str, ...]  # of the Teacher's scores, in a batch where there are some
    figure: str  # the term of the labels: it is always computed, and validation tells it; less is better
    own_terms: Mapping[str, str]  # term of TA and students -> the weight of LossConfig that it takes
    ta_terms: Mapping[str, str]  # the same of terms that teach students what the TA says
    tasks: tuple[str, ...]  # what evaluation asks without being told

    def num_targets(self, sequences: int, sequence_length: int) -> int:
        """How many targets so many sequences of the dataset have."""

    def states(self, model: PreTrainedModel, batch: Batch) -> tuple[Tensor, Targets]:
        """One forward pass through the trunk: states (targets, hidden) before the head, and the targets beside them."""

    def outputs(self, model: PreTrainedModel, states: Tensor) -> Tensor:
        """The head over some of the states, in float32."""

    def loss(
        self, own: Answer, ta: Answer | None, targets: Any, weights: Mapping[str, float], config: LossConfig
    ) -> tuple[Tensor, Sums]:
        """The weighted sum of a chunk's terms, to go backward from, and each term's own sum.

        Terms are those that `weights` names and that have what they need: the Teacher's scores in `targets`, or `ta`,
        detached.
        """

    def error(self, own: Answer, targets: Any) -> Tensor:
        """The sum of `figure` over a chunk."""

    def figures(self, mean: float) -> dict[str, float]:
        """What validation tells of a mean error, by name: `figure` itself first."""

    def answers(self, model: PreTrainedModel, batch: Batch) -> Iterator[Tensor]:
        """Everything that the model answers to a batch, a piece at a time: the certificate compares it bit by bit."""

    def reference(self, model: PreTrainedModel, batch: Batch) -> dict[str, Tensor]:
        """A question from the batch and the model's answer, for whoever loads the model elsewhere to compare with."""

    def check_model(self, model: PreTrainedModel, name_or_path: Any) -> None:
        """Raises: UserError where the model's answers are not `outputs` of its `states`."""

    def check_teacher(
        self,
        model: PreTrainedModel,
        name_or_path: Any,
        config: ScoreTeacherConfig,
        tokenizer: PreTrainedTokenizerBase,
        sequence_length: int,
    ) -> None:
        """Raises: UserError where the Teacher's scores would mean something else to a student."""

    def score_schema(self, config: ScoreTeacherConfig, sequence_length: int) -> pa.Schema:
        """The Teacher's columns: one list of fixed length per sequence each."""

    def scores(self, own: Answer, config: ScoreTeacherConfig, num_ids: int) -> dict[str, Tensor]:
        """The Teacher's scores of a chunk, by column. `num_ids`: of the dataset's tokenizer."""
