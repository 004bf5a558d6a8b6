"""SIGTERM to a training: it saves and ends at once, and what comes of it is what would have come without."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support import TRAINING, make_dataset

from components.train.step import train
from matta_core.artifacts import IN_PROGRESS
from matta_core.errors import ToldToEndError
from matta_core.training.stopping import on_sigterm

CONFIG = dataclasses.replace(
    TRAINING, sizes={"s": 8, "m": 16, "xl": 32}, steps=20, micro_batch_size=2, checkpoint_every_steps=1000,
    eval_every_steps=5, log_every_steps=7,
)  # fmt: skip


@pytest.fixture(autouse=True)
def stray_signals_are_harmless():
    """One that comes after the training's end would end pytest."""
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("data") / "dataset")


@pytest.fixture(scope="module")
def whole(dataset, tmp_path_factory):
    """The run that nobody ended."""
    return train(CONFIG, dataset.path, None, output=tmp_path_factory.mktemp("whole") / "run")


def evaluations(path):
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if any(name.startswith("eval/") for name in row)]


def assert_same_run(ours, theirs):
    ours_weights, theirs_weights = (load_file(path / "ta" / "model.safetensors") for path in (ours, theirs))
    assert ours_weights.keys() == theirs_weights.keys()
    for name, tensor in theirs_weights.items():
        assert torch.equal(ours_weights[name], tensor), name
    assert evaluations(ours) == evaluations(theirs)


def states(output):
    return sorted(path.name for path in (output / IN_PROGRESS).glob("step-*"))


@pytest.mark.parametrize("seed", range(4))
def test_ended_at_random_moments_it_ends_with_the_same_weights_bit_for_bit(dataset, whole, tmp_path, seed):
    """Not one regular checkpoint is due: what it goes on from is what it saved when it was told to end."""
    delays = np.random.default_rng(seed)
    output, ended = tmp_path / "run", 0
    while True:
        timer = threading.Timer(delays.uniform(0.0, 0.5), os.kill, (os.getpid(), signal.SIGTERM))
        timer.start()
        try:
            run = train(CONFIG, dataset.path, None, output=output)
            break
        except ToldToEndError as error:
            assert error.code == 128 + signal.SIGTERM
            ended += 1
        finally:
            timer.cancel()
            timer.join()
        if ended == 6:
            run = train(CONFIG, dataset.path, None, output=output)
            break
    assert_same_run(run.path, whole.path)


class Moments:
    """Sends SIGTERM just before the n-th call of a function, from within the training."""

    def __init__(self, monkeypatch, module, name):
        self.calls, self.at = 0, None
        real = getattr(module, name)

        def calling(*arguments, **options):
            self.calls += 1
            if self.calls == self.at:
                os.kill(os.getpid(), signal.SIGTERM)
            return real(*arguments, **options)

        monkeypatch.setattr(module, name, calling)


def ended_at(moments, call, dataset, output):
    moments.calls, moments.at = 0, call
    with pytest.raises(ToldToEndError) as caught:
        train(CONFIG, dataset.path, None, output=output)
    moments.at = None
    return str(caught.value)


def test_told_in_the_middle_of_a_step_it_leaves_the_step_and_saves_what_was_before_it(
    dataset, whole, tmp_path, monkeypatch
):
    from matta_core.training import step as module

    passes = Moments(monkeypatch, module, "joint_backward")
    said = ended_at(passes, 4 * 7 + 2, dataset, tmp_path / "run")  # four micro-batches a step: the second of step 8
    assert passes.calls == 4 * 7 + 2  # the two that were left were not begun
    assert said == (
        f"told to end (SIGTERM): step 7 of 20 is saved in {tmp_path}/run/{IN_PROGRESS}/step-00000007; the same command "
        f"goes on from it"
    )
    assert states(tmp_path / "run") == ["step-00000007"]
    assert_same_run(train(CONFIG, dataset.path, None, output=tmp_path / "run").path, whole.path)


