"""The arms: who is trained, on what, for how long, and what the family costs."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from matta_core.checkpoints import build_model
from matta_core.model_config import build_config
from matta_core.nesting.cost import flops_per_token
from matta_core.nesting.size import Granularity, resolve
from matta_core.objectives import OBJECTIVE
from matta_core.recipe import ConsolidationConfig, LossConfig, OptimizerConfig, TrainConfig
from matta_core.training.alone import settings_alone, sizes_alone
from matta_core.training.work import work_of

_LABELS = LossConfig(cross_entropy_weight=1.0, teacher_weight=0.0, distillation_weight=0.0)

SHAPES: dict[str, dict[str, Any]] = {
    "demo": {},  # the recipe's own
    "wide": {
        "model": {"model_type": "gpt2", "hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 2},
        "sizes": {"s": 128, "m": 384, "l": 768, "xl": 1536},
        "learning_rate": 2.0e-3,
    },
}


# The first are those without which nothing is known.
ARMS = (
    *("teacher_only", "matta", "conventional", "matformer", "matta_no_teacher", "separate_ta"),
    *("matta_joint_only", "matta_nested_from_start", "matta_shampoo", "teacher_only_shampoo"),
)


@dataclass(frozen=True)
class Run:
    """One training of an arm: a size alone, or a family. `taught` names what its Teacher's scores are of: "teacher",
    "ta" (of the arm's own TA, which is trained first), or None."""

    config: TrainConfig
    taught: str | None

    @property
    def name(self) -> str:
        """Its size, or "family"."""
        return self.config.ta if len(self.config.sizes) == 1 else "family"

    def changed(self, **settings: Any) -> "Run":
        return Run(dataclasses.replace(self.config, **settings), self.taught)


@dataclass(frozen=True)
class Costs:
    """FLOPs of trainings, as the runs count them themselves, and of scoring `scored_tokens`. `ta` has no weights;
    `teacher` is of the Teacher's forward pass per token."""

    ta: PreTrainedModel
    sizes: Mapping[str, Granularity]
    sequence_length: int
    scored_tokens: int = 0
    teacher: int = 0

    def forward(self, name: str) -> int:
        """Of a size's forward pass per token."""
        return flops_per_token(self.ta, self.sizes[name], self.sequence_length)

    def of_training(self, config: TrainConfig) -> int:
        """Of all steps, of the joint run and of each size alone, without validation."""
        sizes = {name: self.sizes[name] for name in config.sizes}
        alone = [(settings_alone(config, name), {name: sizes[name]}) for name in sizes_alone(config, sizes)]
        return sum(
            work_of(each, OBJECTIVE, self.ta, kept, self.sequence_length, together=True).of_steps()
            for each, kept in [(config, sizes), *alone]
        )

    def of_scoring(self, runs: Sequence[Run]) -> int:
        """Of all scores that an arm's runs learn from, each computed once."""
        taught = {run.taught for run in runs}
        ta = self.forward(list(self.sizes)[-1]) if "ta" in taught else 0
        return self.scored_tokens * (ta + (self.teacher if "teacher" in taught else 0))

    def of_family(self, runs: Sequence[Run]) -> int:
        return sum(self.of_training(run.config) for run in runs) + self.of_scoring(runs)


def costs_of(config: TrainConfig, vocab_size: int, sequence_length: int) -> Costs:
    model_config = build_config(config.model, config.sizes[config.ta], None, sequence_length)
    model_config.vocab_size = vocab_size
    with torch.device("meta"):
        ta = build_model(model_config, 0, OBJECTIVE.model_class)
    return Costs(ta, resolve(model_config, config.sizes), sequence_length)


def arms(base: TrainConfig) -> dict[str, list[Run]]:
    """By arm its runs, for the same steps, batches and learning rate.

    MatTA without nesting, TA and students apart but at the same time, is no arm: `train` has no second model.
    separate_ta is what comes nearest.
    """
    alone = [_alone(base, name) for name in base.sizes]
    plain = {"shares": "sandwich", "nest_from": 0.0, "consolidation": ConsolidationConfig(steps_fraction=0.0)}
    no_teacher = dataclasses.replace(base.loss, cross_entropy_weight=1.0, teacher_weight=0.0)
    shampoo = OptimizerConfig(name="shampoo")
    matta = Run(base, "teacher")
    found = {
        "teacher_only": alone,
        "matta": [matta],
        "conventional": [Run(dataclasses.replace(run.config, loss=_LABELS), None) for run in alone],
        "matformer": [Run(dataclasses.replace(base, loss=_LABELS, **plain), None)],
        "matta_no_teacher": [Run(dataclasses.replace(base, loss=no_teacher), None)],
        "separate_ta": [alone[-1], *(Run(run.config, "ta") for run in alone[:-1])],
        "matta_joint_only": [matta.changed(consolidation=plain["consolidation"])],
        "matta_nested_from_start": [matta.changed(**plain)],
        "matta_shampoo": [matta.changed(optimizer=shampoo)],
        "teacher_only_shampoo": [run.changed(optimizer=shampoo) for run in alone],
    }
    assert tuple(found) == ARMS
    return found


def with_rates(runs: Sequence[Run], rates: Mapping[str, float]) -> list[Run]:
    """The runs of an arm, each with the learning rate that was found for it, if one was."""
    return [run.changed(learning_rate=rates.get(run.name, run.config.learning_rate)) for run in runs]


def at_compute(runs: Sequence[Run], costs: Costs, flops: float) -> list[Run]:
    """The runs of an arm for so many steps, all changed by one factor, that the family costs so many FLOPs."""
    scoring = costs.of_scoring(runs)
    factor = (flops - scoring) / (costs.of_family(runs) - scoring)
    return [run.changed(steps=max(round(factor * run.config.steps), run.config.warmup_steps + 1)) for run in runs]


def _alone(base: TrainConfig, name: str) -> Run:
    config = dataclasses.replace(base, sizes={name: base.sizes[name]}, student=name, shares="all")
    return Run(config, "teacher")
