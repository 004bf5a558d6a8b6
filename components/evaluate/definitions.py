"""Reads lm-eval's definitions of tasks without importing lm-eval or torch, which would take longer than reading."""

import importlib.util
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from matta_core.errors import UserError
from matta_core.recipe import TaskConfig

READERS = {".json": "json", ".jsonl": "json", ".parquet": "parquet"}
# A metric's definition may name no aggregation: these are then means over questions, as lm-eval registers them. Below
# are the metrics of a task that lists none (lm_eval.api.metrics, lm_eval.api.registry; a test compares).
_MEANS = ("mean", "bits_per_byte")
MEAN_BY_DEFAULT = (
    "acc", "acc_all", "acc_bytes", "acc_mutual_info", "acc_norm", "bits_per_byte", "exact_match", "likelihood",
)  # fmt: skip
_SHOWN = {"doc_to_image", "doc_to_audio"}
NOT_RUN = "shows pictures or sounds, or runs code that a model wrote"
DEFAULT_METRICS = {
    "loglikelihood": ("perplexity", "acc"),
    "loglikelihood_rolling": ("word_perplexity", "byte_perplexity", "bits_per_byte"),
    "multiple_choice": ("acc", "acc_norm"),
    "generate_until": ("exact_match",),
}


class _HarnessLoader(yaml.CSafeLoader):
    """Reads lm-eval's files. They name functions by a tag of their own; here such a function is its name."""


_HarnessLoader.add_constructor("!function", lambda loader, node: node.value)


def check_tasks(configs: Mapping[str, TaskConfig], *, files: bool) -> None:
    """Check `evaluate.tasks` before there is a model or data: lm-eval must have the tasks and their metrics, and a
    local file must be able to hold all their data. With `files`, it must also exist. Raises: UserError."""
    for name, config in configs.items():
        settings = read_definition(definition(name))
        if settings.get("unsafe_code") or _SHOWN.intersection(settings):
            raise UserError(f"evaluate.tasks.{name} {NOT_RUN}: leave it out")
        if config.num_fewshot is not None:
            settings["num_fewshot"] = config.num_fewshot
        if config.data_files is not None:
            check_suffix(name, config.data_files)
            check_file_suffices(name, settings)
            if files:
                local_file(name, config.data_files)
        if "class" not in settings:  # a task that is a program knows its metrics only once it has its data
            chosen_metric(name, _metrics(settings), config.metric)


def definition(name: str) -> Path:
    """The YAML file in lm-eval that defines a task.

    Parsing all of lm-eval's 14,000 definitions takes ten seconds, so a task is first looked for in their text.

    Raises: UserError where lm-eval has no such task, or the name stands for several.
    """
    line = re.compile(rf"^task:\s*['\"]?{re.escape(name)}['\"]?\s*(#.*)?$", re.MULTILINE)
    for file, text in _texts().items():
        if name in text and line.search(text) and not re.search(r"^group:", text, re.MULTILINE):
            return file
    index = _whole_index()
    if name in index.all_subtasks:
        return Path(index.task_index[name].yaml_path)
    if name in index.all_tasks:
        raise UserError(
            f"evaluate.tasks.{name} is a group of lm-eval tasks, which have questions of several kinds: "
            f"name its tasks one by one (`lm_eval ls subtasks` lists them)"
        )
    raise UserError(f"evaluate.tasks.{name}: lm-eval has no such task; `lm_eval ls subtasks` lists those that it has")


@cache
def _texts() -> dict[Path, str]:
    found = importlib.util.find_spec("lm_eval")
    assert found is not None, "lm_eval is installed wherever this is called"
    assert found.origin is not None, "it is a package with a file"
    folder = Path(found.origin).parent / "tasks"
    return {file: file.read_text(encoding="utf-8") for file in sorted(folder.rglob("*.yaml"))}


@cache
def _whole_index() -> Any:
    from lm_eval.tasks import TaskManager

    return TaskManager()


def read_definition(file: Path) -> dict[str, Any]:
    """A task's settings with those of the files that it includes. Functions are given by name."""
    settings = yaml.load(file.read_text(encoding="utf-8"), Loader=_HarnessLoader)
    included = settings.pop("include", [])
    merged: dict[str, Any] = {}
    for other in [included] if isinstance(included, str) else included:
        merged |= read_definition(file.parent / other)
    return merged | settings


def _metrics(settings: Mapping[str, Any]) -> dict[str, bool]:
    """For each metric, whether it is a mean over questions."""
    listed = settings.get("metric_list")
    if listed is None:
        kind = settings.get("output_type", "generate_until")
        listed = [{"metric": metric} for metric in DEFAULT_METRICS.get(kind, ())]
    return {
        one["metric"].rpartition(".")[2]: (  # a function's name, without its module
            one["aggregation"] in _MEANS if "aggregation" in one else one["metric"] in MEAN_BY_DEFAULT
        )
        for one in listed
    }


def chosen_metric(name: str, metrics: Mapping[str, bool], wanted: str | None) -> str:
    """The metric that is asked for, or the first that is a mean over questions (`metrics` says which are).

    Raises: UserError where there is none, or where the wanted one is not among them.
    """
    usable = [metric for metric, is_mean in metrics.items() if is_mean]
    if wanted is None and usable:
        return usable[0]
    if wanted in usable:
        return wanted
    known = ", ".join(metrics)
    if not usable:
        raise UserError(
            f"evaluate.tasks.{name} has no metric that is a mean over its questions, only {known}: leave it out"
        )
    raise UserError(
        f"evaluate.tasks.{name}.metric must be one of {', '.join(usable)}, got {wanted!r} "
        f"(of the task's metrics {known} only those are means over its questions)"
    )


def check_suffix(name: str, data_files: str) -> None:
    """Check a file's suffix. Raises: UserError where no reader is known for it."""
    if Path(data_files).suffix not in READERS:
        raise UserError(f"evaluate.tasks.{name}.data_files must end in {', '.join(READERS)}, got {data_files}")


def local_file(name: str, data_files: str) -> Path:
    """The file's path. Raises: UserError where it does not exist, or is of no known kind."""
    check_suffix(name, data_files)
    file = Path(data_files).resolve()
    if not file.is_file():
        raise UserError(f"evaluate.tasks.{name}.data_files: there is no file {file}: correct the path")
    return file


def check_file_suffices(name: str, settings: Mapping[str, Any]) -> None:
    """Check that one file can be all the data of a task with these settings. Raises: UserError."""
    where = f"evaluate.tasks.{name}.data_files"
    if "class" in settings:
        raise UserError(f"{where}: {name} is a program that fetches its data itself: leave data_files out")
    shots = settings.get("num_fewshot")
    if shots and "samples" not in (settings.get("fewshot_config") or {}):
        raise UserError(
            f"{where}: the {shots} examples of its prompt come from another split, which is not in the file: "
            f"set evaluate.tasks.{name}.num_fewshot to 0, or leave data_files out"
        )
