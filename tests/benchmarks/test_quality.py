"""The benchmark of quality: its arms, what their families cost, its runs, and its table."""

import dataclasses
import json
import math
import statistics

import numpy as np
import pytest
from support import SEQUENCE_LENGTH, TRAINING, make_dataset
from training_support import TEACHER

from benchmarks.quality.__main__ import RESULTS, tasks_of, write
from benchmarks.quality.arms import ARMS, arms, at_compute, costs_of, with_rates
from benchmarks.quality.table import interval, table, write_plot
from benchmarks.quality.work import TUNING, Place, Task, documents_of, rows_of, tuning_loss
from components.train.step import train
from matta_core.errors import TrainingDivergedError
from matta_core.recipe import ConsolidationConfig, LossConfig

BASE = dataclasses.replace(TRAINING, sizes={"s": 8, "m": 16, "xl": 32}, steps=100, warmup_steps=5, loss=LossConfig())
COSTS = dataclasses.replace(costs_of(BASE, vocab_size=50, sequence_length=16), scored_tokens=5000, teacher=70_000)


def test_a_sizes_flops_are_those_of_its_products():
    hidden, layers, length = 16, 2, 16
    attention = 4 * hidden * hidden + 2 * length * hidden  # weights, and half of 4 x length x features
    for name, width in (("s", 8), ("m", 16), ("xl", 32)):
        assert COSTS.forward(name) == 2 * (layers * (attention + 2 * hidden * width) + 50 * hidden)


def test_a_family_costs_what_its_runs_report_and_the_scores_that_they_learn_from(dataset, tmp_path):
    config = dataclasses.replace(BASE, steps=10, loss=LossConfig(teacher_weight=0.0))
    run = train(config, dataset.path, None, output=tmp_path / "run")
    costs = costs_of(config, dataset.metadata["vocab_size"], SEQUENCE_LENGTH)
    head = 2 * dataset.metadata["vocab_size"] * 16
    once = {name: 6 * (SEQUENCE_LENGTH * costs.forward(name) - head) for name in config.sizes}  # of six sequences
    validations = 4 * sum(once.values()) + 2 * sum(once.values())  # joint, and alone for two steps
    assert costs.of_training(config) == run.metadata["flops"] - validations

    of_arms = arms(BASE)
    alone = sum(COSTS.of_training(run.config) for run in of_arms["conventional"])
    assert COSTS.of_family(of_arms["conventional"]) == alone
    assert COSTS.of_family(of_arms["teacher_only"]) == alone + 5000 * 70_000
    assert COSTS.of_family(of_arms["separate_ta"]) == alone + 5000 * (70_000 + COSTS.forward("xl"))


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("share", [1.0, 0.6, 0.45])
def test_a_share_of_the_compute_is_kept_to_a_step(arm, share):
    whole = COSTS.of_family(arms(BASE)["teacher_only"])
    runs = at_compute(arms(BASE)[arm], COSTS, share * whole)
    assert COSTS.of_family(runs) == pytest.approx(share * whole, rel=0.02)
    assert len({run.config.steps for run in runs}) == 1


def test_arms_differ_in_what_they_say_and_in_nothing_else():
    of_arms = arms(BASE)
    assert tuple(of_arms) == ARMS
    assert [run.name for run in of_arms["conventional"]] == ["s", "m", "xl"]
    assert [run.name for run in of_arms["matta"]] == ["family"]
    for runs in of_arms.values():
        for run in runs:
            assert (run.config.steps, run.config.batch_size, run.config.seed) == (100, 8, 0)
            assert (run.taught is None) == (run.config.loss.teacher_weight.highest == 0)
    assert [run.taught for run in of_arms["separate_ta"]] == ["teacher", "ta", "ta"]
    assert of_arms["matta_joint_only"][0].config.consolidation == ConsolidationConfig(steps_fraction=0.0)
    assert {run.config.optimizer.name for run in of_arms["teacher_only_shampoo"]} == {"shampoo"}


def test_each_size_apart_has_a_rate_of_its_own():
    runs = with_rates(arms(BASE)["conventional"], {"s": 0.5, "xl": 0.25})
    assert [run.config.learning_rate for run in runs] == [0.5, BASE.learning_rate, 0.25]


def test_all_seeds_of_the_main_comparison_come_first():
    rates = {"in_domain/tiny/matta/family": 0.125}
    tasks = tasks_of(["in_domain"], ARMS, 2, {"tiny": BASE}, {("in_domain", "tiny"): COSTS}, rates)
    told = [(task.arm, task.budget, task.seed) for task in tasks]
    main = ("teacher_only", "matta", "conventional")
    assert told[:6] == [(arm, "equal_steps", seed) for seed in (0, 1) for arm in main]
    assert ("matta", "equal_compute 1", 1) in told[6:10]
    assert len(told) == len(set(told)) == 2 * (len(ARMS) + 7)
    assert {task.runs[0].config.learning_rate for task in tasks if task.arm == "matta"} == {0.125}


