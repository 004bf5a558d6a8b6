"""How a local run tells what went wrong under kfp.local."""

import contextlib

import pytest
from kfp import local

import pipelines.dag
import pipelines.local.run
from components.common.command_line import DEFAULT_RECIPE, load_recipe


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run in which kfp raises `error`, and docker's events tell `problems`."""

    def call(error, problems, said):
        def pipeline(**arguments):
            print(said)
            raise error

        @contextlib.contextmanager
        def runner(*arguments):
            yield local.SubprocessRunner(use_venv=False), lambda: problems

        monkeypatch.setattr(pipelines.dag, "build_pipeline", lambda recipe: pipeline)
        monkeypatch.setattr(pipelines.local.run, "_runner", runner)
        recipe = load_recipe(DEFAULT_RECIPE, [f"push.target={tmp_path}/pushed"])
        return pipelines.local.run.run_locally(recipe, tmp_path / "run")

    return call


LOST = ValueError("Tried to get output 'dataset' from task 'prepare-data', but task 'prepare-data' not found.")
ENDED = "the container of prepare_data ended with status 2"


def test_a_failure_that_kfp_did_not_see_is_the_steps_own_message(run):
    with pytest.raises(pipelines.local.run.StepFailedError, match="the file is not UTF-8") as failed:
        run(LOST, [ENDED], "error: the file is not UTF-8")
    assert failed.value.exit_status == 2


def test_a_step_that_said_nothing_is_told_by_how_its_container_ended(run):
    with pytest.raises(pipelines.local.run.StepFailedError, match=rf"{ENDED}\n+The whole log: ") as failed:
        run(LOST, [ENDED], "")
    assert failed.value.exit_status == 1


def test_what_no_step_failed_by_keeps_its_traceback(run):
    with pytest.raises(ValueError, match="Tried to get output"):
        run(LOST, [], "")
