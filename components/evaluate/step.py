"""Evaluate how good, how fast and how large every size is, beside its TA, its Teacher and what is served now."""

import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

from components.common.step_runner import run_step
from components.evaluate.baselines import resolve
from components.evaluate.candidates import TEACHER, family, teacher_candidate
from components.evaluate.plan_evaluation import EvaluationPlan
from matta_core.artifacts import Artifact, file_digest, open_artifact
from matta_core.errors import UserError
from matta_core.recipe import EvaluateConfig


def evaluate(
    config: EvaluateConfig,
    dataset: str | Path,
    students: str | Path,
    *,
    teacher: str | None = None,
    teacher_checkpoint: str | Path | None = None,
    push_target: str | None = None,
    plan: EvaluationPlan | None = None,
    model: str | None = None,
    output: str | Path,
) -> Artifact:
    """Evaluate a StudentFamily, the Teacher (a Hugging Face checkpoint, or the TA of a MattaCheckpoint) and what is
    served now under `push_target`, on the same questions. `matta_core.artifacts.kinds.evaluation` says what it makes.

    A model's scores are complete once its `documents/<model>.jsonl` exists: a killed evaluation goes on with the next
    model. What is served is part of the step's key.

    With `plan` and `model`, it makes one model's part of an evaluation that runs in several pods: an EvaluationPart,
    for merge_evaluations, with the same files for that model only. The plan then says what is served; it is not read
    again.

    Raises: UserError where no Teacher or two are given, one cannot be loaded, the students are of another dataset,
    a task is not available, or there are too few documents.
    """
    _check_teacher(teacher, teacher_checkpoint)
    _check_part(plan, model, push_target)
    inputs = _opened(dataset, students, teacher_checkpoint)
    candidates = family(inputs["students"])
    if plan is not None:
        baselines = plan.baselines
    else:
        baselines = resolve(push_target, {size: candidate.digest for size, candidate in candidates.items()})
    candidates[TEACHER] = teacher_candidate(str(inputs["teacher"].path / "ta") if teacher is None else teacher)

    def work(path: Path) -> dict[str, Any]:
        on_disk = Path(candidates[TEACHER].path).is_dir() and all(task.data_files for task in config.tasks.values())
        if on_disk:
            os.environ["HF_HUB_OFFLINE"] = "1"  # transformers reads it when it is imported: the network is not asked
        from components.evaluate.results import evaluate_all

        return evaluate_all(
            config,
            inputs["dataset"],
            candidates,
            baselines,
            push_target,
            path,
            only=model,
            shortest_baseline=plan.shortest_context if plan else None,
        )

    outside = {
        "teacher": None if teacher is None else candidates[TEACHER].digest or teacher,
        "target": push_target,
        "baselines": {size: baseline.digest if baseline else None for size, baseline in baselines.items()},
        "data_files": {name: _file_identity(name, task.data_files) for name, task in config.tasks.items()},
        "lm_eval": version("lm_eval"),
        "model": model,
    }
    kind = "EvaluationReport" if model is None else "EvaluationPart"
    return run_step("evaluate", kind, output, config, inputs, work, extra_key=outside)


def _check_teacher(teacher: str | None, teacher_checkpoint: str | Path | None) -> None:
    if (teacher is None) == (teacher_checkpoint is None):
        raise UserError(
            f"evaluate takes either a teacher (the recipe's score_teacher.teacher) or, where the recipe has "
            f"train_teacher, what that made (--teacher-checkpoint); got {teacher!r} and {teacher_checkpoint!r}"
        )


def _check_part(plan: EvaluationPlan | None, model: str | None, push_target: str | None) -> None:
    if (plan is None) != (model is None):
        raise UserError(f"a part of an evaluation takes a plan and a model, got {plan and 'a plan'} and {model!r}")
    if plan is not None and model not in plan.models:
        raise UserError(f"model must be one of the plan's, {', '.join(plan.models)}, got {model!r}")
    if plan is not None and plan.target != push_target:
        raise UserError(f"the plan was made for push.target {plan.target!r}, not {push_target!r}: make it again")


def _opened(dataset: str | Path, students: str | Path, teacher_checkpoint: str | Path | None) -> dict[str, Artifact]:
    """The inputs by name, of one dataset, and with a Teacher of its own."""
    inputs = {
        "dataset": open_artifact(dataset, "TokenizedDataset"),
        "students": open_artifact(students, "StudentFamily"),
    }
    if inputs["students"].inputs.get("dataset") != inputs["dataset"].digest:
        raise UserError(f"{students} was extracted with another dataset than {dataset}: give the one it was trained on")
    if teacher_checkpoint is not None:
        inputs["teacher"] = open_artifact(teacher_checkpoint, "MattaCheckpoint")
        if inputs["teacher"].digest == inputs["students"].inputs.get("checkpoint"):
            raise UserError(
                f"teacher_checkpoint {teacher_checkpoint} is the TA that the students were cut from: give the one that "
                f"train_teacher made"
            )
    return inputs


def _file_identity(task: str, name: str | None) -> str | None:
    """The digest of a task's local file. Raises: UserError where it cannot be read."""
    if name is None:
        return None
    try:
        return file_digest(Path(name))
    except OSError as error:
        raise UserError(f"evaluate.tasks.{task}.data_files: cannot read {name}: {error.strerror}") from None
