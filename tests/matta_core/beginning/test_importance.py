"""Importance: what it measures, that sorting by it keeps the function, and that it finds what a model needs."""

import copy
import dataclasses
from functools import cache
from itertools import combinations

import pytest
import torch
from support import SEQUENCE_LENGTH, granularity, tiny_model

from matta_core.beginning.grow import grow
from matta_core.beginning.importance import layer_order, measure, permute, sort_by
from matta_core.checkpoints import build_model
from matta_core.families import FAMILIES
from matta_core.nesting.live import live_student
from matta_core.nesting.size import whole
from matta_core.objectives import OBJECTIVE
from matta_core.training.passes import PassSettings, error_sum

INPUT_IDS = torch.arange(4 * SEQUENCE_LENGTH).reshape(4, -1) * 7 % 50


def batches(*sequences):
    return [{"input_ids": input_ids} for input_ids in sequences]


@torch.no_grad()
def logits(model):
    return model.eval()(input_ids=INPUT_IDS).logits


def shuffled(model, seed):
    """The same function, with neurons and heads in a random order."""
    random = torch.Generator().manual_seed(seed)
    model = copy.deepcopy(model)
    heads, groups = model.config.num_attention_heads, getattr(model.config, "num_key_value_heads", 0)
    axes = {axis.name: axis for axis in FAMILIES[model.config.model_type].nested}
    for layer in range(model.config.num_hidden_layers):
        permute(model, layer, axes["neurons"], [torch.randperm(32, generator=random)])
        if groups:
            queries = [torch.randperm(heads // groups, generator=random) for _ in range(groups)]
            orders = [torch.randperm(groups, generator=random), torch.stack(queries)]
            permute(model, layer, axes["attention heads"], orders)
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_any_order_of_neurons_and_heads_is_the_same_function(family):
    biases = {"llama": {"attention_bias": True, "mlp_bias": True}, "qwen3": {"attention_bias": True}}
    model = tiny_model(family, **biases.get(family, {}))
    torch.testing.assert_close(logits(shuffled(model, 1)), logits(model), rtol=0, atol=1e-5)
    assert not torch.equal(logits(shuffled(model, 1)), logits(model))  # another order of summands, at least


@pytest.mark.parametrize("family", FAMILIES)
def test_sorting_puts_the_most_important_first_and_forgets_what_order_it_was(family):
    model = tiny_model(family)
    first, second = copy.deepcopy(model), shuffled(model, 2)
    for each in (first, second):
        sort_by(each, measure(each, batches(INPUT_IDS), OBJECTIVE))
        scores = measure(each, batches(INPUT_IDS), OBJECTIVE)
        for neurons in scores["neurons"]:
            assert (neurons.diff() <= 1e-6 * neurons[0]).all()
        for heads in scores.get("attention heads", ()):
            assert (heads.sum(1).diff() <= 1e-6 * heads.sum()).all()
            assert (heads.diff(dim=1) <= 1e-6 * heads.sum()).all()
    for ours, theirs in zip(first.parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


@torch.no_grad()
def test_importance_is_what_the_formulas_say():
    """Against what the modules add to the residual stream, neuron by neuron and head by head."""
    model = tiny_model("llama", attention_bias=True).eval()
    seen = {}

    def remember(name):
        def hook(_module, arguments, _output):
            seen[name] = arguments[0]

        return hook

    layer = model.model.layers[1]
    parts = {"ffn": layer.mlp.down_proj, "attention": layer.self_attn.o_proj}
    handles = [module.register_forward_hook(remember(name)) for name, module in parts.items()]
    model(input_ids=INPUT_IDS)
    for handle in handles:
        handle.remove()
    importance = measure(model, batches(*INPUT_IDS.split(1)), OBJECTIVE)  # in pieces

    activations = seen["ffn"].flatten(0, 1)
    added = activations[:, :, None] * layer.mlp.down_proj.weight.T  # (tokens, neurons, hidden)
    torch.testing.assert_close(importance["neurons"][1].float(), added.pow(2).sum(-1).mean(0).sqrt())

    features = seen["attention"].flatten(0, 1).unflatten(1, (4, 4))
    added = torch.einsum("thi,ohi->tho", features, layer.self_attn.o_proj.weight.unflatten(1, (4, 4)))
    torch.testing.assert_close(importance["attention heads"][1].float(), added.pow(2).sum(-1).mean(0).reshape(2, 2))


# Importance against random order, on models that have learnt something.

SEEDS = (0, 1)


def counting(number, seed):
    """Sequences that count up by a step that must be read off the first tokens: (number, length), below 50."""
    random = torch.Generator().manual_seed(seed)
    starts, steps = torch.randint(50, (number, 1), generator=random), torch.randint(1, 8, (number, 1), generator=random)
    return (starts + steps * torch.arange(SEQUENCE_LENGTH)) % 50


@cache
def learnt(family, seed, steps=150, **overrides):
    """A stock model, trained as a whole: it knows nothing of sizes."""
    model = tiny_model(family, seed, **({"initializer_range": 0.05, "num_hidden_layers": 4} | overrides))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for step in range(steps):
        input_ids = counting(32, 1000 * seed + step)
        optimizer.zero_grad()
        model(input_ids=input_ids, labels=input_ids).loss.backward()
        optimizer.step()
    return model.eval()


def loss(model, size):
    input_ids = counting(64, 999_999)
    total = error_sum(OBJECTIVE, live_student(model, size), {"input_ids": input_ids}, PassSettings())
    return total.item() / (len(input_ids) * (SEQUENCE_LENGTH - 1))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "size"),
    [
        *((family, {"intermediate_size": 16}) for family in FAMILIES),
        ("llama", {"num_attention_heads": 2, "num_key_value_heads": 2}),
        ("qwen3", {"num_attention_heads": 2, "num_key_value_heads": 2}),
    ],
)
def test_untrained_slices_of_a_sorted_model_are_better_than_those_of_one_in_random_order(family, size):
    for seed in SEEDS:
        model = learnt(family, seed)
        kept = granularity(model, **size)
        by_chance = [loss(shuffled(model, lot), kept) for lot in range(8)]
        model = copy.deepcopy(model)
        sort_by(model, measure(model, batches(*counting(32, 7 + seed).split(1)), OBJECTIVE))
        assert loss(model, kept) < sum(by_chance) / len(by_chance)


@pytest.mark.slow
@pytest.mark.parametrize(("heads", "groups", "kept"), [(8, 8, 4), (8, 4, 2)])
def test_sorted_groups_are_better_than_random_ones(heads, groups, kept):
    for seed in SEEDS:
        model = learnt("llama", seed, num_attention_heads=heads, num_key_value_heads=groups)
        size = granularity(model, num_key_value_heads=kept)
        by_chance = [loss(shuffled(model, lot), size) for lot in range(8)]
        model = copy.deepcopy(model)
        sort_by(model, measure(model, batches(*counting(32, 7 + seed).split(1)), OBJECTIVE))
        assert loss(model, size) < sum(by_chance) / len(by_chance)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_layers_kept_by_importance_are_better_than_random_ones(family):
    """Four of six: against the mean over all choices that keep the first and the last."""
    for seed in SEEDS:
        model = learnt(family, seed, num_hidden_layers=6)
        order = layer_order(model, batches(*counting(32, 7 + seed).split(8)), 2, OBJECTIVE)
        by_chance = [loss(model, granularity(model, layers=(0, *pair, 5))) for pair in combinations(range(1, 5), 2)]
        best = loss(model, granularity(model, layers=tuple(sorted(order[:4]))))
        assert best < sum(by_chance) / len(by_chance)


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_that_write_nothing_are_the_first_to_go(family):
    model = learnt(family, 0, num_hidden_layers=3, steps=40)
    deeper_config = copy.deepcopy(model.config)
    deeper_config.num_hidden_layers = 5
    if getattr(deeper_config, "layer_types", None):
        types = deeper_config.layer_types
        deeper_config.layer_types = [types[0], types[0], types[1], types[1], types[2]]
    deeper = build_model(deeper_config, 1, model_class=OBJECTIVE.model_class)
    grow(deeper, model, dataclasses.replace(whole(model.config, "s"), layers=(0, 2, 4)))
    order = layer_order(deeper, batches(counting(32, 1)), 3, OBJECTIVE)
    assert order[:3] == [0, 4, 2]
    assert sorted(layer_order(deeper, [], 5, OBJECTIVE)) == [0, 1, 2, 3, 4]  # nothing to find out, nothing measured
