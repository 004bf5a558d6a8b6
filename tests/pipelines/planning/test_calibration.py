"""What a short run on this machine measured predicts a longer one, and one of another size."""

import dataclasses
import json
import statistics
import time

import pytest
from support import TRAINING, make_dataset

from components.train.step import train
from matta_core.artifacts import finish_artifact
from matta_core.errors import UserError
from matta_core.machines import Machine
from matta_core.recipe import Recipe
from pipelines.planning.assumptions import Assumptions, calibrated
from pipelines.planning.plan import Planner

LENGTH = 48
PEAK = Machine("cpu", 1e11, 8e9)
SHORT = dataclasses.replace(
    TRAINING,
    model={"model_type": "gpt2", "hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2},
    sizes={"s": 128, "m": 256, "xl": 512},
    steps=25,
    warmup_steps=4,
    batch_size=16,
    eval_every_steps=1000,
    checkpoint_every_steps=1000,
)


def recipe_of(config):
    return Recipe.from_dict(
        {
            "name": "measured",
            "prepare_data": {"vocab_size": 300, "sequence_length": LENGTH},
            "evaluate": {"last_token_context": 8},
            "score_teacher": {"teacher": "a/teacher"},
            "train": {**config.to_dict(), "model": {**config.model, "vocab_size": 257}},
            "push": {"target": "pushed"},
        }
    )


def seconds_planned(config, run):
    assumed = calibrated(Assumptions(), run, PEAK, num_workers=1)
    planner = Planner(recipe_of(config), PEAK, 1, assumed, tokens=10**5, teacher_parameters=10**6)
    return next(step.seconds for step in planner.steps() if step.name == "train")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Trains by the settings. Gives the run's folder and seconds: the processor's, as machines are shared."""
    dataset = make_dataset(
        tmp_path_factory.mktemp("data") / "dataset", train_rows=64, validation_rows=64, length=LENGTH
    )

    def run(config):
        folder = tmp_path_factory.mktemp("run")
        with pytest.MonkeyPatch.context() as clock:
            clock.setattr(time, "perf_counter", time.process_time)
            clock.setattr(time, "monotonic", time.process_time)
            made = train(config, dataset.path, None, output=f"{folder}/artifacts/train-{{key}}")
        return folder, made.seconds

    return run


def test_the_plan_of_the_run_that_it_was_calibrated_on_is_that_run(trained):
    folder, took = trained(SHORT)
    assert seconds_planned(SHORT, folder) == pytest.approx(took, rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    "longer",
    [{"steps": 80}, {"batch_size": 24, "shares": "all", "nest_from": 0.0, "sizes": {"s": 128, "m": 256, "xl": 768}}],
    ids=["more steps", "other sizes, shares and batches"],
)
def test_a_short_run_predicts_another_within_a_fifth(trained, longer):
    """On a shared machine a run may be slowed down by a third: the median of three pairs, one run after the other."""
    config, ratios = dataclasses.replace(SHORT, **longer), []
    for _ in range(3):
        short, _ = trained(SHORT)
        _, took = trained(config)
        ratios.append(seconds_planned(config, short) / took)
    assert statistics.median(ratios) == pytest.approx(1.0, abs=0.2), ratios


def a_run(folder, *, flops=None, seconds=4.0):
    """A run's folder with a finished training of 100 FLOP/s for three seconds."""
    checkpoint = folder / "artifacts" / "train-0123"
    checkpoint.mkdir(parents=True)
    rows = [{"step": 1, "perf/seconds": 1.0, "perf/flops_per_second": 40.0}, {"step": 1, "eval/loss/s": 1.0}]
    rows.append({"step": 3, "perf/seconds": 2.0, "perf/flops_per_second": 130.0})
    (checkpoint / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    counted = {} if flops is None else {"flops": flops, "ranks": 2}
    finish_artifact(checkpoint, "MattaCheckpoint", key="0" * 64, metadata=counted, seconds=seconds)
    return folder


def test_speed_is_that_of_a_rank_while_it_trains_and_what_is_left_is_fixed(tmp_path):
    measured = calibrated(Assumptions(), a_run(tmp_path, flops=350), Machine("gpu", 1000.0, 1.0), 1)
    assert measured.mfu("train") == pytest.approx(100 / 2 / 1000)
    assert measured.fixed_seconds["train"] == pytest.approx(4.0 - 350 / 100)
    assert measured.mfu("score_teacher") == Assumptions().forward_mfu


def test_a_resumed_run_which_counts_its_last_part_alone_has_nothing_fixed(tmp_path):
    measured = calibrated(Assumptions(), a_run(tmp_path, flops=350, seconds=2.0), PEAK, 1)
    assert measured.fixed_seconds["train"] == 0.0


def test_a_run_of_an_older_version_is_told(tmp_path):
    with pytest.raises(UserError, match=r"--calibrate: .*train-0123 was made by a version that did not count FLOPs"):
        calibrated(Assumptions(), a_run(tmp_path), PEAK, 1)
