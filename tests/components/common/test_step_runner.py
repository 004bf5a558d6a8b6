"""What every step does with its directory, its mistakes, and a disk that is full."""

import errno
import os
import subprocess
import sys
from dataclasses import dataclass

import pytest

from components.common.command_line import load_recipe
from components.common.interpreter import python
from components.common.step_runner import exit_on_user_error, run_step
from matta_core.artifacts import IN_PROGRESS, open_artifact
from matta_core.errors import TrainingDivergedError, UserError
from matta_core.recipe.settings import Section, setting


@dataclass(frozen=True)
class Config(Section):
    words: str = setting("hello")


def write_words(path):
    (path / "words.txt").write_text("hello")
    return {"letters": 5}


def run(output, work=write_words, **options):
    return run_step("gate", "Words", output, Config(**options), {}, work)


def test_a_step_seals_what_it_made(tmp_path):
    artifact = run(tmp_path / "out")
    assert open_artifact(artifact.path, "Words").metadata == {"letters": 5}
    assert not (artifact.path / IN_PROGRESS).exists()


def test_finished_work_is_reused_and_not_done_again(tmp_path, capsys):
    first = run(tmp_path / "out")

    def must_not_run(path):
        raise AssertionError

    assert run(tmp_path / "out", must_not_run).digest == first.digest
    assert "[gate] reused" in capsys.readouterr().out


def test_each_piece_of_work_has_a_directory_of_its_own_where_the_output_asks_for_it(tmp_path):
    one, two = run(tmp_path / "w-{key}"), run(tmp_path / "w-{key}", words="bye")
    assert one.path != two.path
    assert one.path.name == f"w-{one.key[:16]}"


def test_work_with_other_settings_is_not_overwritten(tmp_path):
    run(tmp_path / "out")
    with pytest.raises(UserError, match=r"out holds a finished Words made with other settings.*choose another"):
        run(tmp_path / "out", words="bye")


def test_unfinished_work_is_resumed_by_the_same_settings_and_refused_by_others(tmp_path):
    class Killed(BaseException):
        pass

    def dies(path):
        (path / IN_PROGRESS / "half").write_text("so far")
        raise Killed

    with pytest.raises(Killed):
        run(tmp_path / "out", dies)
    with pytest.raises(UserError, match=r"no finished artifact"):
        open_artifact(tmp_path / "out", "Words")
    with pytest.raises(UserError, match=r"out holds unfinished work with other settings"):
        run(tmp_path / "out", words="bye")

    def goes_on(path):
        assert (path / IN_PROGRESS / "half").read_text() == "so far"
        return write_words(path)

    run(tmp_path / "out", goes_on)


