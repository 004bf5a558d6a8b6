"""The recipe: one frozen dataclass per pipeline step, each field with its unit and its bounds beside it.

A recipe comes from a YAML file (`pipelines/recipes/`) or, inside a pipeline, as one JSON string per step.
Unknown keys and bad values raise UserError with the field's full name, the value and the allowed range.
"""

import re
from dataclasses import dataclass, field

from matta_core.recipe.extraction import ExtractStudentsConfig, MixConfig
from matta_core.recipe.judging import BUILT_IN_TASKS, EvaluateConfig, GateConfig, GatePolicy, TaskConfig
from matta_core.recipe.loss import LossConfig, Schedule
from matta_core.recipe.optimizer import OptimizerConfig
from matta_core.recipe.serving import PushConfig, ServingConfig
from matta_core.recipe.settings import Section
from matta_core.recipe.sizes import SizeConfig
from matta_core.recipe.training import (
    PUSHED,
    ConsolidationConfig,
    DrawnConfig,
    PrepareDataConfig,
    RetrainConfig,
    ScoreTeacherConfig,
    TrainConfig,
)

__all__ = [
    "BUILT_IN_TASKS",
    "PUSHED",
    "ConsolidationConfig",
    "DrawnConfig",
    "EvaluateConfig",
    "ExtractStudentsConfig",
    "GateConfig",
    "GatePolicy",
    "LossConfig",
    "MixConfig",
    "OptimizerConfig",
    "PrepareDataConfig",
    "PushConfig",
    "Recipe",
    "RetrainConfig",
    "Schedule",
    "ScoreTeacherConfig",
    "ServingConfig",
    "SizeConfig",
    "TaskConfig",
    "TrainConfig",
]


@dataclass(frozen=True)
class Recipe(Section):
    """All settings of a run. `train_teacher` is left out if the Teacher exists as a checkpoint, `retrain` if
    prepare_data.source names the data."""

    name: str
    train: TrainConfig
    push: PushConfig
    prepare_data: PrepareDataConfig = field(default_factory=PrepareDataConfig)
    train_teacher: TrainConfig | None = None
    score_teacher: ScoreTeacherConfig = field(default_factory=ScoreTeacherConfig)
    extract_students: ExtractStudentsConfig = field(default_factory=ExtractStudentsConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    gate: GateConfig = field(default_factory=GateConfig)
    retrain: RetrainConfig | None = None

    def check(self) -> None:
        if self.retrain is not None and self.prepare_data.source != PrepareDataConfig().source:
            raise ValueError(
                f"prepare_data.source is found by retrain: leave one of the two out, got {self.prepare_data.source!r}"
            )
        if self.retrain is not None and self.prepare_data.tokenizer is None:
            raise ValueError(
                "prepare_data.tokenizer must be set where retrain is: one trained anew on each span would give other "
                "token ids than those of the model that is served, got None"
            )
        # The name becomes part of a pipeline's name and of Kubernetes resources' names.
        if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?", self.name):
            raise ValueError(
                f"name must be letters, digits, - and _, got {self.name!r}: at most 63 of A to Z, a to z, 0 to 9, - "
                "and _, with a letter or a digit at both ends"
            )
        if (self.train_teacher is None) == (self.score_teacher.teacher is None):
            raise ValueError(
                f"score_teacher.teacher must name a checkpoint, or train_teacher must say how to train one, and not "
                f"both; got {self.score_teacher.teacher!r}"
            )
        self._check_tasks()
        sizes, mixes = list(self.train.sizes), list(self.extract_students.mixes)
        for where, names, known in (
            ("gate.per_student must be among train.sizes and extract_students.mixes", self.gate.per_student,
             [*sizes, *mixes]),
            ("extract_students.sizes must be among train.sizes", self.extract_students.sizes or (), sizes),
        ):  # fmt: skip
            for name in names:
                if name not in known:
                    raise ValueError(f"{where}, {', '.join(known)}, got {name!r}")
        for name in mixes:
            if name in sizes:
                raise ValueError(f"extract_students.mixes must have names of their own, got {name!r}, a size")
        self.push.serving.check_sizes([*sizes, *mixes])
        if self.evaluate.last_token_context > self.prepare_data.sequence_length:
            raise ValueError(
                f"evaluate.last_token_context must be <= prepare_data.sequence_length = "
                f"{self.prepare_data.sequence_length}, got {self.evaluate.last_token_context}"
            )

    def _check_tasks(self) -> None:
        """Check now, and not after the training, that the gate asks only for tasks that are evaluated."""
        known = (*BUILT_IN_TASKS, *self.evaluate.tasks)
        asked = {"gate.monotone_task": [self.gate.monotone_task] if self.gate.monotone_tolerance is not None else []}
        policies = {"gate.policy": self.gate.policy}
        policies |= {f"gate.per_student.{name}": policy for name, policy in self.gate.per_student.items()}
        for where, policy in policies.items():
            for setting_name in ("minimum", "maximum", "non_inferior", "improve", "slices"):
                asked[f"{where}.{setting_name}"] = list(getattr(policy, setting_name) or {})
        for where, tasks in asked.items():
            for task in tasks:
                if task not in known:
                    raise ValueError(
                        f"{where} names the task {task!r}, which is not evaluated: add it to evaluate.tasks, or name "
                        f"one of {', '.join(known)}"
                    )
