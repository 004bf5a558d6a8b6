"""After the joint run: which sizes go on alone, and by which settings."""

import dataclasses
from collections.abc import Mapping

from matta_core.nesting.size import Granularity
from matta_core.recipe import DrawnConfig, TrainConfig


def sizes_alone(config: TrainConfig, granularities: Mapping[str, Granularity]) -> list[str]:
    """The sizes that go on alone: those that a stock model holds without padding."""
    wanted = granularities if config.consolidation.sizes is None else config.consolidation.sizes
    return [name for name in wanted if config.consolidation_steps and granularities[name].is_uniform]


def settings_alone(config: TrainConfig, name: str) -> TrainConfig:
    """The settings by which a size goes on alone."""
    settings, steps = config.consolidation, config.consolidation_steps
    return dataclasses.replace(
        config,
        sizes={name: config.sizes[config.ta]},  # only its name is read
        student=name,
        shares="all",
        drawn=DrawnConfig(),
        consolidation=dataclasses.replace(settings, sizes=None),
        steps=steps,
        warmup_steps=min(config.warmup_steps, steps // 10),
        learning_rate=config.learning_rate * settings.learning_rate_fraction,
        final_learning_rate_fraction=config.final_learning_rate_fraction / settings.learning_rate_fraction,
    )
