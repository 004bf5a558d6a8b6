"""The figures of a run, gathered from its artifacts into one plain object: the content of summary.json."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matta_core.artifacts import Artifact

Summary = dict[str, Any]
Curves = dict[str, list[tuple[int, float]]]


def summarise(name: str, artifacts: Mapping[str, Artifact]) -> Summary:
    """Gather the figures. `artifacts` by the name of the step that made them, in the order of the steps.

    `students` maps every extracted size to {path, parameters, bytes, flops_per_token, tokens_per_second,
    bits_per_byte, bits_per_byte_standard_error, accuracy, accuracy_standard_error, blessed, pushed_to}; `ta` and
    `teacher` hold the same of these two. Null is what is not known, does not apply, or is no finite number.
    `ta` is null where the TA was not among the extracted sizes. Paths are absolute.

    `seconds` per step are of the process that finished the work, not of its reuse; `total_seconds` is their sum. This
    report's own second is in neither: it is not over while it is written.
    """
    family = read(artifacts["extract_students"], "family.json")
    models = read(artifacts["evaluate"], "results.json")["models"]
    verdicts = read(artifacts["gate"], "decision.json")["students"]
    pushed = read(artifacts["push"], "push.json")["students"]
    folder = artifacts["extract_students"].path.resolve()
    students = {
        size: {
            "path": str(folder / member["path"]),
            "parameters": member["parameters"],
            "bytes": member["bytes"],
            "flops_per_token": member["flops_per_token"],
            **_measured(models.get(size, {})),
            "blessed": verdicts[size]["blessed"],
            "pushed_to": pushed[size]["path"],
        }
        for size, member in sorted(family["students"].items(), key=lambda item: item[1]["parameters"])
    }
    ta = students.get(family["ta"])
    seconds = {step: artifact.seconds for step, artifact in artifacts.items()}
    return {
        "name": name,
        "student": family["student"],
        "students": students,
        "ta": None if ta is None else ta | {"size": family["ta"]},
        "teacher": _teacher(models.get("teacher", {}), artifacts),
        "seconds": seconds,
        "total_seconds": round(sum(seconds.values()), 3),
    }


def training_curves(checkpoint: Artifact, sizes: list[str]) -> Curves:
    """Held-out cross-entropy in nats per token by size: (optimizer step, value) pairs from metrics.jsonl."""
    curves: Curves = {size: [] for size in sizes}
    for line in (checkpoint.path / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        for size, curve in curves.items():
            value = row.get(f"eval/cross_entropy/{size}")
            if value is not None and math.isfinite(value):
                curve.append((row["step"], value))
    return {size: curve for size, curve in curves.items() if curve}


def read(artifact: Artifact, file: str) -> dict[str, Any]:
    return json.loads((artifact.path / file).read_text(encoding="utf-8"))


def _measured(model: Mapping[str, Any]) -> dict[str, float | None]:
    figures = {"tokens_per_second": _finite(model.get("tokens_per_second"))}
    for metric in ("bits_per_byte", "accuracy"):
        entry = model.get(metric) or {}
        figures[metric] = _finite(entry.get("value"))
        figures[f"{metric}_standard_error"] = _finite(entry.get("standard_error"))
    return figures


def _finite(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_number and math.isfinite(value) else None


def _teacher(model: Mapping[str, Any], artifacts: Mapping[str, Artifact]) -> dict[str, Any]:
    """The Teacher is not served: it is neither blessed nor pushed. A foreign one has no path and size here."""
    checkpoint = artifacts.get("train_teacher")
    folder = None if checkpoint is None else checkpoint.path.resolve() / "ta"
    return {
        "path": folder and str(folder),
        "parameters": model.get("parameters"),
        "bytes": folder and sum(file.stat().st_size for file in folder.glob("*.safetensors")),
        "flops_per_token": folder and _flops_per_token(folder, artifacts),
        **_measured(model),
        "blessed": None,
        "pushed_to": None,
    }


def _flops_per_token(folder: Path, artifacts: Mapping[str, Artifact]) -> int:
    """As for the students, from the shapes alone: no weight is loaded."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from matta_core.nesting import Granularity, flops_per_token

    nesting = read(artifacts["train_teacher"], "nesting.json")
    size, width = max(nesting["sizes"].items(), key=lambda item: item[1])
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    return flops_per_token(model, Granularity(size, width), nesting["sequence_length"])
