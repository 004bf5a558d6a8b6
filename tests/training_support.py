"""Settings that several tests of training share."""

import dataclasses

from support import TRAINING

from matta_core.recipe import LossConfig, Schedule

MODEL = TRAINING.model
CONFIG = dataclasses.replace(
    TRAINING,
    sizes={"s": 8, "m": 16, "l": 24, "xl": 32},
    log_every_steps=3,
    loss=LossConfig(distillation_weight=Schedule(start=0.0, end=0.5, num_steps=4)),
)
TEACHER = dataclasses.replace(CONFIG, sizes={"teacher": 64}, student="teacher", loss=LossConfig(teacher_weight=0.0))
