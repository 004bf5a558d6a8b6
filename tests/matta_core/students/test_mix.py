"""The search for widths by layer: within budget, never worse than a trained size, honest about how far it looked."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import tiny_gpt2, tiny_model, widths

from matta_core.errors import UserError
from matta_core.nesting.cost import flops_per_token, num_parameters
from matta_core.nesting.size import resolve
from matta_core.objectives import OBJECTIVE
from matta_core.recipe import MixConfig, SizeConfig
from matta_core.students.mix import mix, prefill_seconds, space_of
from matta_core.students.search import WidthSearch

SAMPLE = {"input_ids": torch.arange(64).reshape(4, 16) % 50}
SIZES = {"s": 8, "m": 16, "xl": 32}


def search(sizes, cost, limit, score, evaluations, where="mix"):
    return WidthSearch(sizes, cost, score, evaluations).within(limit, where)


def mixed(ta, sizes, config, evaluations=50, advance=lambda: None):
    return mix(OBJECTIVE, ta, space_of(OBJECTIVE, ta, sizes, "s", "mid", config, SAMPLE), evaluations, advance)


def uniform(layers):
    return [(width,) * layers for width in (8, 16, 32)]


@st.composite
def problems(draw):
    """Layers, a budget in neurons, and a loss that is not additive over layers."""
    layers = draw(st.integers(2, 5))
    weight = draw(st.lists(st.floats(-1.0, 3.0), min_size=layers, max_size=layers))
    pair = draw(st.floats(-0.5, 0.5))
    limit = draw(st.integers(8 * layers, 32 * layers))

    def loss(found):
        alone = sum(each / width for each, width in zip(weight, found, strict=True))
        return alone + pair / (found[0] + found[-1])

    return layers, limit, loss


@given(problem=problems())
@settings(max_examples=60, deadline=None)
def test_an_exhaustive_search_finds_what_brute_force_finds(problem):
    layers, limit, loss = problem
    found = search(uniform(layers), sum, limit, loss, evaluations=3**layers)
    every = [widths for widths in itertools.product((8, 16, 32), repeat=layers) if sum(widths) <= limit]
    assert found.loss == min(map(loss, every))
    assert sum(found.widths) <= limit
    assert (found.ended, found.combinations, found.evaluated) == ("exhaustive", 3**layers, len(every))


@given(problem=problems(), spare=st.integers(0, 20))
@settings(max_examples=60, deadline=None)
def test_a_search_that_cannot_see_all_stays_within_budget_and_is_never_worse_than_a_trained_size(problem, spare):
    layers, limit, loss = problem
    evaluations = 2 * layers + 4 + spare
    if 3**layers <= evaluations:
        return
    calls = []
    found = search(uniform(layers), sum, limit, lambda each: calls.append(each) or loss(each), evaluations)
    assert sum(found.widths) <= limit
    assert found.loss == loss(found.widths) <= min(found.uniform.values())
    assert found.evaluated == len(calls) == len(set(calls)) <= evaluations
    assert found.ended in ("local optimum", "evaluations spent")


def test_a_search_finds_the_layer_that_matters():
    def loss(found):
        return 5.0 - found[3] / 10 - sum(found) / 1000

    found = search(uniform(6), sum, 8 * 6 + 24, loss, evaluations=40)
    assert found.widths == (8, 8, 8, 32, 8, 8)


def test_too_few_evaluations_are_refused_with_the_number_that_is_needed():
    with pytest.raises(UserError, match=r"mid: extract_students.mix_evaluations must be at least 14, got 5"):
        search(uniform(6), sum, 60, sum, evaluations=5, where="mid")


@pytest.mark.parametrize("kind", ["parameters", "bytes", "flops_per_token"])
@pytest.mark.parametrize("model_type", ["gpt2", "qwen3"])
def test_every_kind_of_budget_is_kept_and_costs_are_those_of_the_mixture(model_type, kind):
    ta = tiny_model(model_type).eval()
    sizes = resolve(ta.config, widths(**SIZES))
    cost = {
        "parameters": lambda size: num_parameters(ta, size),
        "bytes": lambda size: 4 * num_parameters(ta, size),
        "flops_per_token": lambda size: flops_per_token(ta, size, 16),
    }[kind]
    limit = (cost(sizes["s"]) + cost(sizes["xl"])) // 2
    space = space_of(OBJECTIVE, ta, sizes, "s", "mid", MixConfig(**{kind: limit}), SAMPLE)
    for mixture in itertools.product(SIZES.values(), repeat=2):
        assert space.cost(mixture) == cost(space.sized(mixture))
    scored = []
    granularity, found = mix(OBJECTIVE, ta, space, 50, lambda: scored.append(1))
    assert found["cost"] == cost(granularity) <= limit
    assert found["evaluated"] == len(scored)
    assert found["budget"] == {kind: limit}
    assert granularity.name == "mid"


@pytest.mark.slow
def test_a_budget_of_time_is_kept_by_this_machines_clock():
    ta = tiny_model("llama", hidden_size=128, intermediate_size=8192).eval()
    sizes = resolve(ta.config, widths(s=128, m=2048, xl=8192))
    small, large = (prefill_seconds(OBJECTIVE, ta, sizes[name], SAMPLE) for name in ("s", "xl"))
    limit = (small + large) / 2
    _, found = mixed(ta, sizes, MixConfig(prefill_seconds=limit))
    assert 0 < found["cost"] <= limit
    with pytest.raises(UserError, match=r"mid.prefill_seconds must be at least the .* of s, .* got 1e-09"):
        mixed(ta, sizes, MixConfig(prefill_seconds=1e-9))


def test_a_budget_of_time_is_kept_by_what_is_measured(monkeypatch):
    ta = tiny_gpt2().eval()
    sizes = resolve(ta.config, widths(**SIZES))
    # A clock of neurons: the first layer's cost double when they are mixed, which no size shows.
    real = {(8, 8): 1.0, (16, 16): 2.0, (32, 32): 4.0, (32, 8): 3.4, (16, 8): 1.9, (8, 32): 2.4, (8, 16): 1.4}

    def clock(_objective, _ta, size, _sample):
        return real[size.by_layer["intermediate_size"]]

    monkeypatch.setattr("matta_core.students.mix.prefill_seconds", clock)
    granularity, found = mixed(ta, sizes, MixConfig(prefill_seconds=2.5))
    assert found["cost"] == real[granularity.by_layer["intermediate_size"]] <= 2.5
    assert found["evaluated"] <= 9  # a second search goes on from what the first one scored


def test_a_budget_out_of_reach_is_refused_with_what_is_within():
    ta = tiny_gpt2().eval()
    sizes = resolve(ta.config, widths(**SIZES))
    low, high = num_parameters(ta, sizes["s"]), num_parameters(ta, sizes["xl"])
    with pytest.raises(
        UserError, match=rf"mid.parameters must be at least the {low:,} of s, the smallest size .*, got 9"
    ):
        mixed(ta, sizes, MixConfig(parameters=9))
    with pytest.raises(UserError, match=rf"mid.parameters must be below the {high:,} of the TA, got {high:,}"):
        mixed(ta, sizes, MixConfig(parameters=high))


def test_sizes_that_differ_in_more_than_width_are_not_mixed():
    ta = tiny_model("llama", num_hidden_layers=3).eval()
    sizes = resolve(ta.config, {"s": SizeConfig(num_hidden_layers=2), **widths(xl=32)})
    with pytest.raises(UserError, match=r"keep all else of the TA, and there is only xl"):
        mixed(ta, sizes, MixConfig(parameters=1000))