def test_a_share_that_scoring_alone_exceeds_is_left_out():
    cost = dataclasses.replace(COSTS, scored_tokens=200_000)
    tasks = tasks_of(["in_domain"], ARMS, 1, {"tiny": BASE}, {("in_domain", "tiny"): cost}, {})
    budgets = {task.budget for task in tasks}
    assert budgets == {"equal_steps", "equal_compute 1"}
    assert not any(task.budget != "equal_steps" and task.arm == "separate_ta" for task in tasks)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A place with a prepared domain, and a recipe of tiny models."""
    whole = Place(tmp_path).recipe()
    tiny = dataclasses.replace(whole, train=BASE, train_teacher=TEACHER)
    monkeypatch.setattr(Place, "recipe", lambda _: tiny)
    domain = make_dataset(tmp_path / "domain", validation_rows=TUNING + 5)
    return Place(tmp_path / "artifacts", {"stdlib": domain.path})


def test_a_second_run_trains_nothing_and_gives_the_same_rows(place, capsys):
    base = dataclasses.replace(BASE, steps=6, warmup_steps=1)
    tasks = [_task(base, "matta"), _task(base, "separate_ta")]
    rows = [rows_of(place, task) for task in tasks]
    assert capsys.readouterr().out.count("[train] started") == 4
    slices = ["s", "s-m", "m", "m-xl", "xl"]
    assert [[row["size"] for row in of_arm] for of_arm in rows] == [["s", "m", "xl", *slices], ["xl", "s", "m"]]
    assert [rows_of(place, task) for task in tasks] == rows
    assert "started" not in capsys.readouterr().out
    for row in rows[0][:3]:
        sums, numbers = zip(*row["documents"], strict=True)
        assert sum(numbers) == 5
        assert sum(sums) / 5 == pytest.approx(row["loss"], abs=1e-3)


def test_a_sequence_counts_to_the_document_in_which_it_begins():
    stream = np.array([[1, 0, 2], [3, 4, 5], [0, 6, 0], [7, 8, 9]])
    assert documents_of(stream, 0).tolist() == [0, 1, 1, 3]


def _task(base, arm):
    return Task("in_domain", "tiny", "equal_steps", arm, 0, tuple(arms(base)[arm]), 1)


def test_sizes_that_never_go_on_alone_are_the_slices(place):
    rows = rows_of(place, _task(dataclasses.replace(BASE, steps=6, warmup_steps=1), "matformer"))
    sizes, slices = ({row["size"]: row["loss"] for row in rows if row.get("slice", False) == is_} for is_ in (0, 1))
    assert len(set(slices.values())) == 5
    for name, loss in sizes.items():
        assert slices[name] == pytest.approx(loss, abs=2e-5)


def test_a_rate_with_which_training_diverges_is_never_the_best(place, monkeypatch):
    def diverged(*_):
        raise TrainingDivergedError("training diverged in step 1")

    run = arms(dataclasses.replace(BASE, steps=6, warmup_steps=1))["matformer"][0]
    assert 0 < tuning_loss(place, "in_domain", run, None) < math.inf
    monkeypatch.setattr(Place, "trained", diverged)
    assert tuning_loss(place, "in_domain", run, None) == math.inf


LOSSES = {("teacher_only", 0): 4.0, ("teacher_only", 1): 4.2, ("matta", 0): 3.9, ("matta", 1): 4.0}
ROWS = [
    {"regime": "r", "shape": "p", "budget": "equal_steps", "arm": arm, "size": "s", "seed": seed, "loss": loss,
     "flops": {"teacher_only": 2.0, "matta": 1.0}[arm]}
    for (arm, seed), loss in LOSSES.items()
]  # fmt: skip


def test_the_table_pairs_arms_by_seed(tmp_path):
    half = 12.706 * 0.0707107 / math.sqrt(2)  # t of one degree of freedom, the deviation of -0.1 and -0.2
    assert interval([-0.1, -0.2]) == pytest.approx(half, rel=1e-3)
    assert f"| matta | 0.50 | 3.950 (-0.150 ± {half:.3f}) |" in table(ROWS)
    assert "| teacher_only | 1.00 | 4.100 |" in table(ROWS)
    write_plot(ROWS, tmp_path / "plot.svg")
    assert (tmp_path / "plot.svg").read_text().count("<circle") == 2


def test_the_table_pairs_arms_by_document():
    better = [0.1, 0.2, 0.3]  # of three documents of one sequence each, with both seeds
    rows = [
        row | {"documents": [[5.0 - (gain if row["arm"] == "matta" else 0.0), 1] for gain in better]} for row in ROWS
    ]
    half = 4.3027 * statistics.stdev(better) / math.sqrt(3)  # t of two degrees of freedom
    assert f", ± {half:.3f}) |" in table(rows)


def test_the_table_tells_how_far_untrained_widths_are_from_their_neighbours():
    slices = [
        {**ROWS[2], "size": name, "loss": loss, "slice": True} for name, loss in (("s", 4.0), ("s-m", 3.7), ("m", 3.6))
    ]
    told = table([*ROWS, *slices])
    assert told.startswith(table(ROWS).strip())
    assert "| arm | s | s-m | m |" in told
    assert "| matta | 4.000 | 3.700 (-0.100) | 3.600 |" in told


def test_rows_of_other_regimes_stay(tmp_path):
    other = [row | {"regime": "q"} for row in ROWS]
    write(tmp_path, other, {"q/p/matta/family": 0.1, "q/p/conventional/s": 0.2})
    write(tmp_path, ROWS[:1], {"r/p/matta/family": 0.3})
    write(tmp_path, ROWS[:2], {"r/p/matta/family": 0.4})
    results = json.loads((tmp_path / "quality.json").read_text())
    assert results["rows"] == [*sorted(other, key=lambda row: row["arm"]), *ROWS[:2]]
    assert results["learning_rates"] == {"q/p/matta/family": 0.1, "q/p/conventional/s": 0.2, "r/p/matta/family": 0.4}
    assert table(results["rows"]) == (tmp_path / "quality.md").read_text()


def test_the_results_in_the_repository_are_what_its_table_says():
    rows = json.loads((RESULTS / "quality.json").read_text())["rows"]
    assert table(rows) == (RESULTS / "quality.md").read_text()
