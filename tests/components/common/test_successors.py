"""Work that runs every time: what it made before stays whole until its successor is, whatever happens between."""

import os
import signal
from dataclasses import dataclass

import pytest
from support import in_a_child

from components.common.step_runner import run_step
from matta_core.artifacts import IN_PROGRESS, open_artifact
from matta_core.errors import UserError
from matta_core.recipe.settings import Section

# Each in one file more than the other, and of the same name once a file and once a folder.
FIRST = {"record.json": "1", "cards/s.md": "of the first", "both": "a file", "cards/gone.md": "x"}
SECOND = {"record.json": "2", "cards/s.md": "of the second", "both/inside": "a folder", "new.md": "y"}
WRITES = ("rename", "replace", "unlink", "rmdir", "mkdir", "fsync")


@dataclass(frozen=True)
class Config(Section):
    pass


def push(output, files=None):
    """A step as push is one; without files, one that fails after it wrote some."""

    def work(path):
        for name, content in (files or SECOND).items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_text(content)
        if files is None:
            raise UserError("the target is full")

    return run_step("gate", "Record", output, Config(), {}, work, reuse=False)


def files_in(path):
    return {
        str(file.relative_to(path)): file.read_text()
        for file in path.rglob("*")
        if file.is_file() and file.name not in ("manifest.json", ".lock")
    }


def test_a_failed_run_leaves_the_earlier_artifact_as_it_was(tmp_path):
    first = push(tmp_path / "out", FIRST)
    for _ in range(2):
        with pytest.raises(UserError, match="the target is full"):
            push(tmp_path / "out")
        assert open_artifact(tmp_path / "out", "Record") == first


def test_a_later_run_replaces_every_file_of_the_earlier_one(tmp_path):
    push(tmp_path / "out", FIRST)
    second = push(tmp_path / "out", SECOND)
    assert open_artifact(tmp_path / "out", "Record") == second
    assert files_in(tmp_path / "out") == SECOND
    assert push(tmp_path / "out", FIRST).digest != second.digest
    assert files_in(tmp_path / "out") == FIRST


def test_the_earlier_artifact_can_be_read_while_its_successor_is_made(tmp_path):
    first = push(tmp_path / "out", FIRST)

    def work(path):
        assert open_artifact(tmp_path / "out", "Record") == first
        (path / "record.json").write_text("3")

    run_step("gate", "Record", tmp_path / "out", Config(), {}, work, reuse=False)


def test_killed_at_any_write_the_earlier_or_the_later_artifact_is_whole_or_made_whole_by_a_run_that_fails(
    tmp_path, monkeypatch
):
    digests = {name: push(tmp_path / name, files).digest for name, files in (("one", FIRST), ("two", SECOND))}
    seen, write = [], 0
    while True:
        write += 1
        output = tmp_path / f"killed-{write}"
        push(output, FIRST)

        def killed_at(output=output, write=write):
            left = [write]

            def counted(real):
                def call(*arguments, **options):
                    left[0] -= 1
                    if left[0] == 0:
                        os.kill(os.getpid(), signal.SIGKILL)
                    return real(*arguments, **options)

                return call

            for name in WRITES:
                monkeypatch.setattr(os, name, counted(getattr(os, name)))
            push(output, SECOND)

        status = in_a_child(killed_at)
        if status == 0:
            break
        assert status == -signal.SIGKILL
        with pytest.raises(UserError, match="the target is full"):
            push(output)
        seen.append(open_artifact(output, "Record").digest)
        assert push(output, SECOND).digest == digests["two"]
        assert files_in(output) == SECOND
        assert not (output / IN_PROGRESS).exists()
    assert set(seen) == set(digests.values())
    assert seen == sorted(seen, key=list(digests.values()).index)  # the first up to some write, then the second
    assert len(seen) > 15
