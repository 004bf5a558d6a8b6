"""What kfp does not see: a container that ended badly and was gone before it was asked about."""

import os

import pytest
from kfp import dsl, local

from components.common.command_line import load_recipe
from components.common.images import DATA_IMAGE
from matta_core.errors import UserError
from pipelines.local import docker as docker_run

pytestmark = pytest.mark.docker


@pytest.fixture
def recipe(tmp_path):
    return load_recipe(overrides=[f"push.target={tmp_path / 'pushed'}"])


@dsl.component(base_image=DATA_IMAGE, install_kfp_package=False)
def end(status: int) -> str:
    import os

    print("the last words", flush=True)
    os._exit(status)


@dsl.component(base_image=DATA_IMAGE, install_kfp_package=False)
def who_am_i(folder: str) -> str:
    import os
    from pathlib import Path

    Path(folder, "made-by-the-container").touch()
    try:
        Path("/opt/matta/written").touch()
    except OSError as error:
        return f"{os.getuid()} {Path.cwd()} {error.strerror}"
    raise AssertionError("the root file system is writable")


def run(recipe, output, component, **arguments):
    output.mkdir()
    with docker_run.containers_of(recipe, output) as (runner, problems):
        local.init(runner, pipeline_root=str(output / "kfp"))
        try:
            return component(**arguments), problems()
        except RuntimeError:
            return None, problems()


def test_a_status_is_told_with_the_steps_name(recipe, tmp_path, images, capsys):
    _, problems = run(recipe, tmp_path / "out", end, status=3)
    assert problems == ["the container of end ended with status 3"]
    assert "the last words" in capsys.readouterr().out


def test_a_container_that_was_killed_is_told_to_lack_memory(recipe, tmp_path, images):
    _, problems = run(recipe, tmp_path / "out", end, status=137)
    assert problems == ["the container of end was killed (status 137): most likely it had too little memory"]


def test_a_container_without_outputs_is_no_success(recipe, tmp_path, images):
    _, problems = run(recipe, tmp_path / "out", end, status=0)
    assert len(problems) == 1
    assert problems[0].startswith("the container of end ended without its outputs")
    assert "executor_output.json is missing" in problems[0]


def test_a_step_has_the_callers_id_and_folder_and_a_read_only_root(recipe, tmp_path, images, monkeypatch):
    monkeypatch.chdir(tmp_path)  # no mount of the run: an empty folder of that name stands there
    task, problems = run(recipe, tmp_path / "out", who_am_i, folder=str(tmp_path / "out"))
    assert problems == []
    user, cwd, error = task.output.split(" ", 2)
    assert (user, cwd) == (str(os.getuid()), str(tmp_path))
    assert error == "Read-only file system"
    assert (tmp_path / "out" / "made-by-the-container").stat().st_uid == os.getuid()


def test_an_image_with_other_code_is_refused(recipe, tmp_path, images, monkeypatch):
    monkeypatch.setattr(docker_run, "code_digest", lambda: "0" * 64)
    with (
        pytest.raises(UserError, match=r"matta/data:local holds other code than this checkout: run make images again"),
        docker_run.containers_of(recipe, tmp_path),
    ):
        pass


def test_a_missing_image_is_told(recipe, tmp_path, images, monkeypatch):
    monkeypatch.setattr(docker_run, "DATA_IMAGE", "matta/data:never-built")
    with (
        pytest.raises(UserError, match=r"there is no image matta/data:never-built on this machine: run make images"),
        docker_run.containers_of(recipe, tmp_path),
    ):
        pass
