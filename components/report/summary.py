"""The figures of a run, gathered from its artifacts into one plain object: the content of summary.json."""

import json
from collections.abc import Mapping
from typing import Any

from components.report.formats import finite
from matta_core.artifacts import Artifact
from matta_core.artifacts.json_files import read_json

Summary = dict[str, Any]
Curves = dict[str, list[tuple[int, float]]]


def summarise(name: str, artifacts: Mapping[str, Artifact]) -> Summary:
    """Gather the figures. `artifacts` by the name of the step that made them, in the order of the steps.

    `tasks`: {task: {metric, higher_is_better, unit, version, digest, questions, documents}}, as evaluated.

    `students` maps every extracted size, ascending, to
      path, parameters, bytes, flops_per_token, all of the checkpoint that is served;
      intermediate_sizes: FFN widths by layer; compact: the costs without padding where widths differ by layer, and
      its path where it was written; mix: how its widths were found, where they were searched (both as in family.json);
      tasks: {task: {value, standard_error, questions, documents}}, every task of `tasks`;
      prefill: {batch size: {seconds, tokens_per_second}}, decode: {batch size: {seconds_per_token,
      tokens_per_second}}, peak_memory_bytes, all measured at inference;
      blessed, held_because: the reasons of the checks that failed, pushed_to: path or URL of the
      version; not_pushed_because;
      baseline: {name, version, parameters, bytes, tasks, prefill, decode, peak_memory_bytes} of what was served
      under `baseline_target` when the run evaluated, or null where nothing was;
      comparisons: [{task, slice, difference, interval, p_value, p_adjusted, verdict, documents, baseline_value,
      value}] with that baseline, differences positive where the student is better, corrected for all of a decision's
      comparisons (see components.gate).
    `ta` (with its `size`) and `teacher` have the same shape. Null is what is not known, does not apply, or is no
    finite number. `ta` is null where the TA was not among the extracted sizes. Paths are absolute.

    `left_on`: gate.without_baseline is left on bless_on_thresholds, though something is served.

    `measured_on` is the device of the latencies. `seconds` per step are of the process that finished the work, not of
    its reuse; `total_seconds` is their sum. This report's own second is in neither: it is not over while it is
    written.
    """
    family = read(artifacts["extract_students"], "family.json")
    results = read(artifacts["evaluate"], "results.json")
    decision = read(artifacts["gate"], "decision.json")
    verdicts = decision["students"]
    pushed = read(artifacts["push"], "push.json")["students"]
    folder = artifacts["extract_students"].path.resolve()
    tasks, models = results["tasks"], results["models"]
    students = {
        size: {
            "path": str(folder / member["path"]),
            "parameters": member["parameters"],
            "bytes": member["bytes"],
            "flops_per_token": member["flops_per_token"],
            **{key: member.get(key) for key in ("intermediate_sizes", "compact", "mix")},
            **measured(models.get(size, {}), tasks),
            "blessed": verdicts[size]["blessed"],
            "held_because": [check["why"] for check in verdicts[size]["checks"] if not check["passed"]],
            "pushed_to": pushed[size]["path"],
            "not_pushed_because": None if pushed[size]["pushed"] else pushed[size]["why"],
            "baseline": _baseline(size, results["baselines"].get(size), models, tasks),
            "comparisons": [_comparison(comparison) for comparison in verdicts[size]["comparisons"]],
        }
        for size, member in sorted(family["students"].items(), key=lambda item: _own_parameters(item[1]))
    }
    ta = students.get(family["ta"])
    seconds = {step: artifact.seconds for step, artifact in artifacts.items()}
    return {
        "name": name,
        "student": family["student"],
        "evaluation_set": results["evaluation_set"],
        "left_on": decision.get("left_on", False),  # older decisions do not say it
        "tasks": tasks,
        "students": students,
        "ta": None if ta is None else ta | {"size": family["ta"]},
        "teacher": _teacher(models.get("teacher", {}), tasks, artifacts),
        "baseline_target": results["baseline_target"],
        "measured_on": results["measured_on"],
        "seconds": seconds,
        "total_seconds": round(sum(seconds.values()), 3),
    }


