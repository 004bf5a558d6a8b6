"""Latency and memory: what can be said of them on any machine."""

import time
from types import SimpleNamespace

import pytest
import torch
from support import tiny_gpt2
from transformers.cache_utils import DynamicCache

from components.evaluate.costs import _groups
from components.evaluate.memory import peak_memory_bytes
from components.evaluate.speed import BATCH_SIZES, latency
from matta_core.errors import UserError


def test_prefill_and_decode_of_both_batch_sizes_are_positive_and_agree():
    models = {"a": tiny_gpt2(32), "b": tiny_gpt2(64)}
    for costs in latency(models, 10, 4, 3).values():
        for batch_size in BATCH_SIZES:
            prefill, decode = costs["prefill"][str(batch_size)], costs["decode"][str(batch_size)]
            assert prefill["tokens_per_second"] * prefill["seconds"] == pytest.approx(10 * batch_size)
            assert decode["tokens_per_second"] * decode["seconds_per_token"] == pytest.approx(batch_size)
            assert prefill["seconds"] > 0 < decode["seconds_per_token"]


class Sleeper(torch.nn.Module):
    """Takes known times: a millisecond per token of the prompt, five per token after it. It always writes token 0,
    the end of text."""

    def __init__(self):
        super().__init__()
        self.config = SimpleNamespace(vocab_size=10)
        self.device = torch.device("cpu")
        self.seen = []

    def forward(self, input_ids, past_key_values=None, use_cache=True, logits_to_keep=0):
        assert use_cache
        self.seen.append((tuple(input_ids.shape), past_key_values is not None))
        time.sleep(0.005 if past_key_values else 0.001 * input_ids.shape[1])
        logits = torch.nn.functional.one_hot(torch.zeros(len(input_ids), logits_to_keep, dtype=torch.long), 10).float()
        return SimpleNamespace(logits=logits, past_key_values=past_key_values or DynamicCache)


def test_times_are_those_of_the_prompt_and_of_one_token_and_the_end_of_text_ends_nothing():
    model = Sleeper()
    costs = latency({"x": model}, 20, 6, 3)["x"]
    # Sleeping takes at least as long as it is told, and on a busy machine longer.
    assert 0.020 <= costs["prefill"]["1"]["seconds"] < 0.040
    assert 0.005 <= costs["decode"]["8"]["seconds_per_token"] < 0.010
    rounds = 4  # one to warm up
    assert model.seen == [
        step for batch in (1, 8) for step in rounds * [((batch, 20), False), *6 * [((batch, 1), True)]]
    ]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Models of 0.3 and 50 million parameters."""
    root = tmp_path_factory.mktemp("models")
    tiny_gpt2(1024, 5000, hidden_size=32).save_pretrained(root / "small")
    tiny_gpt2(4096, 5000, hidden_size=1024, num_attention_heads=8).save_pretrained(root / "large")
    return {"small": str(root / "small"), "large": str(root / "large")}


@pytest.mark.slow  # a process that loads torch
def test_memory_is_at_least_the_weights_and_grows_with_them(saved):
    peaks = peak_memory_bytes(saved, torch.device("cpu"), 8, 4)
    parameters = {name: tiny.num_parameters() for name, tiny in (
        ("small", tiny_gpt2(1024, 5000, hidden_size=32)),
        ("large", tiny_gpt2(4096, 5000, hidden_size=1024, num_attention_heads=8)),
    )}  # fmt: skip
    # In fp32; more than twice as much would mean that something is held twice and kept.
    assert 4 * parameters["large"] <= peaks["large"] < 3 * 4 * parameters["large"]
    assert 0 < peaks["small"] < peaks["large"]
    # What a process needs before its first model (libraries' first use) is not to drown the model.
    assert peaks["small"] - 4 * parameters["small"] < 100 * 2**20


@pytest.mark.slow  # a process that loads torch
def test_a_model_that_cannot_be_measured_is_told(saved, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(
        UserError, match=r"cannot measure the models' memory: the process of broken ended with status 1"
    ):
        peak_memory_bytes({"broken": str(tmp_path)}, torch.device("cpu"), 8, 4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_on_a_gpu_memory_is_what_its_allocator_gave(saved):
    peaks = peak_memory_bytes(saved, torch.device("cuda"), 8, 4)
    assert 0 < peaks["small"] < peaks["large"]


def test_models_take_turns_while_they_fit_together():
    gigabyte = 2**30
    assert _groups({"a": gigabyte // 2, "b": gigabyte // 2, "c": 1, "d": 2 * gigabyte, "e": 5}) == [
        ["a", "b"], ["c"], ["d"], ["e"],
    ]  # fmt: skip
