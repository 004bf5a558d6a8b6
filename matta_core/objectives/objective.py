"""What a model learns: all that the training loop, the Teacher and the certificate need to know of it."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from matta_core.recipe import LossConfig, ScoreTeacherConfig

Batch = Mapping[str, Tensor]  # column -> (sequences, ...): int64 or float32
Sums = dict[str, Tensor]  # term -> unweighted sum over targets, a detached scalar


def num_sequences(batch: Batch) -> int:
    return len(next(iter(batch.values())))


@dataclass(frozen=True)
class Answer:
    """A model's answer to a chunk of targets: states (targets, hidden), and its head's outputs, made when needed."""

    states: Tensor
    head: Callable[[Tensor], Tensor]

    @cached_property
    def outputs(self) -> Tensor:
        return self.head(self.states)

    def detached(self) -> "Answer":
        """The same answer, which no gradient flows into. Outputs that were made already are not made again."""
        if "outputs" in vars(self):
            outputs = self.outputs.detach()
            return Answer(self.states.detach(), lambda _: outputs)
        return Answer(self.states.detach(), self.head)


class Targets(Protocol):
    """The targets that a model must answer."""

    def __getitem__(self, chunk: slice) -> "Targets": ...


class Objective(Protocol):
    """One objective, without state. A module of this room defines it, and `matta_core.objectives` picks it.

    A batch holds sequences. Each has the same number of targets, one or several, and `states` are in their order.
    The loss is a sum over targets, so that chunks, micro-batches and ranks add up; the loop divides once, by the number
    of targets in the whole step. `targets` are those that `states` returned, or a chunk of them.
    """

    model_class: str  # the stock class in transformers that builds and loads its models
    columns: tuple[str, ...]  # the dataset's columns in a batch
    teacher_columns: tuple[str, ...]  # the columns that files of the Teacher's scores have at least
    figure: str  # the labels' term, always computed and shown by validation; less is better
    figure_title: str  # what it is called in a picture, with its unit
    own_terms: Mapping[str, str]  # a term of TA and students -> its weight in LossConfig
    ta_terms: Mapping[str, str]  # the same for terms by which students learn from the TA
    tasks: tuple[str, ...]  # evaluated even if no recipe names them

    def num_targets(self, sequences: int, sequence_length: int) -> int:
        """How many targets this number of the dataset's sequences has."""

    def num_tokens(self, batch: Batch) -> int:
        """How many tokens, or other units, a batch's trunk goes through."""

    def states(self, model: PreTrainedModel, batch: Batch) -> tuple[Tensor, Targets]:
        """One forward pass through the trunk: states (targets, hidden) before the head, and their targets."""

    def outputs(self, model: PreTrainedModel, states: Tensor) -> Tensor:
        """The head's outputs for some of the states, in float32."""

    def lesson(self, ta: Answer, config: LossConfig) -> Any:
        """What students learn from the TA's answer to a chunk, which is detached. It is made once for all of them."""

    def loss(
        self, own: Answer, lesson: Any, targets: Any, weights: Mapping[str, float], config: LossConfig
    ) -> tuple[Tensor, Sums]:
        """The weighted sum of a chunk's terms, for the backward pass, and each term's own sum.

        The terms are those that `weights` names, if their inputs are there: the Teacher's scores in `targets`, or the
        TA's `lesson`, which the TA itself does not have (None).
        """

    def error(self, own: Answer, targets: Any) -> Tensor:
        """The sum of `figure` over a chunk."""

    def figures(self, mean: float) -> dict[str, float]:
        """What validation shows for a mean error, by name. `figure` itself comes first."""

    def answers(self, model: PreTrainedModel, batch: Batch) -> Iterator[Tensor]:
        """All answers of the model to a batch, piece by piece. The certificate compares them bit by bit."""

    def reference(self, model: PreTrainedModel, batch: Batch) -> dict[str, Tensor]:
        """A question from the batch and the model's answer, to compare with where the model is loaded elsewhere."""

    def check_model(self, model: PreTrainedModel, name_or_path: Any) -> None:
        """Check a model. Raises: UserError where its answers are not the `outputs` of its `states`."""

    def check_teacher(
        self,
        model: PreTrainedModel,
        name_or_path: Any,
        config: ScoreTeacherConfig,
        tokenizer: PreTrainedTokenizerBase,
        sequence_length: int,
    ) -> None:
        """Check a Teacher. Raises: UserError where its scores would mean something else to a student."""

    def scores(self, own: Answer, config: ScoreTeacherConfig, num_ids: int) -> dict[str, Tensor]:
        """The Teacher's scores of a chunk, (targets, ...), by the columns that a batch with them has. `num_ids` is that
        of the dataset's tokenizer."""

    def score_schema(self, config: ScoreTeacherConfig, sequence_length: int) -> pa.Schema:
        """The schema of the scores' files. Each column has one list of fixed length per sequence."""

    def pack(self, scores: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
        """The columns of the schema, from scores."""

    def unpack(self, columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The batch's columns (sequences, ...) from those of the files; columns of the dataset stay as they are."""
