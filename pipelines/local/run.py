"""Run the DAG on this machine by kfp.local. Each step has a process or a container of its own."""

import contextlib
import os
import shutil
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import psutil

from components.common.disk import disk_errors_explained, make_directory
from components.common.served.pointer import read_pointer
from components.common.storage.open_storage import open_storage
from components.evaluate.definitions import local_file
from components.train.start import start_of
from matta_core.artifacts import open_artifact
from matta_core.artifacts.kinds.report import SUMMARY, Summary, read_summary
from matta_core.errors import ToldToEndError, UserError
from matta_core.recipe import PUSHED, Recipe
from pipelines.checks.paths import is_path, models_named
from pipelines.local.console import Console

# Where a machine has other work, as a laptop does, OpenMP's spinning threads would wait for one another.
_ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE", "PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false"}


class StepFailedError(RuntimeError):
    """A step of a local run failed. `exit_status` is 2 for a user's mistake, 3 for a diverged training, 143 for a step
    that was told to end, else 1."""

    def __init__(self, message: str, exit_status: int) -> None:
        super().__init__(message)
        self.exit_status = exit_status


def run_locally(recipe: Recipe, output: Path, *, docker: bool = False) -> Summary:
    """Run every step; finished ones are reused by their key, a killed one goes on. Returns the summary.

    `output` then holds artifacts/ (one folder per piece of work), kfp/ (the executor's own files), pipeline.log,
    summary.json, summary.md and report.html. With `docker`, each step runs in a container of its image.

    Raises: UserError where a folder, a bucket or a file that the recipe names does not exist, or docker lacks what a
    run needs; StepFailedError with the step's own message, or the end of the log; ToldToEndError after SIGTERM, once
    the step at work has ended (a training has then written a checkpoint).
    """
    from kfp import local

    from pipelines.dag import build_pipeline
    from pipelines.steps import steps_of

    _check_what_is_named(recipe)
    make_directory(output)
    console = Console(sys.stdout, output / "pipeline.log", steps_of(recipe))
    os.environ.update({name: value for name, value in _ENVIRONMENT.items() if name not in os.environ})
    if sys.stdout.isatty():
        os.environ.setdefault("TQDM_MININTERVAL", "0.5")
        os.environ.setdefault("TQDM_NCOLS", str(shutil.get_terminal_size().columns - 1))
    started = time.monotonic()
    with contextlib.closing(console), _runner(recipe, output, docker) as (runner, problems):
        local.init(runner, pipeline_root=str(output / "kfp"))
        with contextlib.redirect_stdout(console), _sigterm_passed_on(docker) as told:
            try:
                task = build_pipeline(recipe)(store=str((output / "artifacts").resolve()))
                failure = None
            except Exception as error:
                # Of a failed step, kfp says only that a task failed, or it misses the task's outputs later on; the step
                # itself has said why. Any other error is not a step's.
                if not isinstance(error, RuntimeError) and not problems():
                    raise
                failure = error
        if told:
            raise ToldToEndError(console.error or "told to end (SIGTERM): the same command goes on from here")
        found = problems()
        if failure or found:
            reason = "; ".join(found) or str(failure)
            message = console.error or f"{reason}\n{console.tail()}\nThe whole log: {output / 'pipeline.log'}"
            raise StepFailedError(message, console.exit_status) from failure
    folder = open_artifact(task.output.path, "Report").path
    for name in (SUMMARY, "summary.md", "report.html"):
        shutil.copyfile(folder / name, output / name)
    return {**read_summary(output), "wall_seconds": time.monotonic() - started}


@contextlib.contextmanager
def _sigterm_passed_on(docker: bool) -> Iterator[list[int]]:
    """Pass SIGTERM on to the processes of the step at work, so that kfp sees it fail. Gives the signals that came.

    With docker nothing is passed on: its runner ends the containers.
    """
    told: list[int] = []
    if docker or threading.current_thread() is not threading.main_thread():
        yield told
        return

    def receive(number: int, _frame: FrameType | None) -> None:
        told.append(number)
        steps = psutil.Process().children(recursive=True)
        if not steps:  # it came between two steps
            raise ToldToEndError("told to end (SIGTERM): the same command goes on from here")
        for process in steps:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.terminate()

    before = signal.signal(signal.SIGTERM, receive)
    try:
        yield told
    finally:
        signal.signal(signal.SIGTERM, before)


def _check_what_is_named(recipe: Recipe) -> None:
    """Check now that all named folders exist, before a later step misses one after hours."""
    for where, name in models_named(recipe):
        if is_path(name) and not Path(name).exists():
            raise UserError(f"{where}: there is no folder {name}: correct the path, or give a model's name on the hub")
    target = Path(recipe.push.target).absolute()
    if "://" in recipe.push.target:
        read_pointer(open_storage(recipe.push.target), recipe.train.student)
    elif not (there := next(place for place in (target, *target.parents) if place.exists())).is_dir():
        raise UserError(f"push.target: {target} cannot be a directory, as {there} is a file: correct the path")
    else:
        with disk_errors_explained(target, "push.target"):
            make_directory(target, "push.target")
    for name, config in recipe.evaluate.tasks.items():
        if config.data_files is not None:
            local_file(name, config.data_files)
    if recipe.train.start_from == PUSHED:
        start_of(recipe.train, recipe.push, "train")


@contextlib.contextmanager
def _runner(recipe: Recipe, output: Path, docker: bool) -> Iterator[tuple[Any, Callable[[], list[str]]]]:
    """kfp.local's runner, and a function that gives the failures that kfp did not see."""
    from kfp import local

    if docker:
        from pipelines.local.docker import containers_of

        with containers_of(recipe, output) as runner_and_problems:
            yield runner_and_problems
    else:
        # No image is used here, but kfp warns for each step that this is not its image's environment.
        warnings.filterwarnings("ignore", message="You may be attemping to run a task", category=RuntimeWarning)
        yield local.SubprocessRunner(use_venv=False), list


def show_results(summary: Summary, output: Path) -> None:
    """The table, the pushed models, and where the report lies."""
    from rich.console import Console as RichConsole

    from components.report.table import pushed_lines, summary_table

    console = RichConsole(highlight=False)
    console.print()
    console.print(summary_table(summary))
    for line in pushed_lines(summary):
        console.print(line, soft_wrap=True)
    console.print(f"report    {(output / 'report.html').resolve().as_uri()}", soft_wrap=True)
    console.print(f"figures   {(output / SUMMARY).resolve()}", soft_wrap=True)
    console.print(f"{summary['wall_seconds']:.0f} s now; {summary['total_seconds']:.0f} s of work in all")
