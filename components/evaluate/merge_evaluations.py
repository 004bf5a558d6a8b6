"""Makes one EvaluationReport of the parts of an evaluation that ran in several pods, one model in each."""

import filecmp
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from components.common.step_runner import run_step
from components.evaluate.baselines import Baseline
from components.evaluate.plan_evaluation import model_names
from matta_core.artifacts import Artifact, open_artifact, write_json_atomically
from matta_core.artifacts.kinds.evaluation import QUESTIONS, RESULTS, ModelResults, Results, read_results
from matta_core.errors import UserError
from matta_core.recipe.settings import Section


@dataclass(frozen=True)
class MergeEvaluationsConfig(Section):
    """The step's settings, of which there are none."""


class _Origin(NamedTuple):
    """An input of the parts. Only its digest is known."""

    digest: str


def merge_evaluations(parts: Sequence[str | Path], *, output: str | Path) -> Artifact:
    """Put EvaluationParts together. Files, metadata and inputs are the same as in the EvaluationReport that `evaluate`
    makes of these models in one process; the figures are the parts' own.

    Raises: UserError where a part is missing or given twice, or where parts differ in inputs, questions, baselines or
    device: figures of different questions must not be compared, nor times of different machines.
    """
    opened = [open_artifact(part, "EvaluationPart") for part in parts]
    if not opened:
        raise UserError("merge_evaluations needs at least one EvaluationPart, got none")
    results = [read_results(part.path) for part in opened]
    _check_same(opened, results)
    models: dict[str, tuple[Artifact, ModelResults]] = {}
    for part, result in zip(opened, results, strict=True):
        for name, figures in result["models"].items():
            if name in models:
                raise UserError(f"{part.path} and {models[name][0].path} are both of the model {name}: give one")
            models[name] = part, figures
    expected = _expected(results[0])
    if missing := [name for name in expected if name not in models]:
        raise UserError(f"there is no part of {', '.join(missing)}: evaluate each model of the plan, then merge again")

    def work(path: Path) -> dict[str, Any]:
        first = opened[0].path
        shutil.copyfile(first / QUESTIONS, path / QUESTIONS)
        shutil.copytree(first / "tasks", path / "tasks", dirs_exist_ok=True)
        (path / "documents").mkdir(exist_ok=True)
        for name in expected:
            file = f"documents/{name}.jsonl"
            shutil.copyfile(models[name][0].path / file, path / file)
        merged: Results = {**results[0], "models": {name: models[name][1] for name in expected}}
        write_json_atomically(path / RESULTS, merged)
        return {"evaluation_set": results[0]["evaluation_set"], "models": expected}

    return run_step(
        "merge_evaluations",
        "EvaluationReport",
        output,
        MergeEvaluationsConfig(),
        {name: _Origin(digest) for name, digest in opened[0].inputs.items()},
        work,
        extra_key={name: models[name][0].digest for name in expected},
    )


def _expected(results: Results) -> list[str]:
    """The models of the whole evaluation, in order. Every part names the baselines of all sizes."""
    return model_names(
        {
            size: None if name is None else Baseline(size, "", "", is_student=name == size)
            for size, name in results["baselines"].items()
        }
    )


def _check_same(parts: Sequence[Artifact], results: Sequence[Results]) -> None:
    first, agreed = parts[0], results[0]
    for part, result in zip(parts, results, strict=True):
        if part.inputs != first.inputs:
            raise UserError(f"{part.path} was made of other artifacts than {first.path}: give the parts of one run")
        same_questions = filecmp.cmp(part.path / QUESTIONS, first.path / QUESTIONS, shallow=False)
        if not same_questions or result["evaluation_set"] != agreed["evaluation_set"]:
            raise UserError(
                f"{part.path} has the evaluation set {result['evaluation_set'][:12]}, {first.path} has "
                f"{agreed['evaluation_set'][:12]}: figures of different questions are not compared; evaluate them again"
            )
        for key in ("tasks", "baselines", "baseline_target"):
            if result[key] != agreed[key]:
                raise UserError(f"{part.path} and {first.path} have other {key}: evaluate with one plan and recipe")
        if result["measured_on"] != agreed["measured_on"]:
            raise UserError(
                f"{part.path} was measured on {result['measured_on']}, {first.path} on {agreed['measured_on']}: times "
                f"of different devices are not compared; have all run on the same (node_selector in the profile)"
            )
