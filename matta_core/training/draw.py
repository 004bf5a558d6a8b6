"""Which sizes a step trains."""

from collections.abc import Collection

import numpy as np

from matta_core.recipe import TrainConfig


def sizes_of_step(config: TrainConfig, step: int) -> list[str]:
    """The sizes trained in a step beside the TA, ascending, as `sizes_per_step` says.

    They depend on seed and step alone, so that all ranks agree and a resumed run repeats them. The sandwich (Yu & Huang
    2019) is our choice: the largest and the base size are in every step, the others are drawn by lot.
    """
    others = [name for name in config.sizes if name not in (config.ta, config.student)]
    if config.sizes_per_step == "sandwich":
        number = min(config.sampled_sizes, len(others))
        lot = np.random.default_rng([config.seed, step])
        wanted: Collection[str] = {config.student, *(lot.choice(others, number, replace=False) if number else ())}
    else:
        wanted = config.sizes if config.sizes_per_step == "all" else config.sizes_per_step
    return [name for name in config.sizes if name in wanted and name != config.ta]
