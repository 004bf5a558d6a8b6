"""How good every size is, beside its TA and its Teacher: identical documents, one process, standard errors."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from components.step import checkpoint_identity, run_step, say
from matta_core.artifacts import IN_PROGRESS, Artifact, open_artifact, write_json_atomically
from matta_core.config import EvaluateConfig
from matta_core.errors import UserError


class Candidate(NamedTuple):
    """A model to evaluate: `role` is student, ta or teacher; `path` is a folder, or a hub name."""

    role: str
    path: str


def evaluate(
    config: EvaluateConfig,
    dataset: str | Path,
    students: str | Path,
    *,
    teacher: str | None = None,
    teacher_checkpoint: str | Path | None = None,
    output: str | Path,
) -> Artifact:
    """Evaluate a StudentFamily and the Teacher (a Hugging Face checkpoint, or the TA of a MattaCheckpoint) on the
    held-out documents of a TokenizedDataset.

    Files of an EvaluationReport:
    - `results.json`: {"evaluation_set": digest of `tasks/`, "models": {name: {"role", "parameters", "bits_per_byte",
      "accuracy", "last_token_cross_entropy", "tokens_per_second"}}, "throughput": how the speed was measured}. A figure
      is {"value", "standard_error", "documents"}; a value that is not finite is null.
    - `documents/<name>.jsonl`: what every single question gave, in the same order for all models.
    - `tasks/`: the questions, as lm-eval tasks.

    A model is finished when its `documents/<name>.jsonl` is there: a killed evaluation goes on with the next one.

    Raises: UserError where no Teacher or two are given, one cannot be loaded, the students are of another dataset, or
    there are too few documents.
    """
    if (teacher is None) == (teacher_checkpoint is None):
        raise UserError(
            f"evaluate takes either a teacher (score_teacher.teacher) or a teacher_checkpoint, "
            f"got {teacher!r} and {teacher_checkpoint!r}"
        )
    inputs = {
        "dataset": open_artifact(dataset, "TokenizedDataset"),
        "students": open_artifact(students, "StudentFamily"),
    }
    if inputs["students"].inputs.get("dataset") != inputs["dataset"].digest:
        raise UserError(f"{students} was extracted with another dataset than {dataset}: give the one it was trained on")
    if teacher_checkpoint is not None:
        inputs["teacher"] = open_artifact(teacher_checkpoint, "MattaCheckpoint")
        teacher_path = str(inputs["teacher"].path / "ta")
    else:
        teacher_path = str(teacher)
    models = _family(inputs["students"]) | {"teacher": Candidate("teacher", teacher_path)}

    def work(path: Path) -> dict[str, Any]:
        return _evaluate(config, inputs["dataset"], models, path)

    identity = checkpoint_identity(teacher) if teacher is not None else None
    return run_step("evaluate", "EvaluationReport", output, config, inputs, work, extra_key=identity)


def _evaluate(config: EvaluateConfig, dataset: Artifact, models: Mapping[str, Candidate], path: Path) -> dict[str, Any]:
    if Path(models["teacher"].path).is_dir():
        os.environ["HF_HUB_OFFLINE"] = "1"  # read when transformers is imported: nothing is asked of the network
    import torch

    from components.evaluate import scoring, tasks
    from components.evaluate.figures import summarise
    from matta_core.distributed import pick_device
    from matta_core.models import load_model, load_tokenizer
    from matta_core.progress import progress

    # In fp32 all, and all at once, to be timed side by side: together they need less than the TA's training did.
    device = pick_device()
    loaded = {name: load_model(model.path, torch.float32).to(device).eval() for name, model in models.items()}
    # One tokenizer for all, so that all see the same tokens; students and Teacher share its vocabulary.
    tokenizer = load_tokenizer(dataset.path / "tokenizer")
    shortest = min(dataset.metadata["sequence_length"], *map(scoring.context_length, loaded.values()))
    with scoring.quiet():
        evaluation_set = tasks.write_tasks(dataset.path, path / "tasks", config, tokenizer, shortest)
        questions = tasks.load_tasks(path / "tasks", path / IN_PROGRESS / "datasets")

    (path / "documents").mkdir(exist_ok=True)
    results: dict[str, dict[str, Any]] = {}
    with progress(len(models), "evaluate", "models") as bar:
        for name, model in models.items():
            finished = path / "documents" / f"{name}.jsonl"
            if not finished.exists():
                rows = scoring.score(loaded[name], tokenizer, questions, config.batch_size)
                unfinished = path / IN_PROGRESS / finished.name
                unfinished.write_text("".join(json.dumps(row) + "\n" for row in rows))
                unfinished.replace(finished)
            figures = summarise(json.loads(line) for line in finished.read_text().splitlines())
            parameters = sum(parameter.numel() for parameter in loaded[name].parameters())
            results[name] = {"role": model.role, "parameters": parameters, **figures}
            with bar.external_write_mode():
                say("evaluate", f"{name}: {_told(figures)}")
            bar.update()

    speeds = scoring.tokens_per_second(loaded, shortest, config.throughput_repeats)
    for name, speed in speeds.items():
        results[name]["tokens_per_second"] = speed
    say("evaluate", "tokens per second: " + ", ".join(f"{name} {speed:,.0f}" for name, speed in speeds.items()))
    throughput = {
        "batch_size": scoring.THROUGHPUT_BATCH_SIZE,
        "sequence_length": shortest,
        "device": device.type,
        "threads": torch.get_num_threads(),
    }
    report = {"evaluation_set": evaluation_set, "models": results, "throughput": throughput}
    write_json_atomically(path / "results.json", report)
    return {"evaluation_set": evaluation_set, "models": list(models)}


def _family(students: Artifact) -> dict[str, Candidate]:
    """The models of a StudentFamily, in ascending order of size."""
    family = json.loads((students.path / "family.json").read_text())
    if "teacher" in family["students"]:
        raise UserError(f"{students.path} has a size named 'teacher', which is the Teacher's name: rename the size")
    return {
        name: Candidate("ta" if name == family["ta"] else "student", str(students.path / member["path"]))
        for name, member in family["students"].items()
    }


def _told(figures: Mapping[str, Any]) -> str:
    def figure(name: str, digits: str) -> str:
        value, error = figures[name]["value"], figures[name]["standard_error"]
        return "not finite" if value is None else f"{value:{digits}} ± {error:{digits}}"

    return f"bits per byte {figure('bits_per_byte', '.3f')}, accuracy {figure('accuracy', '.1%')}"