@pytest.mark.parametrize("evaluation", [0, 2, 4], ids=["the first", "one between", "the last"])
def test_told_in_the_middle_of_an_evaluation_it_makes_it_anew(dataset, whole, tmp_path, monkeypatch, evaluation):
    from matta_core.training import validation as module

    forwards = Moments(monkeypatch, module, "error_sum")
    sizes, batches = 3, 3
    said = ended_at(forwards, evaluation * sizes * batches + 2, dataset, tmp_path / "run")
    step = 5 * evaluation
    assert f"step {step} of 20 {'is saved in' if step else 'is the beginning'}" in said
    assert states(tmp_path / "run") == ([f"step-{step:08d}"] if step else [])
    assert [row["step"] for row in evaluations(tmp_path / "run")] == list(range(0, step, 5))
    assert_same_run(train(CONFIG, dataset.path, None, output=tmp_path / "run").path, whole.path)


def test_told_while_it_saves_it_finishes_that(dataset, whole, tmp_path, monkeypatch):
    from matta_core.training import checkpoints as module

    saves = Moments(monkeypatch, module, "save_state")
    config = dataclasses.replace(CONFIG, checkpoint_every_steps=3)
    saves.at = 2
    with pytest.raises(ToldToEndError, match=r"step 6 of 20 is saved"):
        train(config, dataset.path, None, output=tmp_path / "run")
    assert saves.calls == 2  # that one, and no other
    assert states(tmp_path / "run") == ["step-00000003", "step-00000006"]
    assert_same_run(train(config, dataset.path, None, output=tmp_path / "run").path, whole.path)


@pytest.mark.parametrize("name", ["build_config", "save_model"])
def test_told_where_nothing_is_at_risk_it_ends_at_once(dataset, whole, tmp_path, monkeypatch, name):
    import matta_core.train as module

    Moments(monkeypatch, module, name).at = 1
    with pytest.raises(
        ToldToEndError,
        match=r"told to end \(SIGTERM\): the same command goes on from the last checkpoint, if there is one",
    ):
        train(CONFIG, dataset.path, None, output=tmp_path / "run")
    monkeypatch.undo()
    assert_same_run(train(CONFIG, dataset.path, None, output=tmp_path / "run").path, whole.path)


def test_nothing_takes_the_order_for_an_error_of_its_own(dataset, tmp_path, monkeypatch):
    """Loading explains whatever a library raises: an order that comes meanwhile is none of that."""
    import matta_core.pretrained as module

    Moments(monkeypatch, module.AutoTokenizer, "from_pretrained").at = 1
    with pytest.raises(ToldToEndError):
        train(CONFIG, dataset.path, None, output=tmp_path / "run")


def test_afterwards_sigterm_does_what_it_did_before(dataset, tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    train(dataclasses.replace(CONFIG, steps=3), dataset.path, None, output=tmp_path / "run")
    assert signal.getsignal(signal.SIGTERM) is before


def test_in_another_thread_a_training_runs_without_it(dataset, tmp_path):
    config = dataclasses.replace(CONFIG, steps=3)
    thread = threading.Thread(target=train, args=(config, dataset.path, None), kwargs={"output": tmp_path / "run"})
    thread.start()
    thread.join()
    assert (tmp_path / "run" / "manifest.json").is_file()


def test_an_order_that_came_unseen_at_the_very_end_is_obeyed():
    with on_sigterm() as stop, pytest.raises(ToldToEndError), stop.awaited():
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.is_given


@pytest.mark.slow
def test_the_command_ends_with_143_within_seconds_and_one_line_and_goes_on(dataset, whole, tmp_path):
    output = tmp_path / "run"
    command = [sys.executable, "-m", "components.train", "--config", CONFIG.to_json()]
    command += ["--dataset", str(dataset.path), "--output", str(output)]
    settings = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    settings["env"] = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, **settings)
    give_up_at = time.monotonic() + 120
    while not (output / "metrics.jsonl").is_file() and time.monotonic() < give_up_at:
        time.sleep(0.001)
    process.terminate()
    told_at = time.monotonic()
    _, said = process.communicate(timeout=60)
    assert time.monotonic() - told_at < 15
    assert process.returncode == 128 + signal.SIGTERM
    assert said.splitlines()[-1].startswith("ended: told to end (SIGTERM): ")
    assert "Traceback" not in said
    subprocess.run(command, check=True, **settings)
    assert_same_run(output, whole.path)
