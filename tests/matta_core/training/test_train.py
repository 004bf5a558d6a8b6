"""The training loop: it learns, it resumes bit for bit after a real SIGKILL, and ranks and metrics add up."""

import dataclasses
import json
import math
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file
from training_support import CONFIG, MODEL, TEACHER

from components.train.step import train, train_teacher
from matta_core.artifacts import IN_PROGRESS
from matta_core.errors import TrainingDivergedError, UserError
from matta_core.recipe import LossConfig, OptimizerConfig, SizeConfig
from matta_core.training.step import train_step


def weights(artifact_path):
    return load_file(artifact_path / "ta" / "model.safetensors")


def assert_equal_bits(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


def metrics(path):
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def test_every_size_learns_and_is_logged(dataset, scores, tmp_path):
    config = dataclasses.replace(CONFIG, steps=60, nest_from=0.0)
    trained = train(config, dataset.path, scores.path, output=tmp_path / "run")
    rows = metrics(trained.path)
    first, last = rows[0], rows[-1]
    for size in config.sizes:
        assert last[f"eval/cross_entropy/{size}"] < 0.7 * first[f"eval/cross_entropy/{size}"]
        assert last[f"eval/perplexity/{size}"] == pytest.approx(math.exp(last[f"eval/cross_entropy/{size}"]))
    training = [row for row in rows if "train/cross_entropy/s" in row]
    # A mean over tokens: in the first steps near that of a uniform guess.
    assert training[0]["train/cross_entropy/s"] == pytest.approx(math.log(257), rel=0.1)
    assert [row["step"] for row in training] == list(range(3, 61, 3))
    terms = {"train/teacher_divergence/s", "train/ta_divergence/s", "train/teacher_divergence/xl", "train/grad_norm"}
    assert terms <= training[-1].keys()
    # Rows tell of the steps 2, 5, … (from 0); the ramp ends at step 4.
    assert [row["train/weight/distillation"] for row in training[:2]] == [0.25, 0.5]
    assert training[0]["train/weight/teacher"] == 0.5
    # A mean over the tokens of the steps in which a size was trained: never above what a uniform guess costs.
    assert all(
        row[f"train/cross_entropy/{size}"] < 1.2 * math.log(257)
        for row in training
        for size in ("m", "l")
        if f"train/cross_entropy/{size}" in row
    )
    assert (tmp_path / "run" / "tensorboard").is_dir()
    assert not (tmp_path / "run" / IN_PROGRESS).exists()
    ta = json.loads((trained.path / "ta" / "config.json").read_text())
    hidden, layers, inner = ta["n_embd"], ta["n_layer"], config.sizes["xl"]["intermediate_size"]
    weights_used = layers * (4 * hidden * hidden + 2 * hidden * inner) + ta["vocab_size"] * hidden
    length = dataset.metadata["sequence_length"]
    assert trained.metadata["figure"] == "cross_entropy"
    assert trained.metadata["flops_per_token"] == 2 * weights_used + 4 * length * hidden * layers


def test_resume_from_any_step_matches_the_uninterrupted_run(dataset, scores, tmp_path, monkeypatch):
    whole = train(CONFIG, dataset.path, scores.path, output=tmp_path / "whole")

    class Killed(BaseException):
        pass

    def dies_after(step):
        real = torch.optim.AdamW.step
        count = iter(range(step))

        def stepping(self, *arguments, **options):
            if next(count, None) is None:
                raise Killed
            return real(self, *arguments, **options)

        return stepping

    for every, step in ((1, 5), (1, 11), (3, 5), (4, 3)):
        config = dataclasses.replace(CONFIG, checkpoint_every_steps=every)
        output = tmp_path / f"killed-{every}-{step}"
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(torch.optim.AdamW, "step", dies_after(step))
            train(config, dataset.path, scores.path, output=output)
        resumed = train(config, dataset.path, scores.path, output=output)
        assert_equal_bits(weights(resumed.path), weights(whole.path))
        steps = [row["step"] for row in metrics(resumed.path) if "eval/perplexity/s" in row]
        assert steps == [0, 4, 8, 12]


@pytest.mark.slow
def test_resume_after_sigkill_matches_the_uninterrupted_run(dataset, scores, tmp_path):
    """A real process, killed for good at several moments, wherever it happens to be."""
    config = dataclasses.replace(CONFIG, steps=150, checkpoint_every_steps=7)
    whole = train(config, dataset.path, scores.path, output=tmp_path / "whole")
    script = (
        "import sys, torch; torch.set_num_threads(1)\n"
        "from components.train.step import train; from matta_core.recipe import TrainConfig\n"
        "train(TrainConfig.from_json(sys.argv[1]), sys.argv[2], sys.argv[3], output=sys.argv[4])\n"
    )
    output = tmp_path / "killed"
    command = [sys.executable, "-c", script, config.to_json(), str(dataset.path), str(scores.path), str(output)]
    kills = 0
    for delay in (0.05, 0.3, 0.6):
        process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)
        state = output / IN_PROGRESS
        known = set(state.glob("step-*"))
        while process.poll() is None and not set(state.glob("step-*")) - known:
            time.sleep(0.01)
        time.sleep(delay)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            kills += 1
        process.wait()
    assert kills >= 2, "the run was over before it could be killed: give it more steps"
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    assert_equal_bits(weights(output), weights(whole.path))


