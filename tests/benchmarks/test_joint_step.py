"""The benchmark compares what computes the same."""

import pytest

from benchmarks import joint_step


def test_the_step_and_the_plain_one_have_the_same_gradients(monkeypatch):
    monkeypatch.setattr(joint_step, "MODEL", joint_step.MODEL | {"hidden_size": 16, "num_hidden_layers": 2})
    monkeypatch.setattr(joint_step, "SIZES", {"s": 16, "m": 32, "xl": 64})
    figures = joint_step.measure(vocabulary=100, repeats=1, chunk=50)
    assert figures["ratios"]["gradient_difference"] < 1e-5
    assert figures["ratios"]["step_to_naive"] == pytest.approx(figures["seconds"]["step"] / figures["seconds"]["naive"])
