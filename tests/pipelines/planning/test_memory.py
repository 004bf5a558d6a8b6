"""What a rank holds, in bytes: weights and optimizers to the byte, the rest by its formula."""

import dataclasses

import pytest
from training_support import CONFIG

from matta_core.machines import Machine
from matta_core.nesting.slices import cuts
from matta_core.recipe import OptimizerConfig, Recipe
from matta_core.training.optimizers import make_optimizer
from matta_core.training.state import tensors_of
from pipelines.planning.memory import Memory, memory_of_training, optimizer_bytes
from pipelines.planning.shapes import family_of_recipe

GPU = Machine("gpu", 1e15, 80e9)
RECIPE = Recipe.from_dict(
    {
        "name": "small",
        "prepare_data": {"vocab_size": 300, "sequence_length": 16},
        "evaluate": {"last_token_context": 8},
        "score_teacher": {"teacher": "a/teacher"},
        "train": CONFIG.to_dict(),
        "push": {"target": "pushed"},
    }
)
FAMILY = family_of_recipe(RECIPE, RECIPE.train, "train")
WIDTH, FFN, LAYERS = 16, 32, 2
PER_LAYER = 4 * WIDTH * WIDTH + 4 * WIDTH + 2 * WIDTH * FFN + FFN + WIDTH + 4 * WIDTH  # matrices, biases, two norms
NUMBER = LAYERS * PER_LAYER + 300 * WIDTH + 16 * WIDTH + 2 * WIDTH  # tokens (tied), positions, the last norm


def of_training(ranks=1, sharded=False, **settings):
    train = dataclasses.replace(CONFIG, **settings)
    return memory_of_training(train, FAMILY, 16, GPU, ranks, sharded=sharded)


def test_weights_and_gradients_are_four_bytes_per_parameter_and_adamw_eight_and_a_counter_per_tensor():
    memory = of_training()
    tensors = len(list(FAMILY.ta.parameters()))
    assert (memory.weights, memory.gradients, memory.optimizer) == (4 * NUMBER, 4 * NUMBER, 8 * NUMBER + 4 * tensors)
    assert memory.total == sum(dataclasses.astuple(memory))


@pytest.mark.parametrize(
    "settings",
    [{"name": "adamw"}, {"name": "muon"}, *({"name": name, "max_block_size": 24} for name in ("soap", "shampoo"))],
    ids=lambda settings: settings["name"],
)
def test_every_optimizer_keeps_what_is_planned_to_the_byte(settings):
    from support import tiny_gpt2

    train = dataclasses.replace(CONFIG, optimizer=OptimizerConfig(**settings))
    ta = tiny_gpt2(vocab_size=300)
    optimizer = make_optimizer(ta, train, cuts(ta, FAMILY.granularities.values()))
    optimizer.fill_state()
    kept = sum(tensor.numel() * tensor.itemsize for tensor in tensors_of(optimizer).values())
    assert optimizer_bytes(train, FAMILY) == kept


def test_shards_divide_weights_gradients_and_optimizer_and_gather_two_layers_and_what_is_none():
    whole, shard = of_training(ranks=4), of_training(ranks=4, sharded=True)
    for name in ("weights", "gradients", "optimizer"):
        assert getattr(shard, name) == getattr(whole, name) / 4
    assert whole.gathered == 0
    assert shard.gathered == 8 * (NUMBER - LAYERS * PER_LAYER + 2 * PER_LAYER)
    assert (shard.activations, shard.head) == (whole.activations, whole.head)


def test_activations_follow_the_pass_and_bf16_halves_them():
    whole = of_training(pass_order="one_by_one")
    assert of_training(pass_order="one_by_one", micro_batch_size=2).activations == whole.activations / 4
    assert of_training(pass_order="one_by_one", ranks=2).activations == whole.activations / 2
    assert of_training(pass_order="one_by_one", precision="fp32").activations == 2 * whole.activations
    # inputs and three times the outputs of a layer's four products
    numbers = (WIDTH + 3 * 3 * WIDTH) + (WIDTH + 3 * WIDTH) + (WIDTH + 3 * FFN) + (FFN + 3 * WIDTH)
    assert whole.activations == 2 * CONFIG.batch_size * 16 * LAYERS * numbers
    together = of_training(pass_order="together").activations
    assert whole.activations < together < 2 * whole.activations


def test_checkpointing_keeps_each_layers_input_and_one_layer():
    whole = of_training(pass_order="one_by_one").activations
    inputs = 2 * CONFIG.batch_size * 16 * LAYERS * WIDTH
    saved = of_training(pass_order="one_by_one", activation_checkpointing=True).activations
    assert saved == pytest.approx(whole / LAYERS + inputs)


def test_the_heads_chunk_is_what_the_setting_says():
    assert of_training(head_chunk_tokens=7).head == 4 * 300 * (5 * 7 + WIDTH)


def test_memory_fits_below_nine_tenths():
    assert Memory(weights=72e9).fits(GPU)
    assert not Memory(weights=72e9, head=1e6).fits(GPU)
