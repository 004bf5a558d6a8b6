"""The arms: who is trained, on what, for how long, and what the family costs."""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from matta_core.checkpoints import build_model
from matta_core.model_config import build_config
from matta_core.nesting.cost import flops_per_token
from matta_core.nesting.size import resolve
from matta_core.objectives import OBJECTIVE
from matta_core.recipe import ConsolidationConfig, LossConfig, TrainConfig

_LABELS = LossConfig(cross_entropy_weight=1.0, teacher_weight=0.0, distillation_weight=0.0)
_BACK = 3  # forward and backward, in forward passes

SHAPES: dict[str, dict[str, Any]] = {
    "demo": {},  # the recipe's own
    "wide": {
        "model": {"model_type": "gpt2", "hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 2},
        "sizes": {"s": 128, "m": 384, "l": 768, "xl": 1536},
        "learning_rate": 2.0e-3,
    },
}


ARMS = (
    *("conventional", "teacher_only", "separate_ta", "matformer"),
    *("matta_nested_from_start", "matta_joint_only", "matta_no_teacher", "matta"),
)


@dataclass(frozen=True)
class Costs:
    """FLOPs of a size's forward pass per token, of the head's alone, and how many tokens are scored by the Teacher."""

    forward: Mapping[str, int]
    head: int
    tokens_per_step: int
    scoring: float = 0.0

    def alone(self, config: TrainConfig) -> float:
        """FLOPs of the training of a single size."""
        return float(_BACK * self.forward[config.ta] * self.tokens_per_step * config.steps)

    def joint(self, config: TrainConfig) -> float:
        """FLOPs of a joint run: of the TA, of students from the step on in which they are nested, with the TA's answers
        once more for them, and of each size alone afterwards."""
        shares, students = config.share_of_size(), [name for name in config.sizes if name != config.ta]
        nested = sum(shares[name] * (_BACK * self.forward[name] + self.head) for name in students)
        per_token = config.steps * _BACK * shares[config.ta] * self.forward[config.ta]
        per_token += (config.steps - config.first_nested_step) * nested
        per_token += config.consolidation_steps * _BACK * sum(self.forward.values())
        return float(per_token * self.tokens_per_step)


def costs_of(config: TrainConfig, vocab_size: int, sequence_length: int) -> Costs:
    model_config = build_config(config.model, config.sizes[config.ta], None, sequence_length)
    model_config.vocab_size = vocab_size
    with torch.device("meta"):
        ta = build_model(model_config, 0, OBJECTIVE.model_class)
    sizes = resolve(model_config, config.sizes)
    forward = {name: flops_per_token(ta, size, sequence_length) for name, size in sizes.items()}
    head = 2 * ta.get_output_embeddings().weight.numel()
    return Costs(forward, head, config.batch_size * sequence_length)


@dataclass(frozen=True)
class Run:
    """One training of an arm: a size alone, or a family. `taught` names what its Teacher's scores are of: "teacher",
    "ta" (of the arm's own TA, which is trained first), or None."""

    config: TrainConfig
    taught: str | None


def arms(base: TrainConfig) -> dict[str, list[Run]]:
    """By arm its runs, for the same steps, batches and learning rate."""
    alone = [_alone(base, name) for name in base.sizes]
    labels = [Run(dataclasses.replace(run.config, loss=_LABELS), None) for run in alone]
    plain = {"shares": "sandwich", "nest_from": 0.0, "consolidation": ConsolidationConfig(steps_fraction=0.0)}
    no_teacher = dataclasses.replace(base.loss, cross_entropy_weight=1.0, teacher_weight=0.0)
    return {
        "conventional": labels,
        "teacher_only": alone,
        "separate_ta": [alone[-1], *(Run(run.config, "ta") for run in alone[:-1])],
        "matformer": [Run(dataclasses.replace(base, loss=_LABELS, **plain), None)],
        "matta_nested_from_start": [Run(dataclasses.replace(base, **plain), "teacher")],
        "matta_joint_only": [Run(dataclasses.replace(base, consolidation=plain["consolidation"]), "teacher")],
        "matta_no_teacher": [Run(dataclasses.replace(base, loss=no_teacher), None)],
        "matta": [Run(base, "teacher")],
    }


def at_compute(base: TrainConfig, costs: Costs, share: float) -> Run:
    """MatTA for so many steps that the family costs this share of what training each size alone with the Teacher does,
    scoring counted on both sides."""
    budget = share * (sum(costs.alone(run.config) for run in arms(base)["teacher_only"]) + costs.scoring)
    steps = round(base.steps * (budget - costs.scoring) / costs.joint(base))
    return Run(dataclasses.replace(base, steps=max(steps, base.warmup_steps + 1)), "teacher")


def flops(costs: Costs, runs: list[Run]) -> float:
    """Of a whole family."""
    each = [costs.joint(run.config) if len(run.config.sizes) > 1 else costs.alone(run.config) for run in runs]
    return sum(each) + (costs.scoring if any(run.taught for run in runs) else 0.0)


def with_rates(base: TrainConfig, rates: Mapping[str, float]) -> Iterator[tuple[str, list[Run]]]:
    """The arms, each with its own learning rate where one was found for it."""
    for arm, runs in arms(base).items():
        rate = rates.get(arm, base.learning_rate)
        yield arm, [Run(dataclasses.replace(run.config, learning_rate=rate), run.taught) for run in runs]


def _alone(base: TrainConfig, name: str) -> Run:
    config = dataclasses.replace(base, sizes={name: base.sizes[name]}, student=name, shares="all")
    return Run(config, "teacher")
