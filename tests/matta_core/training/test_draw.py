"""What a step takes: its sizes, its rows, its rate."""

import dataclasses

import numpy as np
import pytest
from training_support import CONFIG

from matta_core.training.data import rows_of_step
from matta_core.training.draw import sizes_of_step
from matta_core.training.learning_rate import learning_rate


def test_the_sandwich_trains_the_student_always_and_samples_each_other_size():
    seen = [sizes_of_step(CONFIG, step) for step in range(200)]
    assert all(names[0] == "s" and len(names) == 2 and "xl" not in names for names in seen)
    counts = {name: sum(name in names for names in seen) for name in ("m", "l")}
    assert min(counts.values()) > 70  # 100 expected of each, standard deviation 7
    assert seen == [sizes_of_step(CONFIG, step) for step in range(200)]


def test_a_student_in_the_middle_is_trained_in_every_step_and_smaller_sizes_are_sampled():
    config = dataclasses.replace(CONFIG, student="m")
    seen = [sizes_of_step(config, step) for step in range(50)]
    assert all("m" in names for names in seen)
    assert any("s" in names for names in seen)


def test_all_sizes_or_a_fixed_list_train_in_every_step():
    for wanted, expected in (("all", ["s", "m", "l"]), (("m",), ["m"]), (("l", "s"), ["s", "l"]), ((), [])):
        config = dataclasses.replace(CONFIG, sizes_per_step=wanted)
        assert [sizes_of_step(config, step) for step in range(3)] == [expected] * 3


def test_an_epoch_sees_every_row_once_and_the_next_in_another_order():
    rows = np.concatenate([rows_of_step(24, 8, step, seed=0) for step in range(6)])
    assert sorted(rows[:24]) == sorted(rows[24:]) == list(range(24))
    assert list(rows[:24]) != list(rows[24:])
    assert list(rows_of_step(24, 8, 1, seed=1)) != list(rows[8:16])


def test_the_learning_rate_warms_up_and_ends_at_its_final_fraction():
    config = dataclasses.replace(CONFIG, steps=100, warmup_steps=10, learning_rate=1.0)
    assert [learning_rate(config, step) for step in (0, 4, 9, 10)] == pytest.approx([0.1, 0.5, 1.0, 1.0])
    assert learning_rate(config, 99) == pytest.approx(0.1)
