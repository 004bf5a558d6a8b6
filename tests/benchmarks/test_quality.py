"""The benchmark of quality: its arms, what their families cost, and its table."""

import dataclasses
import json
import math

import pytest
from support import TRAINING

from benchmarks.quality.arms import ARMS, arms, at_compute, costs_of, flops, with_rates
from benchmarks.quality.table import interval, table, write_plot
from matta_core.recipe import ConsolidationConfig, LossConfig

BASE = dataclasses.replace(TRAINING, sizes={"s": 8, "m": 16, "xl": 32}, steps=100, warmup_steps=5, loss=LossConfig())
COSTS = costs_of(BASE, vocab_size=50, sequence_length=16)


def test_a_sizes_flops_are_those_of_its_products():
    hidden, layers, length = 16, 2, 16
    attention = 4 * hidden * hidden + 2 * length * hidden  # weights, and half of 4 x length x features
    expected = {name: 2 * (layers * (attention + 2 * hidden * width) + 50 * hidden) for name, width in
                (("s", 8), ("m", 16), ("xl", 32))}  # fmt: skip
    assert COSTS.forward == expected
    assert COSTS.head == 2 * 50 * hidden
    assert COSTS.tokens_per_step == 8 * 16


def test_a_family_costs_what_its_runs_do():
    s, m, xl = COSTS.forward.values()
    of_arms, scored = arms(BASE), dataclasses.replace(COSTS, scoring=1e6)
    alone = 3 * (s + m + xl) * 100 * 128
    assert flops(scored, of_arms["conventional"]) == alone
    assert flops(scored, of_arms["teacher_only"]) == alone + 1e6
    joint = 100 * 3 * xl + 70 * (0.5 * (3 * s + COSTS.head) + 0.5 * (3 * m + COSTS.head)) + 20 * 3 * (s + m + xl)
    assert flops(scored, of_arms["matta"]) == pytest.approx(joint * 128 + 1e6)
    assert flops(scored, of_arms["matformer"]) == pytest.approx((3 * (s + m + xl) + 2 * COSTS.head) * 100 * 128)


def test_a_share_of_the_compute_is_kept_to_a_step():
    scored = dataclasses.replace(COSTS, scoring=1e6)
    whole = flops(scored, arms(BASE)["teacher_only"])
    for share in (1.0, 0.6, 0.45):
        run = at_compute(BASE, scored, share)
        assert flops(scored, [run]) == pytest.approx(share * whole, rel=0.02)


def test_arms_differ_in_what_they_say_and_in_nothing_else():
    of_arms = arms(BASE)
    assert tuple(of_arms) == ARMS
    assert {name: len(runs) for name, runs in of_arms.items()}["conventional"] == 3
    for runs in of_arms.values():
        for run in runs:
            assert (run.config.steps, run.config.batch_size, run.config.seed) == (100, 8, 0)
            assert (run.taught is None) == (run.config.loss.teacher_weight.highest == 0)
    assert [run.taught for run in of_arms["separate_ta"]] == ["teacher", "ta", "ta"]
    assert of_arms["matta_joint_only"][0].config.consolidation == ConsolidationConfig(steps_fraction=0.0)
    rates = {name: {run.config.learning_rate for run in runs} for name, runs in with_rates(BASE, {"matta": 0.5})}
    assert rates["matta"] == {0.5}
    assert rates["matformer"] == {BASE.learning_rate}


def test_the_table_pairs_arms_by_seed(tmp_path):
    losses = {("teacher_only", 0): 4.0, ("teacher_only", 1): 4.2, ("matta", 0): 3.9, ("matta", 1): 4.0}
    rows = [
        {"regime": "r", "shape": "p", "budget": "equal_steps", "arm": arm, "size": "s", "seed": seed, "loss": loss,
         "flops": {"teacher_only": 2.0, "matta": 1.0}[arm]}
        for (arm, seed), loss in losses.items()
    ]  # fmt: skip
    half = 12.706 * 0.0707107 / math.sqrt(2)  # t of one degree of freedom, the deviation of -0.1 and -0.2
    assert interval([-0.1, -0.2]) == pytest.approx(half, rel=1e-3)
    assert f"| matta | 0.50 | 3.950 (-0.150 ± {half:.3f}) |" in table(rows)
    assert "| teacher_only | 1.00 | 4.100 |" in table(rows)
    write_plot(rows, tmp_path / "plot.svg")
    assert (tmp_path / "plot.svg").read_text().count("<circle") == 2


def test_the_results_in_the_repository_are_what_its_table_says():
    from benchmarks.quality.__main__ import RESULTS

    rows = json.loads((RESULTS / "quality.json").read_text())["rows"]
    assert table(rows) == (RESULTS / "quality.md").read_text()
