"""The FLOPs that are counted from shapes are those that torch counts while a step runs, and those by hand."""

import dataclasses

import pytest
import torch
from support import SEQUENCE_LENGTH, tiny_gpt2
from torch.utils.flop_counter import FlopCounterMode
from training_support import CONFIG

from matta_core.nesting.size import resolve
from matta_core.nesting.slices import cuts
from matta_core.objectives import OBJECTIVE
from matta_core.recipe import DrawnConfig, LossConfig
from matta_core.training.optimizers import make_optimizer
from matta_core.training.step import train_step, training_of

TAUGHT = dataclasses.replace(CONFIG, loss=LossConfig(teacher_weight=0.0), nest_from=0.5)
LAST = TAUGHT.steps - 1


def trained(config):
    """A training of a TA with products that torch counts, and its work."""
    ta = tiny_gpt2(attn_implementation="eager")
    granularities = resolve(ta.config, config.sizes)
    training = training_of(
        config, OBJECTIVE, ta, granularities, make_optimizer(ta, config, cuts(ta, [])), SEQUENCE_LENGTH
    )
    return training, training.work


def counted(training, step):
    batch = {"input_ids": torch.randint(50, (TAUGHT.batch_size, SEQUENCE_LENGTH))}
    with FlopCounterMode(display=False) as counter:
        train_step(training, step, [batch])
    return counter.get_total_flops()


@pytest.mark.parametrize("step", [0, LAST])
@pytest.mark.parametrize("pass_order", ["together", "one_by_one"])
@pytest.mark.parametrize(
    "settings",
    [{}, {"shares": "all"}, {"shares": {"xl": 0.5, "s": 0.5, "m": 0.25, "l": 0.25}}],
    ids=["split", "all", "a TA that does not see all"],
)
def test_the_work_of_a_step_is_what_torch_counts(step, pass_order, settings):
    training, work = trained(dataclasses.replace(TAUGHT, pass_order=pass_order, **settings))
    assert work.of_step(step) == counted(training, step)


def test_checkpointing_computes_each_layer_again_but_for_its_last_product_which_torch_leaves_out():
    config = dataclasses.replace(TAUGHT, activation_checkpointing=True)
    training, work = trained(config)
    last_products = config.batch_size * SEQUENCE_LENGTH * 2 * (2 * 16 * 32)  # of two layers
    assert work.of_step(0) - counted(training, 0) == last_products


def test_the_work_of_a_small_gpt2_by_hand():
    config = dataclasses.replace(TAUGHT, sizes={"xl": 32}, student="xl")
    _, work = trained(config)
    width, layers, vocabulary, tokens = 16, 2, 50, SEQUENCE_LENGTH
    weights = layers * (4 * width * width + 2 * width * 32)  # of attention, and of the FFN
    trunk = 2 * weights + layers * 4 * tokens * width
    head = 2 * width * vocabulary
    forward = config.batch_size * (tokens * trunk + (tokens - 1) * head)
    assert work.of_step(0) == 3 * forward
    assert work.of_steps() == config.steps * 3 * forward
    assert work.of_validations(config.batch_size) == (1 + config.steps // config.eval_every_steps) * forward


def test_a_run_is_the_sum_of_its_steps():
    _, work = trained(CONFIG)
    assert 0 < CONFIG.first_nested_step < CONFIG.steps
    assert work.of_steps() == sum(work.of_step(step) for step in range(CONFIG.steps))


def test_a_draw_counts_as_the_mean_of_its_widths():
    _, drawn = trained(dataclasses.replace(TAUGHT, sizes={"s": 8, "xl": 32}, drawn=DrawnConfig(number=2)))
    assert drawn.trunks["drawn.0"] == drawn.trunks["drawn.1"] == (drawn.trunks["s"] + drawn.trunks["xl"]) // 2
