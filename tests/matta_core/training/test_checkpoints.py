"""A checkpoint is believed as it was written, or passed over for the one before it; nothing non-finite is written."""

import dataclasses
import json
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import TRAINING, make_dataset

from components.train.step import train
from matta_core.artifacts import IN_PROGRESS, digest_of, file_digest
from matta_core.errors import TrainingDivergedError, UserError
from matta_core.recipe import OptimizerConfig
from matta_core.training import step as training_step
from matta_core.training.state import DamagedStateError, read_state

CONFIG = dataclasses.replace(TRAINING, steps=6)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("data") / "dataset")


@pytest.fixture(scope="module")
def whole(dataset, tmp_path_factory):
    run = train(CONFIG, dataset.path, None, output=tmp_path_factory.mktemp("whole") / "run")
    return load_file(run.path / "ta" / "model.safetensors")


def killed(dataset, output, config=CONFIG, steps=4):
    """A run that was killed after so many steps: what it left holds the checkpoints of the last two."""
    real, left = torch.optim.AdamW.step, iter(range(steps))

    def dies(self, *arguments, **options):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return real(self, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(torch.optim.AdamW, "step", dies)
        train(config, dataset.path, None, output=output)
    return output


@pytest.fixture(scope="module")
def killed_run(dataset, tmp_path_factory):
    return killed(dataset, tmp_path_factory.mktemp("killed") / "run")


@pytest.fixture(scope="module")
def with_muon(dataset, tmp_path_factory):
    config = dataclasses.replace(CONFIG, optimizer=OptimizerConfig(name="muon"))
    return killed(dataset, tmp_path_factory.mktemp("muon") / "run", config)


@pytest.fixture
def unfinished(killed_run, tmp_path):
    shutil.copytree(killed_run, tmp_path / "run")
    return tmp_path / "run"


def checkpoints(output):
    return sorted((output / IN_PROGRESS).glob("step-*"))


def flip(file, place):
    content = bytearray(file.read_bytes())
    content[int(place * (len(content) - 1))] ^= 1
    file.write_bytes(content)


def rewritten(change):
    """state.json with a value changed, and its digest made to fit again."""

    def damage(folder):
        state = json.loads((folder / "state.json").read_text())
        state.pop("sha256")
        change(state)
        (folder / "state.json").write_text(json.dumps({"sha256": digest_of(state), **state}))

    return damage


def non_matching(folder):
    """Weights of another model, with digests that fit."""
    tensors = load_file(folder / "model.safetensors")
    tensors.pop(sorted(tensors)[0])
    save_file(tensors, folder / "model.safetensors")
    digest = file_digest(folder / "model.safetensors")
    rewritten(lambda state: state["files"].update({"model.safetensors": digest}))(folder)


DAMAGES = {
    "state empty": lambda folder: (folder / "state.json").write_bytes(b""),
    "state torn": lambda folder: (folder / "state.json").write_bytes((folder / "state.json").read_bytes()[:100]),
    "state zeroed": lambda folder: (folder / "state.json").write_bytes(bytes(500)),
    "state missing": lambda folder: (folder / "state.json").unlink(),
    "state a list": lambda folder: (folder / "state.json").write_text("[]"),
    "state null": lambda folder: (folder / "state.json").write_text("null"),
    "state without digest": lambda folder: (folder / "state.json").write_text('{"step": 4}'),
    "state deep": lambda folder: (folder / "state.json").write_text("[" * 100_000),
    "state not UTF-8": lambda folder: (folder / "state.json").write_bytes(b"\xff\xfe\x00"),
    "state of another step": lambda folder: (folder / "state.json").write_text(
        (folder / "state.json").read_text().replace('"step": 4', '"step": 5')
    ),
    "state a folder": lambda folder: ((folder / "state.json").unlink(), (folder / "state.json").mkdir()),
    "wrong type of sizes": rewritten(lambda state: state.update(sizes=[1])),
    "wrong type of strides": rewritten(lambda state: state.update(strides={"x": 1})),
    "no files": rewritten(lambda state: state.pop("files")),
    "no groups": rewritten(lambda state: state.update(group_steps=[])),
    "other sizes": rewritten(lambda state: state["sizes"].pop("s")),
    "weights truncated": lambda folder: (folder / "model.safetensors").write_bytes(
        (folder / "model.safetensors").read_bytes()[:-100]
    ),
    "weights zeroed": lambda folder: (folder / "model.safetensors").write_bytes(
        bytes((folder / "model.safetensors").stat().st_size)
    ),
    "weights empty": lambda folder: (folder / "model.safetensors").write_bytes(b""),
    "weights missing": lambda folder: (folder / "model.safetensors").unlink(),
    "weights of another model": non_matching,
    "a bit of the weights": lambda folder: flip(folder / "model.safetensors", 0.7),
    "a bit of their header": lambda folder: flip(folder / "model.safetensors", 0.01),
    "optimizer truncated": lambda folder: (folder / "optimizer.safetensors").write_bytes(b"\x08"),
    "optimizer missing": lambda folder: (folder / "optimizer.safetensors").unlink(),
    "a bit of the optimizer's": lambda folder: flip(folder / "optimizer.safetensors", 0.9),
    "everything": lambda folder: [file.unlink() for file in folder.iterdir()],
    "a file in its place": lambda folder: (shutil.rmtree(folder), folder.write_text("")),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before_it(dataset, whole, unfinished, damage, caplog):
    newest = checkpoints(unfinished)[-1]
    assert newest.name == "step-00000004"
    DAMAGES[damage](newest)
    run = train(CONFIG, dataset.path, None, output=unfinished)
    (told,) = [record.getMessage() for record in caplog.records if "step-00000004" in record.getMessage()]
    assert told.endswith(": going on from the checkpoint before it")
    ours = load_file(run.path / "ta" / "model.safetensors")
    assert all(torch.equal(ours[name], tensor) for name, tensor in whole.items())


@pytest.mark.parametrize("damage", ["state empty", "weights zeroed", "optimizer missing", "a file in its place"])
def test_where_none_is_left_it_says_so_with_each_reason_and_touches_nothing(dataset, unfinished, damage):
    for folder in checkpoints(unfinished):
        DAMAGES[damage](folder)
    with pytest.raises(UserError, match=r"every checkpoint in .* is damaged: delete the folder, and the") as caught:
        train(CONFIG, dataset.path, None, output=unfinished)
    assert "\n" not in str(caught.value)
    for folder in checkpoints(unfinished):
        assert str(folder) in str(caught.value)
    assert len(checkpoints(unfinished)) == 2


def test_a_checkpoint_of_another_optimizer_is_passed_over(dataset, whole, unfinished, with_muon, caplog):
    shutil.rmtree(checkpoints(unfinished)[-1])
    shutil.copytree(checkpoints(with_muon)[-1], unfinished / IN_PROGRESS / "step-00000004")
    run = train(CONFIG, dataset.path, None, output=unfinished)
    assert "was written with another optimizer or other blocks than the recipe's" in caplog.text
    ours = load_file(run.path / "ta" / "model.safetensors")
    assert all(torch.equal(ours[name], tensor) for name, tensor in whole.items())


def test_after_a_damaged_one_the_next_are_kept_and_it_goes(dataset, unfinished):
    """Else the damaged one, the newest by its name, would stay in a good one's place."""
    DAMAGES["weights empty"](checkpoints(unfinished)[-1])
    (unfinished / IN_PROGRESS / "step-00000099").mkdir()
    real, steps = torch.optim.AdamW.step, iter(range(2))

    def dies(self, *arguments, **options):
        if next(steps, None) is None:  # the first fills the state that is loaded, the second is step 4's
            raise KeyboardInterrupt
        return real(self, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(torch.optim.AdamW, "step", dies)
        train(CONFIG, dataset.path, None, output=unfinished)
    assert [folder.name for folder in checkpoints(unfinished)] == ["step-00000003", "step-00000004"]
    assert read_state(checkpoints(unfinished)[-1]).step == 4


def test_a_whole_one_is_read_back_and_an_altered_one_names_the_file(unfinished):
    newest = checkpoints(unfinished)[-1]
    assert read_state(newest).step == 4
    flip(newest / "optimizer.safetensors", 0.5)
    with pytest.raises(DamagedStateError, match=r"step-00000004/optimizer.safetensors was altered"):
        read_state(newest)


class Broken:
    """Puts a value into a weight, or into the optimizer's state, right after the n-th update."""

    def __init__(self, patch, at, value, into):
        self.calls, real = 0, torch.optim.AdamW.step

        def stepping(optimizer, *arguments, **options):
            real(optimizer, *arguments, **options)
            if optimizer.param_groups[0]["lr"] and any(p.grad.any() for p in optimizer.param_groups[0]["params"]):
                self.calls += 1  # not the step that fills a state before it is loaded
                if self.calls == at:
                    weight = optimizer.param_groups[0]["params"][0]
                    target = weight if into == "weight" else optimizer.state[weight]["exp_avg_sq"]
                    with torch.no_grad():
                        target.view(-1)[3] = value

        patch.setattr(torch.optim.AdamW, "step", stepping)


@pytest.mark.parametrize("into", ["weight", "moment"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_the_last_update_breaks_is_told_in_one_line_at_every_try_and_never_saved(
    dataset, tmp_path, monkeypatch, into, value
):
    for attempt, left in ((1, 6), (2, 1)):  # the second goes on from step 5
        with monkeypatch.context() as patch:
            Broken(patch, left, value, into)
            with pytest.raises(TrainingDivergedError) as caught:
                train(CONFIG, dataset.path, None, output=tmp_path / "run")
        said = str(caught.value)
        assert "training diverged in step 6: " in said, (attempt, said)
        assert f"; the last good checkpoint is kept in {tmp_path}/run/{IN_PROGRESS}/step-00000005. Lower" in said
        assert [folder.name for folder in checkpoints(tmp_path / "run")] == ["step-00000004", "step-00000005"]
        for folder in checkpoints(tmp_path / "run"):
            for name in ("model.safetensors", "optimizer.safetensors"):
                assert all(tensor.isfinite().all() for tensor in load_file(folder / name).values())
        assert not (tmp_path / "run" / "ta").exists()
        assert "NaN" not in (tmp_path / "run" / "metrics.jsonl").read_text()


@pytest.mark.parametrize("into", ["weight", "moment"])
def test_what_an_update_in_the_middle_breaks_is_not_in_the_checkpoint_after_it(dataset, tmp_path, monkeypatch, into):
    Broken(monkeypatch, 3, float("nan"), into)
    with pytest.raises(TrainingDivergedError, match=r"diverged in step 3: it left NaN .* kept in .*step-00000002\."):
        train(CONFIG, dataset.path, None, output=tmp_path / "run")
    assert [folder.name for folder in checkpoints(tmp_path / "run")] == ["step-00000001", "step-00000002"]


def test_the_checkpoint_that_is_named_is_not_one_that_was_passed_over(dataset, unfinished, monkeypatch):
    DAMAGES["weights empty"](checkpoints(unfinished)[-1])
    monkeypatch.setattr(training_step, "joint_backward", lambda *_, **__: {"cross_entropy/xl": torch.tensor(torch.nan)})
    with pytest.raises(TrainingDivergedError, match=r"diverged in step 4: cross_entropy/xl = nan; .*step-00000003\."):
        train(CONFIG, dataset.path, None, output=unfinished)


def test_a_step_never_waits_for_the_device(dataset, tmp_path, monkeypatch):
    """What is read of a GPU is waited for. The stock models' own look for packed sequences is not ours to leave out."""
    waits = []
    for name in ("tolist", "item", "__bool__", "__float__", "cpu", "numpy"):
        real = getattr(torch.Tensor, name)

        def waiting(self, *arguments, real=real, name=name):
            if (caller := sys._getframe(1).f_globals["__name__"]) != "transformers.masking_utils":
                waits.append(f"{name} in {caller}")
            return real(self, *arguments)

        monkeypatch.setattr(torch.Tensor, name, waiting)
    real_step, counts = training_step.train_step, []

    def counted(*arguments):
        before = len(waits)
        done = real_step(*arguments)
        counts.append(waits[before:])
        return done

    monkeypatch.setattr("matta_core.train.train_step", counted)
    rarely = {"log_every_steps": 3, "eval_every_steps": 6, "checkpoint_every_steps": 6}
    train(dataclasses.replace(CONFIG, **rarely), dataset.path, None, output=tmp_path / "run")
    assert counts == [[]] * (CONFIG.steps + len(CONFIG.sizes) * CONFIG.consolidation_steps)
    assert any("matta_core.training.metrics" in wait for wait in waits), "the figures are read, after the steps"
