"""The benchmark compares what computes the same, and its ratios are those of its figures."""

import dataclasses
import json
import sys

import pytest
import torch

from benchmarks.training_cost import __main__ as training_cost
from benchmarks.training_cost import measure, ways
from benchmarks.training_cost.shapes import SEQUENCES, Shape, shapes
from matta_core.errors import UserError

TINY = Shape(
    {
        "model_type": "gpt2",
        "vocab_size": 100,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    },
    eight=(8, 16, 24, 32, 40, 48, 56, 64),
    four=(8, 24, 40, 64),
    length=9,
)
CPU = torch.device("cpu")


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_size_has_whole_rows_in_all_shapes(device):
    for shape in shapes(device).values():
        assert set(shape.four) < set(shape.eight)
        assert (shape.four[0], shape.four[-1]) == (shape.eight[0], shape.eight[-1])
        config = ways.training_config(shape, shape.eight, "fp32")
        shares = config.share_of_size()
        assert config.rows_per_size() == {name: share * SEQUENCES for name, share in shares.items()}


def test_the_step_and_the_plain_one_have_the_same_gradients():
    family = ways.training(TINY, TINY.four, CPU, "fp32")
    assert ways.gradient_difference(family, ways.random_batch(TINY, CPU)) < 1e-5


def test_a_run_is_the_ta_alone_for_its_share_of_the_steps_and_then_all_sizes(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(training_cost, "shapes", lambda _: {"vocabulary": TINY, "ffn": TINY})
    monkeypatch.setattr(measure, "_product_size", lambda _: 64)
    monkeypatch.setattr(
        measure, "_in_a_fresh_process", lambda *arguments: {"joint_step": 1, "naive_step": 4}[arguments[-1]]
    )
    monkeypatch.setattr(sys, "argv", ["training_cost", "--device", "cpu", "--repeats", "1", "--output", str(tmp_path)])
    training_cost.main()
    figures = json.loads((tmp_path / "train.json").read_text())
    of_shape, ratios = figures["shapes"]["vocabulary"], figures["ratios"]
    seconds = of_shape["seconds"]
    run = 0.3 * seconds["ta_first"] + 0.7 * seconds["nested_4"]
    assert ratios["run_to_apart_4"] == pytest.approx(run / sum(seconds[f"alone_{width}"] for width in TINY.four))
    assert ratios["step_to_naive"] == pytest.approx(seconds["step"] / seconds["naive"])
    assert ratios["memory_to_naive"] == 0.25
    assert ratios.keys() >= {"run_to_apart_8", "matmul_share_fp32", "gradient_difference"}
    assert "run_to_apart_8" in capsys.readouterr().out


@pytest.mark.slow
def test_what_a_step_takes_is_counted_above_the_weights():
    """Autograd keeps at least the logits of three models, in float32."""
    shape = dataclasses.replace(TINY, model=TINY.model | {"vocab_size": 50_000}, length=97)
    logits = SEQUENCES * 96 * 50_000 * 4 / 2**30
    naive = measure._in_a_fresh_process(measure.peak_gib, shape, CPU, "fp32", "naive_step")
    ours = measure._in_a_fresh_process(measure.peak_gib, shape, CPU, "fp32", "joint_step")
    assert ours < logits < 3 * logits < naive


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--repeats", "0"], "--repeats must be >= 1, got 0"),
        pytest.param(
            ["--device", "cuda"],
            "torch finds no GPU here",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
    ],
)
def test_a_mistake_is_told(monkeypatch, arguments, message):
    monkeypatch.setattr(sys, "argv", ["training_cost", *arguments])
    with pytest.raises(UserError, match=message):
        training_cost.main()
