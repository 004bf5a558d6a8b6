"""lm-eval's tasks by name, with their data from the hub, as everyone runs them, or from a local file.

Of each task one metric is kept. It must be a mean over questions, so that models can be compared question by question:
an accuracy, an exact match, or bits per byte. A perplexity or an F1 over all questions is no such mean.
"""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from huggingface_hub import constants
from huggingface_hub.utils import httpx
from lm_eval.api.registry import get_aggregation
from lm_eval.api.task import Task
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.tasks import TaskManager

from components.common.step_runner import say
from components.evaluate import agieval, hub
from components.evaluate.definitions import NOT_RUN, READERS, check_file_suffices, chosen_metric, definition, local_file
from matta_core.errors import UserError
from matta_core.recipe import TaskConfig

# It decides which examples stand in a prompt of several shots; the number is lm-eval's own.
FEWSHOT_SEED = 1234


class EvaluationTask(NamedTuple):
    """An lm-eval task, and what we ask of it: the first `limit` questions, or all where it is None."""

    name: str
    task: Task
    metric: str
    limit: int | None = None

    @property
    def higher_is_better(self) -> bool:
        return self.task.higher_is_better()[self.metric]

    @property
    def version(self) -> str:
        return str(self.task.VERSION)

    @property
    def unit(self) -> str:
        if self.metric == "bits_per_byte":
            return "bits per byte"
        # So are acc_norm and prompt_level_strict_acc. For metrics of other names, the gate looks at their values.
        is_right_or_wrong = {"acc", "accuracy"} & set(self.metric.split("_")) or self.metric in ("exact_match", "em")
        return "accuracy" if is_right_or_wrong else self.metric.replace("_", " ")

    @property
    def new_tokens(self) -> int:
        """How many tokens a model writes for an answer; 0 where it only scores given ones."""
        if self.task.OUTPUT_TYPE != "generate_until":
            return 0
        return normalize_gen_kwargs(self.task.config.generation_kwargs)["max_gen_toks"]


def load_tasks(configs: Mapping[str, TaskConfig], folder: Path) -> list[EvaluationTask]:
    """The tasks of `evaluate.tasks`. `folder` keeps definitions, converted files and data sets meanwhile.

    Raises: UserError that names the setting, for an unknown task, a group of tasks, a file that cannot be read or has
    other columns, a metric that the task does not have or that is no mean over questions.
    """
    tasks = []
    on_disk = all(config.data_files for config in configs.values())
    with contextlib.nullcontext() if on_disk else hub.or_what_was_kept() as unreachable:
        for name, config in configs.items():
            task = _load(name, config, folder, unreachable)
            tasks.append(EvaluationTask(name, task, _metric(name, task, config.metric), config.limit))
    return tasks


def _load(name: str, config: TaskConfig, folder: Path, unreachable: Exception | None) -> Task:
    """lm-eval's own object, made from its definition with the recipe's changes.

    `unreachable` says why the hub is not asked.
    """
    specification = folder / name / f"{name}.yaml"
    specification.parent.mkdir(parents=True, exist_ok=True)

    def specify(**overrides: Any) -> None:
        text = yaml.safe_dump({"include": str(source), "task": name, **overrides})
        specification.write_text(text, encoding="utf-8")

    source = definition(name)
    specify()
    settings = TaskManager(include_path=specification.parent, include_defaults=False).task_index[name].cfg
    overrides = {} if config.num_fewshot is None else {"num_fewshot": config.num_fewshot}
    if config.data_files is not None:
        overrides |= _from_file(name, settings | overrides, config.data_files, specification.parent)
    specify(**overrides)
    if config.data_files is None and unreachable is None and "dataset_path" in settings:
        say("evaluate", f"{name}: asking {constants.ENDPOINT} for {settings['dataset_path']}")
    try:
        task = TaskManager(include_defaults=False).load([str(specification)])["tasks"][name]
    except Exception as error:  # lm-eval, datasets and the task's own code raise errors of any kind
        raise UserError(_cannot_load(name, config, settings, error, unreachable)) from error
    if getattr(task, "MULTIMODAL", False) or getattr(task, "UNSAFE_CODE", False):
        raise UserError(f"evaluate.tasks.{name} {NOT_RUN}: leave it out")
    return task


def _cannot_load(
    name: str, config: TaskConfig, settings: Mapping[str, Any], error: Exception, unreachable: Exception | None
) -> str:
    where = f"evaluate.tasks.{name}"
    cause: BaseException = error
    if config.data_files is not None:
        what = f"{where}.data_files = {config.data_files}: lm-eval cannot load it"
        remedy = "the file must have the columns of the task's own data set"
    elif isinstance(error, (OSError, httpx.HTTPError)):
        cause = unreachable or hub.answer(error)
        what = f"{where}: cannot load {settings.get('dataset_path', 'its data')} from {constants.ENDPOINT}"
        remedy = (
            f"nothing of it was loaded before, so see that this machine reaches it (HF_ENDPOINT names another), or "
            f"give {where}.data_files a local file"
        )
    else:
        what, remedy = f"{where}: lm-eval cannot load it", f"give {where}.data_files a local file, or leave it out"
    told = " ".join(str(cause).split()).split(" For more information")[0][:300]
    return f"{what} ({type(cause).__name__}: {told}): {remedy}"


def _from_file(name: str, settings: Mapping[str, Any], data_files: str, folder: Path) -> dict[str, Any]:
    """The changes to a task's definition that make a local file its only split."""
    file = local_file(name, data_files)
    check_file_suffices(name, settings)
    split = settings.get("test_split") or settings.get("validation_split") or "test"
    return {
        "dataset_path": READERS[file.suffix],
        "dataset_name": None,
        "custom_dataset": None,
        "dataset_kwargs": {
            "data_files": {split: str(agieval.convert(name, file, folder / "converted.jsonl"))},
            "cache_dir": str(folder / "datasets"),
        },
        "training_split": None,
        "validation_split": None,
        "fewshot_split": None,
        "test_split": split,
    }


def _metric(name: str, task: Task, wanted: str | None) -> str:
    """The metric that is asked for, or the first that is a mean over questions."""
    means = (get_aggregation("mean"), get_aggregation("bits_per_byte"))
    return chosen_metric(name, {metric: how in means for metric, how in task.aggregation().items()}, wanted)
