"""Steps on a file system that behaves as NFS does where a file is deleted that some process has open."""

import errno
import fcntl
import os
import signal
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from support import TRAINING, in_a_child

from components.common.step_runner import run_step
from components.common.storage.open_storage import open_storage
from components.train.step import train
from matta_core.artifacts import IN_PROGRESS, MANIFEST, file_digest, open_artifact, read_manifest
from matta_core.errors import UserError
from matta_core.recipe.settings import Section


@dataclass(frozen=True)
class Config(Section):
    pass


def run(output, work, **options):
    return run_step("gate", "Words", output, Config(), {}, work, **options)


def write_words(path):
    (path / "words.txt").write_text("hello")


def must_not_run(path):
    raise AssertionError("this was finished")


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def test_the_stand_in_keeps_deleted_files_that_are_open(mounted):
    folder = mounted()
    with (folder / "file").open("w"):
        (folder / "file").unlink()
        (hidden,) = folder.iterdir()
        assert hidden.name != "file"
    assert list(folder.iterdir()) == []


def test_a_step_finishes_and_is_reused(mounted):
    output = mounted() / "out"
    artifact = run(output, write_words)
    assert not (output / IN_PROGRESS).exists()
    assert open_artifact(output, "Words") == artifact
    assert run(output, must_not_run) == artifact


def test_a_killed_step_is_gone_on_with(mounted):
    output = mounted() / "out"

    def dies(path):
        (path / IN_PROGRESS / "half").write_text("so far")
        die()

    def goes_on(path):
        assert (path / IN_PROGRESS / "half").read_text() == "so far"
        write_words(path)

    assert in_a_child(lambda: run(output, dies)) == -signal.SIGKILL
    artifact = run(output, goes_on)
    assert not (output / IN_PROGRESS).exists()
    assert open_artifact(output, "Words") == artifact


def test_a_step_whose_unfinished_work_is_still_open_somewhere_is_finished_all_the_same(mounted):
    output, opened = mounted() / "out", []

    def leaves_a_file_open(path):
        opened.append((path / IN_PROGRESS / "log").open("w"))
        write_words(path)

    artifact = run(output, leaves_a_file_open)
    assert open_artifact(output, "Words") == artifact
    assert list((output / IN_PROGRESS).iterdir()) != []
    opened[0].close()
    assert run(output, must_not_run) == artifact
    assert not (output / IN_PROGRESS).exists()


def test_work_that_runs_every_time_takes_the_place_of_the_last(mounted):
    output = mounted() / "out"
    first = run(output, write_words, reuse=False)
    second = run(output, lambda path: (path / "other.txt").write_text("bye") and None, reuse=False)
    assert second.digest != first.digest
    assert open_artifact(output, "Words") == second


@pytest.mark.slow
def test_a_killed_training_is_resumed_and_no_hidden_file_is_sealed(mounted, dataset, tmp_path):
    output = mounted() / "killed"
    whole = train(TRAINING, dataset.path, None, output=tmp_path / "whole")

    def killed_after_a_checkpoint():
        import matta_core.training.checkpoints

        real, saved = matta_core.training.checkpoints.save_state, []

        def save(*arguments, **options):
            real(*arguments, **options)
            saved.append(1)
            if len(saved) == 5:
                die()

        matta_core.training.checkpoints.save_state = save
        train(TRAINING, dataset.path, None, output=output)

    assert in_a_child(killed_after_a_checkpoint) == -signal.SIGKILL
    assert list((output / IN_PROGRESS).glob("step-*")) != []
    train(TRAINING, dataset.path, None, output=output)
    assert not (output / IN_PROGRESS).exists()
    assert [name for name in read_manifest(output)["files"] if "hidden" in name] == []
    for name in ("ta/model.safetensors", "nesting.json"):
        assert file_digest(output / name) == file_digest(whole.path / name)


def test_a_volume_may_be_mounted_at_the_output_itself(mounted):
    output = mounted()
    beside = sorted(output.parent.iterdir())

    def meanwhile_another_comes(path):
        with pytest.raises(UserError, match=r"another process is at work in .*mounted"):
            run(output, write_words)
        write_words(path)

    run(output, meanwhile_another_comes)
    assert sorted(output.parent.iterdir()) == beside


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")
def test_a_user_who_may_write_the_output_only_can_run_a_step_there():
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        output = Path(folder, "out")
        output.mkdir()
        os.chown(output, 1000, 1000)

        def as_another_user():
            os.setresgid(1000, 1000, 1000)
            os.setresuid(1000, 1000, 1000)
            with pytest.raises(PermissionError):
                Path(folder, "beside").touch()
            run(output, write_words)

        assert in_a_child(as_another_user) == 0
        open_artifact(output, "Words")


@pytest.mark.parametrize("error", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_told_in_one_line(tmp_path, monkeypatch, error):
    def no_locks(file, how):
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    message = r"\.lock cannot be locked \(.*\), so that nothing would keep two processes apart: use a file system with"
    with pytest.raises(UserError, match=message) as told:
        run(tmp_path / "out", write_words)
    assert len(str(told.value).splitlines()) == 1
    assert not (tmp_path / "out" / MANIFEST).exists()
    with pytest.raises(UserError, match=message):
        open_storage(str(tmp_path / "pushed")).write("s/current.json", b"{}", expected=None)
