"""The learning rate: a warm-up, then a cosine."""

import math

from matta_core.recipe import TrainConfig


def learning_rate(config: TrainConfig, step: int) -> float:
    """The rate of optimizer step `step` (from 0): linear warm-up, then a cosine to its final fraction."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, config.steps - 1 - config.warmup_steps)
    cosine = 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))
    final = config.final_learning_rate_fraction
    return config.learning_rate * (final + (1.0 - final) * cosine)