def test_killed_between_the_manifest_and_the_clearing_up_it_is_finished(tmp_path, monkeypatch):
    import shutil

    def killed(path, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(shutil, "rmtree", killed)
        run(tmp_path / "out")
    artifact = run(tmp_path / "out")
    assert not (artifact.path / IN_PROGRESS).exists()


def test_a_directory_with_somebody_elses_files_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(UserError, match=r"is not empty and holds no work of this step: choose another --output"):
        run(tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "precious"


def test_an_output_below_a_file_is_refused_with_the_place(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*file.*: Not a directory. Free space there or choose another"):
        run(tmp_path / "file" / "out")


def test_a_full_disk_is_told_with_the_place_and_the_remedy(tmp_path):
    def fills(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path / "words.txt"))

    with pytest.raises(UserError, match=r"cannot write .*words.txt: No space left on device. Free space there"):
        run(tmp_path / "out", fills)
    run(tmp_path / "out")  # and the same command goes on


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_disk_that_is_really_full_loses_nothing(tmp_path):
    """safetensors and pyarrow on a file system of 256 kB: each has its own way of saying so."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    import torch
    from safetensors.torch import save_file

    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", small], capture_output=True).returncode:
        pytest.skip("this machine does not let us mount a file system")
    try:
        for number, write in enumerate(
            (
                lambda path: save_file({"w": torch.ones(1_000_000)}, path / "w.safetensors"),
                lambda path: pq.write_table(
                    pa.table({"x": os.urandom(1_000_000).hex().split("0")}), path / "t.parquet"
                ),
                lambda path: (path / "t.txt").write_bytes(bytes(1_000_000)),
            )
        ):
            with pytest.raises(UserError, match=r"cannot write .*small/.*No space left on device"):
                run(small / str(number), write)
            subprocess.run(f"rm -rf {small}/*", shell=True, check=True)
    finally:
        subprocess.run(["umount", small], check=True)


def test_a_full_disk_that_a_library_wraps_in_its_own_error_is_told_as_well(tmp_path):
    def fills(path):
        try:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path / "rows.arrow"))
        except OSError as error:
            raise RuntimeError("An error occurred while generating the dataset") from error

    with pytest.raises(UserError, match=r"cannot write .*rows.arrow: No space left on device"):
        run(tmp_path / "out", fills)


@pytest.mark.parametrize(
    "reason",
    ["File too large", "Disk quota exceeded", "Read-only file system", "Permission denied", "No space left on device"],
)
@pytest.mark.parametrize("told", ["{}", "I/O error: {} (os error 27)", "[Errno 27] Error writing bytes to file: {}."])
def test_a_disk_error_that_a_library_tells_as_text_is_told_as_well(tmp_path, reason, told):
    def fails(path):
        raise RuntimeError(told.format(reason))

    with pytest.raises(UserError, match=rf"cannot write .*/out: {reason}\. Free space there"):
        run(tmp_path / "out", fails)


def test_words_of_a_disk_error_inside_another_message_are_not_taken_for_one(tmp_path):
    def fails(path):
        raise RuntimeError("403 Permission denied on resource project x")

    with pytest.raises(RuntimeError, match="403"):
        run(tmp_path / "out", fails)


def test_a_directory_that_cannot_be_made_is_refused():
    with pytest.raises(UserError, match=r"cannot make the directory /proc/x.*choose another --output"):
        run("/proc/x")


def test_users_mistakes_end_with_status_2_and_divergence_with_3_and_no_traceback(capsys):
    with pytest.raises(SystemExit) as ended, exit_on_user_error():
        raise UserError("steps must be >= 1, got 0")
    assert ended.value.code == 2
    with pytest.raises(SystemExit) as ended, exit_on_user_error():
        raise TrainingDivergedError("training diverged in step 3")
    assert ended.value.code == 3
    assert capsys.readouterr().err == "error: steps must be >= 1, got 0\ndiverged: training diverged in step 3\n"


def test_our_own_bugs_keep_their_traceback():
    with pytest.raises(ZeroDivisionError), exit_on_user_error():
        raise ZeroDivisionError


def test_a_code_change_changes_the_key(tmp_path, monkeypatch):
    from components.common import step_runner as step

    before = run(tmp_path / "w-{key}")
    monkeypatch.setattr(step, "closure_digest", lambda module: "another")
    assert run(tmp_path / "w-{key}").key != before.key


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["train.stepz=3"], r"unknown setting train.stepz"),
        (["train.steps"], r"--set takes KEY=VALUE, for instance train.steps=100, got 'train.steps'"),
        (["name.x=3"], r"name is a value, not a section"),
        (["train.steps=0"], r"train.steps must be >= 1 .*, got 0 \(in .*demo.yaml with --set train.steps=0\)"),
    ],
)
def test_a_bad_override_is_refused(overrides, message):
    with pytest.raises(UserError, match=message):
        load_recipe(overrides=overrides)


def test_overrides_are_applied():
    recipe = load_recipe(overrides=["train.steps=123", "train.loss.loss_temperature=2"])
    assert recipe.train.loss.loss_temperature == 2.0


def test_a_recipe_that_is_missing_or_no_yaml_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"cannot read recipe .*nowhere.yaml: No such file.*recipes here: .*demo.yaml"):
        load_recipe(tmp_path / "nowhere.yaml")
    (tmp_path / "bad.yaml").write_text("a: [1")
    with pytest.raises(UserError, match=r"bad.yaml, line 1, column 6: what begins in line 1, column 4 is not closed"):
        load_recipe(tmp_path / "bad.yaml")
    (tmp_path / "list.yaml").write_text("- 1")
    with pytest.raises(UserError, match=r"list.yaml must be a mapping of settings, got list"):
        load_recipe(tmp_path / "list.yaml")


@pytest.mark.parametrize(
    "step",
    [
        "prepare_data", "train.teacher", "score_teacher", "train", "extract_students",
        "evaluate.plan", "evaluate", "evaluate.merge", "gate", "push", "report",
    ],
)  # fmt: skip
def test_the_help_of_each_step_teaches_and_needs_no_heavy_library(step):
    code = (
        "import runpy, sys; sys.argv = ['x', '--help']\n"
        f"try: runpy.run_module('components.{step}', run_name='__main__')\n"
        "except SystemExit as end: assert end.code == 0\n"
        "heavy = {'torch', 'apache_beam', 'lm_eval', 'transformers'} & sys.modules.keys()\n"
        "assert not heavy, heavy\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "--output" in result.stdout
    assert f"usage: {python()} -m components." in result.stdout


def test_two_processes_do_not_work_in_one_directory(tmp_path):
    def meanwhile_another_comes(path):
        with pytest.raises(UserError, match=r"another process is at work in .*out: wait for it or end it"):
            run(tmp_path / "out")
        return write_words(path)

    run(tmp_path / "out", meanwhile_another_comes)