def _own_parameters(member: Mapping[str, Any]) -> int:
    """Without padding: as the gate orders students."""
    return member.get("compact", member)["parameters"]


def training_curves(checkpoint: Artifact, sizes: list[str]) -> Curves:
    """Held-out cross-entropy in nats per token by size: (optimizer step, value) pairs from metrics.jsonl."""
    curves: Curves = {size: [] for size in sizes}
    for line in (checkpoint.path / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        for size, curve in curves.items():
            value = finite(row.get(f"eval/cross_entropy/{size}"))
            if value is not None:
                curve.append((row["step"], value))
    return {size: curve for size, curve in curves.items() if curve}


def scalars(summary: Summary) -> dict[str, float]:
    """What a dashboard plots over many runs: figures by task and size, decode latency, what was blessed and pushed."""
    values = {}
    for size, model in summary["students"].items():
        figures = {task: entry["value"] for task, entry in model["tasks"].items()}
        figures["decode_seconds_per_token"] = (model["decode"] or {}).get("1", {}).get("seconds_per_token")
        figures |= {"blessed": float(model["blessed"]), "pushed": float(model["pushed_to"] is not None)}
        values |= {f"{name}/{size}": float(value) for name, value in figures.items() if value is not None}
    return values


def read(artifact: Artifact, file: str) -> dict[str, Any]:
    return read_json(artifact.path / file, dict, remedy="make it again with the step that made it")


def measured(model: Mapping[str, Any], tasks: Mapping[str, Any]) -> dict[str, Any]:
    """Every task's figure and what inference costs; null for what the evaluation does not have."""
    return {
        "tasks": {task: figure(model.get("tasks", {}).get(task) or {}) for task in tasks},
        **{
            kind: {
                batch: {name: finite(value) for name, value in entry.items()}
                for batch, entry in (model.get(kind) or {}).items()
            }
            or None
            for kind in ("prefill", "decode")
        },
        "peak_memory_bytes": finite(model.get("peak_memory_bytes")),
    }


def figure(entry: Mapping[str, Any]) -> dict[str, float | None]:
    return {name: finite(entry.get(name)) for name in ("value", "standard_error", "questions", "documents")}


def _baseline(
    size: str, name: str | None, models: Mapping[str, Any], tasks: Mapping[str, Any]
) -> dict[str, Any] | None:
    if name in (None, size):  # nothing was served before it, or it is itself what is served
        return None
    model = models.get(name, {})
    sizes = {field: model.get(field) for field in ("version", "parameters", "bytes")}
    return {"name": name, **sizes, **measured(model, tasks)}


def _comparison(comparison: Mapping[str, Any]) -> dict[str, Any]:
    """As in decision.json, whose "nan" becomes null."""
    numbers = ("difference", "p_value", "p_adjusted", "baseline_value", "value")
    return {
        **comparison,
        **{name: finite(comparison[name]) for name in numbers},
        "interval": [finite(end) for end in comparison["interval"] or ()] or None,
    }


def _teacher(model: Mapping[str, Any], tasks: Mapping[str, Any], artifacts: Mapping[str, Artifact]) -> dict[str, Any]:
    """The Teacher is not served: it is neither blessed nor pushed. A foreign one has no path and FLOPs here."""
    checkpoint = artifacts.get("train_teacher")
    folder = None if checkpoint is None else checkpoint.path.resolve() / "ta"
    return {
        "path": folder and str(folder),
        "parameters": model.get("parameters"),
        "bytes": model.get("bytes"),
        "flops_per_token": checkpoint and checkpoint.metadata["flops_per_token"],
        **measured(model, tasks),
        **dict.fromkeys(("intermediate_sizes", "compact", "mix")),
        **dict.fromkeys(("blessed", "held_because", "pushed_to", "not_pushed_because", "baseline")),
        "comparisons": [],
    }
