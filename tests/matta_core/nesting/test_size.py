"""What a size keeps, and why one does not contain another."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import tiny_gpt2, tiny_model, widths

from matta_core.errors import UserError
from matta_core.families import FAMILIES
from matta_core.nesting.size import Granularity, resolve, spread_out, why_not_nested
from matta_core.recipe import SizeConfig

LLAMA = tiny_model("llama", num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2).config


def sizes(**of_s):
    return {"s": SizeConfig(**of_s), **widths(xl=32)}


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ({"intermediate_size": 40}, r"sizes.s is not contained in the TA: in layer 0, s has 40 neurons and the TA 32"),
        ({"intermediate_sizes": (8, 8)}, r"sizes.s.intermediate_sizes must have one width for each of 4 layers, got 2"),
        ({"num_key_value_heads": 3}, r"s has 3 key/value heads and the TA 2"),
        ({"num_attention_heads": 6, "num_key_value_heads": 2}, r"3 query heads per key/value head and the TA 2"),
        ({"num_attention_heads": 3, "num_key_value_heads": 2}, r"must be a multiple of num_key_value_heads = 2, got 3"),
        ({"layers": (1, 3)}, r"sizes.s.layers must hold the TA's first layer, 0, and its last, 3, .*got \[1, 3\]"),
        ({"layers": (0, 5)}, r"its last, 3, and none beyond; got \[0, 5\]"),
        ({"num_hidden_layers": 1}, r"num_hidden_layers must be from 2 .* to the TA's 4, got 1"),
        ({"num_hidden_layers": 5}, r"to the TA's 4, got 5"),
        ({}, r"xl does not contain s: they are the same"),
    ],
)
def test_a_size_that_is_not_contained_in_the_ta_is_refused_with_the_reason(size, message):
    with pytest.raises(UserError, match=message):
        resolve(LLAMA, sizes(**size))


@pytest.mark.parametrize(
    ("m", "message"),
    [
        ({"intermediate_size": 8}, r"m does not contain s: in layer 0, s has 16 neurons and m 8"),
        ({"layers": (0, 2, 3)}, r"m does not contain s: layer 1 is kept by s and not by m"),
        ({"intermediate_sizes": (16, 16, 8, 8)}, r"in layer 3, s has 16 neurons and m 8"),
    ],
)
def test_sizes_that_do_not_contain_each_other_are_refused_with_the_reason(m, message):
    both = {"s": SizeConfig(intermediate_size=16, layers=(0, 1, 3)), "m": SizeConfig(**m), **widths(xl=32)}
    with pytest.raises(UserError, match=message):
        resolve(LLAMA, both)


def test_the_last_size_is_the_whole_ta():
    with pytest.raises(UserError, match=r"sizes.xl: the last size is the TA itself, whole"):
        resolve(LLAMA, {"xl": SizeConfig(intermediate_size=32, num_hidden_layers=2)})


@pytest.mark.parametrize(
    ("given_heads", "heads", "groups"),
    [
        ({"num_key_value_heads": 1}, 2, 1),  # the groups' queries stay
        ({"num_attention_heads": 2}, 2, 2),  # the groups stay
        ({"num_attention_heads": 1, "num_key_value_heads": 1}, 1, 1),
    ],
)
def test_one_number_of_heads_says_the_other(given_heads, heads, groups):
    kept = resolve(LLAMA, sizes(**given_heads))["s"]
    assert (kept.kept["num_attention_heads"], kept.kept["num_key_value_heads"]) == (heads, groups)


@given(num_layers=st.integers(1, 40))
def test_layers_are_spread_out_and_fewer_are_contained_in_more(num_layers):
    order = spread_out(num_layers)
    assert sorted(order) == list(range(num_layers))
    assert set(order[:2]) == {0, num_layers - 1}
    for number in range(2, num_layers):
        kept = sorted(order[:number])
        gaps = [after - before for before, after in pairwise(kept)]
        assert max(gaps) <= 2 * (num_layers - 1) / (number - 1) + 1


def test_a_number_of_layers_keeps_those_that_matter_most():
    kept = resolve(LLAMA, sizes(num_hidden_layers=3), layer_order=[0, 3, 2, 1])["s"]
    assert kept.layers == (0, 2, 3)


def test_a_granularity_survives_json():
    kept = resolve(LLAMA, sizes(num_hidden_layers=3, intermediate_sizes=(8, 16, 24)))["s"]
    assert Granularity.from_dict("s", json.loads(json.dumps(kept.to_dict()))) == kept
    assert why_not_nested(FAMILIES["llama"], kept, kept) == "they are the same"


def test_sizes_that_earlier_releases_wrote_are_read_and_written_alike():
    written = {"intermediate_sizes": (8, 24), "num_attention_heads": 2, "num_key_value_heads": 1, "layers": (0, 3)}
    kept = resolve(LLAMA, sizes(layers=(0, 3), intermediate_sizes=(8, 24), num_key_value_heads=1))["s"]
    assert Granularity.from_dict("s", json.loads(json.dumps(written))) == kept
    assert json.dumps(kept.to_dict()) == json.dumps(written)


def test_a_gpt2_without_n_inner_has_four_times_its_hidden_size():
    assert resolve(tiny_gpt2(intermediate_size=None).config, widths(xl=64))["xl"].by_layer == {
        "intermediate_size": (64, 64)
    }
