"""What a step takes: its rows, its rate."""

import dataclasses

import numpy as np
import pytest
from training_support import CONFIG

from matta_core.recipe import ConsolidationConfig
from matta_core.training.data import rows_of_step
from matta_core.training.learning_rate import learning_rate


def test_an_epoch_sees_every_row_once_and_the_next_in_another_order():
    rows = np.concatenate([rows_of_step(24, 8, step, seed=0) for step in range(6)])
    assert sorted(rows[:24]) == sorted(rows[24:]) == list(range(24))
    assert list(rows[:24]) != list(rows[24:])
    assert list(rows_of_step(24, 8, 1, seed=1)) != list(rows[8:16])


def test_the_learning_rate_warms_up_and_ends_at_its_final_fraction():
    alone = ConsolidationConfig(steps_fraction=0.0)
    config = dataclasses.replace(CONFIG, steps=100, warmup_steps=10, learning_rate=1.0, consolidation=alone)
    assert [learning_rate(config, step) for step in (0, 4, 9, 10)] == pytest.approx([0.1, 0.5, 1.0, 1.0])
    assert learning_rate(config, 99) == pytest.approx(0.1)


def test_the_joint_run_leaves_the_last_way_down_to_sizes_alone():
    config = dataclasses.replace(CONFIG, steps=100, warmup_steps=10, learning_rate=1.0)
    assert learning_rate(config, 99) == pytest.approx(0.5)
