"""An EvaluationReport, read strictly: what cannot be trusted becomes a problem of its model and task.

A bad figure, row or file of one model raises nothing here: `Report.problem` describes it, and the checks turn it into a
"no". Only a report that cannot be read at all raises UserError.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from components.gate.asked import asked_task, checked_values, spans_of, unlike_its_rows
from components.gate.comparison import PairedDocuments, figure_of
from matta_core.artifacts import Artifact, digest_of
from matta_core.artifacts.kinds.evaluation import QUESTIONS, RESULTS
from matta_core.errors import UserError


class Report:
    """A report's tasks, and every model's figures where these can be trusted.

    All figures are computed anew from the rows. Those of results.json must agree for whole tasks; its figures of slices
    are not read.
    """

    def __init__(
        self,
        path: Path,
        results: Mapping[str, Any],
        questions: Sequence[Mapping[str, Any]],
        problem: str | None = None,
    ) -> None:
        """`problem` says why nothing in the report can be trusted."""
        self.path = path
        self.evaluation_set: str = results["evaluation_set"]
        self.models: Mapping[str, Any] = results["models"]
        self.baselines: Mapping[str, Any] = results["baselines"]
        self.baseline_target = results.get("baseline_target")
        self._questions = questions
        self.tasks = {name: asked_task(name, entry, questions, problem) for name, entry in results["tasks"].items()}
        self._rows: dict[str, tuple[list[Any], str | None]] = {}
        self._values: dict[tuple[str, str], tuple[np.ndarray | None, str | None]] = {}

    def baseline_of(self, student: str) -> str | None:
        """The model that a student is compared with; None where nothing else is served, or the report does not say."""
        name = self.baselines.get(student)
        return name if isinstance(name, str) and name != student else None

    def problem(self, model: str, task: str) -> str | None:
        """Why a model's figure in a task cannot be used; None where it can."""
        return self._read(model, task)[1]

    def value(self, model: str, task: str, slice_name: str | None = None) -> float:
        """The model's figure, computed from its rows. There must be no problem with it."""
        values, asked = self._read(model, task)[0], self.tasks[task]
        assert values is not None, (model, task)
        chosen = slice(None) if slice_name is None else asked.slices[slice_name]
        return figure_of(asked.weights[chosen], values[chosen])

    def pair(self, model: str, other: str, task: str, slice_name: str | None = None) -> PairedDocuments:
        """Two models on the same questions of a task, or of one of its slices. Neither may have a problem there."""
        asked = self.tasks[task]
        candidate, baseline = self._read(model, task)[0], self._read(other, task)[0]
        assert candidate is not None, (model, task)
        assert baseline is not None, (other, task)
        chosen = slice(None) if slice_name is None else asked.slices[slice_name]
        return PairedDocuments.of(
            asked.documents[chosen],
            asked.weights[chosen],
            candidate[chosen],
            baseline[chosen],
            higher_is_better=asked.higher_is_better,
            spans=spans_of(asked.unit, np.append(candidate, baseline)),
        )

    def stated(self, model: str, task: str) -> Mapping[str, Any] | None:
        """The figure of results.json for a model in a task."""
        entry = self.models.get(model)
        tasks = entry.get("tasks") if isinstance(entry, Mapping) else None
        figure = tasks.get(task) if isinstance(tasks, Mapping) else None
        return figure if isinstance(figure, Mapping) else None

    def _read(self, model: str, task: str) -> tuple[np.ndarray | None, str | None]:
        if (model, task) not in self._values:
            values, problem = self._checked(model, task)
            self._values[model, task] = (None, problem) if problem else (values, None)
        return self._values[model, task]

    def _checked(self, model: str, task: str) -> tuple[np.ndarray | None, str | None]:
        if not isinstance(self.models.get(model), Mapping):
            return None, f"{model} was not evaluated"
        if (asked := self.tasks.get(task)) is None:
            return None, f"{task} was not evaluated: add it to evaluate.tasks, or take it out of the policy"
        if asked.problem:
            return None, f"{task}: {asked.problem}"
        rows, problem = self._model_rows(model)
        if problem:
            return None, problem
        values, problem = checked_values([rows[row] for row in asked.rows], asked)
        if problem or values is None:
            return None, f"{model}, {task}: {problem}"
        problem = unlike_its_rows(self.stated(model, task), asked, values)
        return values, f"{model}, {task}: {problem}" if problem else None

    def _model_rows(self, model: str) -> tuple[list[Any], str | None]:
        """A model's values, in the order of questions.jsonl, and why its file cannot be used."""
        if model not in self._rows:
            self._rows[model] = _lined_up(self.path / "documents" / f"{model}.jsonl", self._questions)
        return self._rows[model]


def read_report(artifact: Artifact) -> Report:
    """Read a report. Raises: UserError where results.json or questions.jsonl cannot be used at all."""
    path = artifact.path
    results, again = _json(path / RESULTS), f"make {path} again with evaluate"
    if not isinstance(results, Mapping):
        raise UserError(f"{path / RESULTS} does not hold a JSON object: {again}")
    for key, kind in (("evaluation_set", str), ("tasks", Mapping), ("models", Mapping), ("baselines", Mapping)):
        if not isinstance(results.get(key), kind):
            raise UserError(f"{path / RESULTS} has no usable {key!r}, got {results.get(key)!r:.80}: {again}")
    questions = _lines(path / QUESTIONS)
    for number, question in enumerate(questions, start=1):
        task = question.get("task") if isinstance(question, Mapping) else None
        if not isinstance(task, str) or task not in results["tasks"]:
            raise UserError(f"{path / QUESTIONS} line {number} is no question of a task in results.json: {again}")
    return Report(path, results, questions, _set_problem(artifact, results))


def _set_problem(artifact: Artifact, results: Mapping[str, Any]) -> str | None:
    """Why the tasks are not those of the evaluation set that the report names; None where they are."""
    stated = results["evaluation_set"]
    if (sealed := artifact.metadata.get("evaluation_set")) != stated:
        return f"results.json is of the evaluation set {stated:.16}, the manifest says {sealed!r:.18}"
    entries = {name: entry if isinstance(entry, Mapping) else {} for name, entry in results["tasks"].items()}
    if (computed := digest_of({name: str(entry.get("digest")) for name, entry in entries.items()})) != stated:
        return f"the tasks' digests make the evaluation set {computed:.16}, results.json says {stated:.16}"
    return None


def _lined_up(path: Path, questions: Sequence[Mapping[str, Any]]) -> tuple[list[Any], str | None]:
    """The values of documents/<model>.jsonl, and why they are not those of the questions."""
    try:
        rows = _lines(path)
    except UserError as error:
        return [], str(error)
    for number, (row, question) in enumerate(zip(rows, questions, strict=False), start=1):
        if not isinstance(row, Mapping) or "value" not in row:
            return [], f"{path} line {number} holds no value"
        if (row.get("task"), row.get("question")) != (question["task"], question.get("question")):
            return [], (
                f"{path} line {number} is question {row.get('question')!r:.80} of {row.get('task')!r:.80}, "
                f"questions.jsonl has question {question.get('question')!r:.80} of {question['task']} there"
            )
    if len(rows) != len(questions):
        return [], f"{path} has {len(rows)} rows for {len(questions)} questions"
    return [row["value"] for row in rows], None


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"cannot read {path}: {error}") from None


def _lines(path: Path) -> list[Any]:
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"cannot read {path}: {error}") from None
