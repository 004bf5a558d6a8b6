"""The learning rate: a warm-up, then a cosine."""

import math

from matta_core.recipe import TrainConfig


def learning_rate(config: TrainConfig, step: int) -> float:
    """The rate of optimizer step `step` (from 0): linear warm-up, then a cosine to its final fraction, or to that with
    which sizes go on alone: they bring the rate down, each for itself."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, config.steps - 1 - config.warmup_steps)
    cosine = 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))
    goes_on = config.consolidation_steps > 0
    final = config.consolidation.learning_rate_fraction if goes_on else config.final_learning_rate_fraction
    return config.learning_rate * (final + (1.0 - final) * cosine)
