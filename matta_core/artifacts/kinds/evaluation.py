"""An EvaluationReport: results.json, questions.jsonl (a Question a line), documents/<model>.jsonl, tasks/.

documents/<model>.jsonl has a line per line of questions.jsonl: {"task", "question", "value": null where the model gave
no finite number}. tasks/ holds the questions made of held-out documents, as lm-eval tasks. The models' names are the
sizes, "teacher" and "baseline-<size>".
"""

from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

from matta_core.artifacts.json_files import read_json

RESULTS = "results.json"
QUESTIONS = "questions.jsonl"


class Question(TypedDict):
    """Questions of one document stand or fall together: it is the unit of resampling. `slices`: "source", "length"."""

    task: str
    question: int  # its index in the task
    document: str
    weight: float
    slices: dict[str, str]


class Task(TypedDict):
    """A task as it was asked."""

    metric: str
    higher_is_better: bool
    unit: str
    version: Any  # in lm-eval's own form
    digest: NotRequired[str]
    questions: NotRequired[int]
    documents: NotRequired[int]
    cut_questions: NotRequired[int]  # longer than what all models see at once


class Figure(TypedDict):
    """A figure. None stands for a number that is not finite."""

    value: float | None
    standard_error: float | None
    questions: NotRequired[int]
    documents: int


class TaskFigure(Figure):
    """A task's figure, with those of its slices by kind and name."""

    slices: NotRequired[dict[str, dict[str, Figure]]]


class Prefill(TypedDict):
    """One pass over the prompts of a batch."""

    seconds: float
    tokens_per_second: float


class Decode(TypedDict):
    """The tokens after the prompts, written one by one."""

    seconds_per_token: float
    tokens_per_second: float


class Latency(TypedDict, total=False):
    """Latencies by batch size."""

    prefill: dict[str, Prefill]
    decode: dict[str, Decode]


class Costs(Latency, total=False):
    """What a model costs."""

    parameters: int
    bytes: int
    peak_memory_bytes: int


class ModelResults(Costs, total=False):
    """A model's figures by task. `version` is of what is served; `bytes` are those of the parameters as saved."""

    role: Literal["student", "ta", "teacher", "baseline"]
    size: str | None
    version: str | None
    digest: str | None
    tasks: dict[str, TaskFigure]


class Place(TypedDict):
    """Where costs were measured, and on how much text."""

    device: str
    threads: NotRequired[int]
    sequence_length: NotRequired[int]
    new_tokens: NotRequired[int]


class Results(TypedDict):
    """`baselines`: by size, the name of the model that was served: the size itself where a rollback made this very
    student current; None where nothing was."""

    evaluation_set: str
    tasks: dict[str, Task]
    models: dict[str, ModelResults]
    baselines: dict[str, str | None]
    baseline_target: NotRequired[str | None]
    measured_on: Place


def read_results(artifact: Path) -> Results:
    """Read results. Raises: UserError where there are none. The gate reads them itself: there a bad figure is a
    "no"."""
    return read_json(artifact / RESULTS, Results, remedy="evaluate again")