def torchrun(processes, config, dataset, scores, output, code="run()"):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    script = output.parent / "run_training.py"
    script.write_text(
        "import sys, torch; torch.set_num_threads(1)\n"
        "from components.train.step import train; from matta_core.recipe import TrainConfig\n"
        "def run():\n"
        "    train(TrainConfig.from_json(sys.argv[1]), sys.argv[2], sys.argv[3], output=sys.argv[4])\n" + code
    )
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}"]
    command += [f"--master-port={port}", "--master-addr=127.0.0.1", str(script)]
    subprocess.run(
        [*command, config.to_json(), str(dataset.path), str(scores.path), str(output)],
        check=True,
        capture_output=True,
        env=os.environ | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.slow
def test_one_rank_equals_the_plain_run_and_two_ranks_agree_with_it(dataset, scores, tmp_path):
    plain = weights(train(CONFIG, dataset.path, scores.path, output=tmp_path / "plain").path)
    torchrun(1, CONFIG, dataset, scores, tmp_path / "one")
    assert_equal_bits(weights(tmp_path / "one"), plain)
    # Two ranks add the same numbers in another order; AdamW's division makes more of that in a few weights.
    torchrun(2, CONFIG, dataset, scores, tmp_path / "two")
    two = weights(tmp_path / "two")
    for name, tensor in plain.items():
        assert torch.allclose(two[name], tensor, rtol=1e-2, atol=1e-4), name


def test_two_micro_batches_train_like_one_batch(dataset, scores, tmp_path):
    plain = weights(train(CONFIG, dataset.path, scores.path, output=tmp_path / "plain").path)
    micro = dataclasses.replace(CONFIG, micro_batch_size=3)
    for name, tensor in weights(train(micro, dataset.path, scores.path, output=tmp_path / "micro").path).items():
        assert torch.allclose(tensor, plain[name], rtol=1e-2, atol=1e-4), name


def test_a_nan_loss_stops_with_the_step_and_keeps_the_last_good_checkpoint(dataset, scores, tmp_path, monkeypatch):
    from matta_core.training import step as module

    real = module.joint_backward
    calls = iter(range(100))

    def turns_to_nan(*arguments, **options):
        sums = real(*arguments, **options)
        return {name: total * float("nan") for name, total in sums.items()} if next(calls) == 6 else sums

    monkeypatch.setattr(module, "joint_backward", turns_to_nan)
    output = tmp_path / "run"
    with pytest.raises(TrainingDivergedError, match=r"diverged in step 7: cross_entropy/xl = nan.*step-00000006"):
        train(CONFIG, dataset.path, scores.path, output=output)
    good = load_file(output / IN_PROGRESS / "step-00000006" / "model.safetensors")
    assert all(torch.isfinite(tensor).all() for tensor in good.values())


RARELY = dataclasses.replace(
    CONFIG, log_every_steps=100, eval_every_steps=100, checkpoint_every_steps=100, loss=LossConfig(teacher_weight=0.0)
)


def breaks_at(call, monkeypatch, gradient=False):
    """From that pass on the sums are no numbers, or from then on the gradient."""
    from matta_core.training import step as module

    real, calls = module.joint_backward, iter(range(1000))

    def broken(objective, ta, *arguments, **options):
        sums = real(objective, ta, *arguments, **options)
        if next(calls) >= call:
            if not gradient:
                return {name: total * float("nan") for name, total in sums.items()}
            ta.transformer.h[0].mlp.c_fc.weight.grad[0, 0] = float("inf")
        return sums

    monkeypatch.setattr(module, "joint_backward", broken)


def test_where_nobody_looked_for_long_the_first_broken_step_is_told_and_nothing_is_saved(
    dataset, tmp_path, monkeypatch
):
    breaks_at(2, monkeypatch)
    with pytest.raises(
        TrainingDivergedError, match=r"diverged in step 3: cross_entropy/xl = nan[,;] .*no checkpoint was"
    ):
        train(RARELY, dataset.path, None, output=tmp_path / "run")
    assert not list((tmp_path / "run" / IN_PROGRESS).glob("step-*"))
    assert [row["step"] for row in metrics(tmp_path / "run")] == [0]


@pytest.mark.parametrize("step", [0, 4])  # in its first, SOAP looks for eigenvectors, of which there are none
@pytest.mark.parametrize("name", ["adamw", "shampoo", "soap", "muon"])
def test_a_gradient_that_is_no_number_is_told_by_its_step_whatever_the_optimizer_makes_of_it(
    dataset, tmp_path, monkeypatch, name, step
):
    breaks_at(step, monkeypatch, gradient=True)
    config = dataclasses.replace(RARELY, optimizer=OptimizerConfig(name=name))
    with pytest.raises(TrainingDivergedError, match=rf"diverged in step {step + 1}: the gradient norm is (inf|nan);"):
        train(config, dataset.path, None, output=tmp_path / "run")


def test_told_to_end_after_a_broken_step_it_saves_nothing(dataset, tmp_path, monkeypatch):
    from matta_core.train import train as loop
    from matta_core.training import stopping

    breaks_at(2, monkeypatch)
    stop, output = stopping.StopSignal(), tmp_path / "run"
    output.mkdir()

    def told_in_step_5(training, step, batches, stop):
        stop.is_given = step == 4
        return train_step(training, step, batches, stop)

    monkeypatch.setattr("matta_core.train.train_step", told_in_step_5)
    with pytest.raises(TrainingDivergedError, match=r"diverged in step 3: cross_entropy/xl = nan"):
        loop(RARELY, dataset, None, output, tmp_path / "work", stop)
    assert not list((tmp_path / "work").glob("step-*"))


@pytest.mark.slow
def test_what_breaks_in_one_rank_is_told_by_both(dataset, scores, tmp_path):
    output = tmp_path / "two"
    script = f"""
import os
from pathlib import Path
from matta_core.errors import TrainingDivergedError
from matta_core.training import step as module
real, calls = module.joint_backward, iter(range(100))
def broken(*arguments, **options):
    sums = real(*arguments, **options)
    here = os.environ["RANK"] == "1" and next(calls) == 6
    return {{name: total * float("nan") for name, total in sums.items()}} if here else sums
module.joint_backward = broken
try:
    run()
except TrainingDivergedError as error:
    Path({str(tmp_path)!r}, "told-" + os.environ["RANK"]).write_text(str(error))
"""
    torchrun(2, CONFIG, dataset, scores, output, script)
    for rank in range(2):
        assert "diverged in step 7: cross_entropy/xl = nan" in (tmp_path / f"told-{rank}").read_text()
    assert sorted(path.name for path in (output / IN_PROGRESS).glob("step-*"))[-1] == "step-00000006"


def test_a_truly_diverging_run_is_stopped(dataset, tmp_path):
    wild = dataclasses.replace(
        TEACHER, learning_rate=1.0, max_grad_norm=1e9, steps=40, warmup_steps=0, precision="fp32",
        model=MODEL | {"initializer_range": 1e18},
    )  # fmt: skip
    with pytest.raises(TrainingDivergedError, match=r"diverged before step 1: .*no checkpoint was written before it"):
        train_teacher(wild, dataset.path, output=tmp_path / "run")


def killed_after(steps, config, dataset, scores, output, monkeypatch):
    real, left = torch.optim.AdamW.step, iter(range(steps))

    def dies(self, *arguments, **options):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return real(self, *arguments, **options)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(torch.optim.AdamW, "step", dies)
        train(config, dataset.path, scores.path, output=output)
    return [state / "model.safetensors" for state in sorted((output / IN_PROGRESS).glob("step-*"))]


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before_it(dataset, scores, tmp_path, monkeypatch):
    whole = train(CONFIG, dataset.path, scores.path, output=tmp_path / "whole")
    newest = killed_after(9, CONFIG, dataset, scores, tmp_path / "killed", monkeypatch)[-1]
    newest.write_bytes(newest.read_bytes()[:-100])
    resumed = train(CONFIG, dataset.path, scores.path, output=tmp_path / "killed")
    assert_equal_bits(weights(resumed.path), weights(whole.path))


def test_where_every_checkpoint_is_damaged_a_run_does_not_begin_anew_by_itself(dataset, scores, tmp_path, monkeypatch):
    for path in killed_after(5, CONFIG, dataset, scores, tmp_path / "killed", monkeypatch):
        path.write_bytes(b"")
    with pytest.raises(UserError, match=r"every checkpoint in .* is damaged: delete the folder"):
        train(CONFIG, dataset.path, scores.path, output=tmp_path / "killed")


def test_a_resumed_run_has_the_sizes_of_its_checkpoint_and_measures_nothing(dataset, scores, tmp_path, monkeypatch):
    config = dataclasses.replace(
        CONFIG,
        model={**MODEL, "num_hidden_layers": 4},
        sizes={"s": SizeConfig(intermediate_size=8, num_hidden_layers=3), "xl": SizeConfig(intermediate_size=32)},
    )
    with monkeypatch.context() as patch:  # what importance measured when the run began
        patch.setattr("matta_core.nesting.size.spread_out", lambda _layers: [0, 3, 2, 1])
        killed_after(5, config, dataset, scores, tmp_path / "killed", monkeypatch)
    resumed = train(config, dataset.path, scores.path, output=tmp_path / "killed")
    assert json.loads((resumed.path / "nesting.json").read_text())["sizes"]["s"]["layers"] == [0, 2, 3]
    fresh = train(config, dataset.path, scores.path, output=tmp_path / "fresh")
    assert json.loads((fresh.path / "nesting.json").read_text())["sizes"]["s"]["layers"] == [0, 1, 3]
