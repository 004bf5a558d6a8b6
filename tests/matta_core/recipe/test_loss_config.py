import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.common.command_line import describe
from matta_core.errors import UserError
from matta_core.recipe import LossConfig, Schedule


def parsed(**values):
    return LossConfig.from_dict(values, "train.loss")


def test_a_linear_schedule_goes_from_start_to_end_and_stays():
    ramp = Schedule(start=0.0, end=0.5, num_steps=4)
    assert [ramp.at(step) for step in (0, 1, 2, 3, 4, 5, 1000)] == [0.0, 0.125, 0.25, 0.375, 0.5, 0.5, 0.5]


def test_a_schedule_may_begin_later_and_fall():
    fall = Schedule(start=1.0, end=0.2, num_steps=10, first_step=5)
    assert [fall.at(step) for step in (0, 5, 10, 15, 16)] == pytest.approx([1.0, 1.0, 0.6, 0.2, 0.2])
    assert fall.highest == 1.0


def test_a_cosine_schedule_is_slow_at_both_ends():
    ramp = Schedule(start=0.0, end=1.0, num_steps=4, shape="cosine")
    assert [ramp.at(step) for step in range(5)] == pytest.approx([0.0, 0.1464466, 0.5, 0.8535534, 1.0])


def test_a_schedule_of_no_steps_is_a_jump():
    jump = Schedule(start=0.0, end=1.0, num_steps=0, first_step=3)
    assert [jump.at(step) for step in (0, 2, 3, 4)] == [0.0, 0.0, 1.0, 1.0]
    assert Schedule(start=1.0, end=0.0, num_steps=0).highest == 0.0  # its start is never seen


@given(
    schedule=st.builds(
        Schedule,
        start=st.floats(0, 10),
        end=st.floats(0, 10),
        num_steps=st.integers(0, 50),
        first_step=st.integers(0, 50),
        shape=st.sampled_from(["linear", "cosine"]),
    ),
    step=st.integers(0, 120),
)
def test_a_schedule_stays_between_its_ends_and_never_above_its_highest(schedule, step):
    low, high = sorted((schedule.start, schedule.end))
    slack = 1e-12 * high  # rounding
    assert low - slack <= schedule.at(step) <= min(high, schedule.highest) + slack


def test_a_number_is_a_constant_in_recipes_and_in_python():
    constant = Schedule.constant(0.25)
    assert parsed(teacher_weight=0.25).teacher_weight == constant
    assert parsed(teacher_weight="2.5e-1").teacher_weight == constant  # YAML's word for 2.5e-1 is a string
    assert LossConfig(teacher_weight=0.25).teacher_weight == constant
    assert {constant.at(step) for step in (0, 1, 10**9)} == {0.25}


def test_a_schedule_survives_the_json_that_pipelines_pass():
    config = parsed(distillation_weight={"start": 0, "end": 0.5, "num_steps": 160, "shape": "cosine"}, ta_weight=2)
    assert config.distillation_weight == Schedule(start=0.0, end=0.5, num_steps=160, shape="cosine")
    assert LossConfig.from_json(config.to_json()) == config
    assert json.loads(config.to_json())["ta_weight"]["end"] == 2.0


def test_every_weight_has_a_schedule_and_is_told_by_its_name():
    ramp = Schedule(start=0.0, end=1.0, num_steps=2)
    config = LossConfig(cross_entropy_weight=ramp, hidden_state_weight=0.1)
    assert config.weights_at(1) == {
        "ta": 1.0, "cross_entropy": 0.5, "teacher": 0.5, "distillation": 0.5, "hidden_state": 0.1
    }  # fmt: skip
    assert config.weights_at(2)["cross_entropy"] == 1.0


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (-1, r"train.loss.teacher_weight must be a finite number >= 0, or a mapping with start, end .*, got -1"),
        (float("inf"), r"train.loss.teacher_weight must be a finite number >= 0, .*, got inf"),
        (True, r"train.loss.teacher_weight must be a finite number >= 0, .*, got True"),
        ("much", r"train.loss.teacher_weight must be a finite number >= 0, .*, got 'much'"),
        ([0, 1], r"train.loss.teacher_weight must be a finite number >= 0, .*, got \[0, 1\]"),
        ({"start": 0.0, "end": 1.0}, r"train.loss.teacher_weight.num_steps is required"),
        ({"start": -1, "end": 1, "num_steps": 3}, r"train.loss.teacher_weight.start must be >= 0.0, got -1"),
        ({"start": 0, "end": 1, "num_steps": -3}, r"train.loss.teacher_weight.num_steps must be >= 0 optimizer steps"),
        ({"start": 0, "end": 1, "num_steps": 3, "shape": "sine"}, r"weight.shape must be one of linear, cosine, got"),
        ({"start": 0, "end": 1, "steps": 3}, r"unknown setting train.loss.teacher_weight.steps: known here are start"),
    ],
)
def test_a_weight_that_is_none_is_refused_with_its_path_and_value(value, message):
    with pytest.raises(UserError, match=message):
        parsed(teacher_weight=value)


def test_a_loss_from_which_the_ta_learns_nothing_is_refused():
    with pytest.raises(
        UserError, match=r"train.loss.cross_entropy_weight and teacher_weight must not .*; got 0.0 and 0.0"
    ):
        parsed(cross_entropy_weight=0, teacher_weight=0)
    # One that is handed over reaches it.
    parsed(cross_entropy_weight={"start": 1, "end": 0, "num_steps": 5}, teacher_weight=0)
    parsed(cross_entropy_weight=0, teacher_weight={"start": 0, "end": 1, "num_steps": 5})


@pytest.mark.parametrize("beta", [0, 1, 1.5, -0.1])
def test_a_beta_that_mixes_nothing_is_refused(beta):
    with pytest.raises(UserError, match=rf"train.loss.jensen_shannon_beta must be > 0.*, got {beta}"):
        parsed(jensen_shannon_beta=beta)


def test_a_divergence_without_a_name_here_is_refused():
    with pytest.raises(UserError, match=r"train.loss.ta_divergence must be one of forward_kl, reverse_kl, jensen_sha"):
        parsed(ta_divergence="kl")


def test_the_help_shows_defaults_as_a_recipe_writes_them():
    help_text = describe(LossConfig)
    assert "  cross_entropy_weight (default 0.5, a number >= 0 or a schedule): a, of the labels" in help_text
    ramp = Schedule(start=0.0, end=0.5, num_steps=160)
    assert str(ramp) == "0.0 to 0.5 (linear, 160 steps from step 0 on)"
