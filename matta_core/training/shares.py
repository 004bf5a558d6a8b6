"""Which sequences of a step train which size."""

from collections.abc import Mapping

import numpy as np

from matta_core.recipe import TrainConfig


def rows_of_sizes(config: TrainConfig, step: int) -> dict[str, np.ndarray]:
    """The sizes that a step trains, and for each its rows: positions in the step's batch, ascending.

    Each size trains on its share of the rows. The students' rows follow one another, around the batch's end to its
    beginning, so that students whose shares add up to 1 divide the batch. All rows move by one from step to step. They
    depend on the step alone: all ranks agree, and a resumed run repeats them. Before `nest_from` the TA is alone.

    Nemotron Elastic and MatMamba give each sample to one size; here the TA sees all that its students see.
    """
    numbers = config.rows_per_size()
    students = {name: n for name, n in numbers.items() if name != config.ta and n and step >= config.first_nested_step}
    starts = dict(zip(students, np.cumsum([0, *students.values()]).tolist(), strict=False)) | {config.ta: 0}
    return {
        name: np.sort((step + starts[name] + np.arange(numbers[name])) % config.batch_size)
        for name in (*students, config.ta)
        if numbers[name]
    }


def rows_in_batch(rows: Mapping[str, np.ndarray], positions: np.ndarray) -> dict[str, list[int]]:
    """For each size its rows in a batch whose sequences have these positions in the step's, ascending."""
    return {name: np.flatnonzero(np.isin(positions, mine)).tolist() for name, mine in rows.items()}
