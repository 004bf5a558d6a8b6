"""The training loss: what a model is compared with, by which divergence, and the weight of each term over time."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from matta_core.errors import UserError
from matta_core.recipe.settings import Section, setting


@dataclass(frozen=True)
class Schedule(Section):
    """A weight over the optimizer steps: `start` until `first_step`, `end` from `first_step` + `num_steps` on.

    In a recipe a plain number is a constant: `teacher_weight: 0.5`, or
    `distillation_weight: {start: 0.0, end: 0.5, num_steps: 160}`.
    """

    start: float = setting(low=0.0)
    end: float = setting(low=0.0)
    num_steps: int = setting(low=0, unit="optimizer steps", help="from start to end; 0: a jump")
    first_step: int = setting(
        0,
        low=0,
        unit="optimizer steps",
        help="counted from 0: the weight leaves start after it, or is end from it on where num_steps is 0",
    )
    shape: str = setting("linear", choices=("linear", "cosine"), help="cosine: slow at both ends")

    @classmethod
    def constant(cls, value: float) -> Self:
        return cls(start=value, end=value, num_steps=0)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any] | float, where: str = "") -> Self:
        """Parse a number or a mapping. Raises: UserError with the field's path, starting at `where`."""
        if isinstance(values, Mapping):
            return super().from_dict(values, where)
        try:
            value = float(values)  # YAML reads 3e-1, without a dot, as a string
        except (TypeError, ValueError):
            value = math.nan
        if isinstance(values, bool) or not 0.0 <= value < math.inf:
            raise UserError(
                f"{where or 'a weight'} must be a finite number >= 0, or a mapping with start, end and num_steps, "
                f"got {values!r}"
            )
        return cls.constant(value)

    def at(self, step: int) -> float:
        """The value in optimizer step `step`, counted from 0."""
        if step >= self.first_step + self.num_steps:
            return self.end
        progress = max(0, step - self.first_step) / self.num_steps if self.num_steps else 0.0
        if self.shape == "cosine":
            progress = 0.5 * (1.0 - math.cos(math.pi * progress))
        return self.start + (self.end - self.start) * progress

    @property
    def highest(self) -> float:
        """The largest value that a run can reach: both shapes are monotone."""
        return max(self.at(0), self.end)

    def __str__(self) -> str:
        if self.start == self.end:
            return str(self.end)
        return f"{self.start} to {self.end} ({self.shape}, {self.num_steps} steps from step {self.first_step} on)"


_DIVERGENCES = ("forward_kl", "reverse_kl", "jensen_shannon")


def _weight(value: float, help: str) -> Any:  # noqa: A002 - argparse's word
    return setting(Schedule.constant(value), unit="a number >= 0 or a schedule", help=help)


@dataclass(frozen=True)
class LossConfig(Section):
    """The loss of one optimizer step t, of means over the tokens that the TA, and all students s, are trained on:

    L(t) = w(t) mean of [a(t) CE(ta) + b(t) D(teacher, ta)]
         + mean of [a(t) CE(s) + b(t) D(teacher, s) + d(t) T^2 D'(sg(ta) / T, s / T) + h(t) MSE(sg(ta), s)]

    CE is the cross-entropy with the labels. D is `teacher_divergence` over the Teacher's top k and the rest, at
    temperature 1. D' is `ta_divergence` over the whole vocabulary, with both logits divided by T. MSE is the mean
    squared difference of the final hidden states. sg stops the gradient: no student's error moves the TA's answer.

    The divergences compare a target P with the model's Q, in nats per token. forward_kl, KL(P || Q), covers all that
    the target does. reverse_kl, KL(Q || P), keeps to what the target does most. jensen_shannon is beta KL(P || M) + (1
    - beta) KL(Q || M) with M = beta P + (1 - beta) Q, and bounded (Agarwal et al. 2024, "On-policy distillation",
    section 2).
    """

    ta_weight: Schedule = _weight(
        1.0,
        help="w, of the TA's own terms (a schedule: {start: 0.0, end: 1.0, num_steps: 100}, and where wanted "
        "first_step: 50, shape: cosine)",
    )
    cross_entropy_weight: Schedule = _weight(0.5, help="a, of the labels")
    teacher_weight: Schedule = _weight(0.5, help="b, of the Teacher's cached scores")
    distillation_weight: Schedule = _weight(
        0.5, help="d, of the TA's distribution for the students; a ramp from 0 spares them an untrained TA's"
    )
    hidden_state_weight: Schedule = _weight(0.0, help="h, of the TA's final hidden states for the students")
    teacher_divergence: str = setting("forward_kl", choices=_DIVERGENCES, help="D, from the Teacher")
    ta_divergence: str = setting("forward_kl", choices=_DIVERGENCES, help="D', from the TA to the students")
    jensen_shannon_beta: float = setting(
        0.5,
        above=0.0,
        help="and < 1; towards 0 jensen_shannon nears beta x forward_kl, towards 1 (1 - beta) x reverse_kl; where P "
        "and Q nearly agree it is beta (1 - beta) times either, so it wants a larger weight",
    )
    loss_temperature: float = setting(1.0, above=0.0, help="T, of the distillation from TA to students")

    def __post_init__(self) -> None:
        for name in self._weights():
            value = getattr(self, name)
            if not isinstance(value, Schedule):  # a plain number is a constant in Python as in a recipe
                object.__setattr__(self, name, Schedule.from_dict(value, name))
        super().__post_init__()

    def check(self) -> None:
        if self.jensen_shannon_beta >= 1.0:
            raise ValueError(f"jensen_shannon_beta must be > 0 and < 1, got {self.jensen_shannon_beta}")
        if self.cross_entropy_weight.highest + self.teacher_weight.highest <= 0.0:
            raise ValueError(
                f"cross_entropy_weight and teacher_weight must not both stay 0, else the TA learns nothing; got "
                f"{self.cross_entropy_weight} and {self.teacher_weight}"
            )

    def weights_at(self, step: int) -> dict[str, float]:
        """The weights of optimizer step `step`, from 0: ta, cross_entropy, teacher, distillation, hidden_state."""
        return {name.removesuffix("_weight"): getattr(self, name).at(step) for name in self._weights()}

    @classmethod
    def _weights(cls) -> list[str]:
        return [spec.name for spec in dataclasses.fields(cls) if spec.type is Schedule]
