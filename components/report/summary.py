"""The figures of a run, gathered from its artifacts into one plain object: the content of summary.json."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from components.report.formats import finite
from matta_core.artifacts import Artifact
from matta_core.artifacts.kinds.checkpoint import CONSOLIDATION, METRICS
from matta_core.artifacts.kinds.decision import read_decision
from matta_core.artifacts.kinds.evaluation import ModelResults, read_results
from matta_core.artifacts.kinds.family import Member, read_family
from matta_core.artifacts.kinds.push_record import read_push_record
from matta_core.artifacts.kinds.report import BaselineSummary, MeasuredSummary, ModelSummary, Numbers, Summary

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
    its reuse; `total_seconds` is their sum. Neither includes the report's own time, as it is still being written.
    """
    family = read_family(artifacts["extract_students"].path)
    results = read_results(artifacts["evaluate"].path)
    decision = read_decision(artifacts["gate"].path)
    verdicts = decision["students"]
    pushed = read_push_record(artifacts["push"].path)["students"]
    folder = artifacts["extract_students"].path.resolve()
    tasks, models = results["tasks"], results["models"]
    students: dict[str, ModelSummary] = {
        size: {
            "path": str(folder / member["path"]),
            "parameters": member["parameters"],
            "bytes": member["bytes"],
            "flops_per_token": member["flops_per_token"],
            "intermediate_sizes": member.get("intermediate_sizes"),
            "compact": member.get("compact"),
            "mix": member.get("mix"),
            **measured(models.get(size, {}), tasks),
            "blessed": verdicts[size]["blessed"],
            "held_because": [check["why"] for check in verdicts[size]["checks"] if not check["passed"]],
            "pushed_to": pushed[size]["path"],
            "not_pushed_because": None if pushed[size]["pushed"] else pushed[size]["why"],
            "baseline": _baseline(size, results["baselines"].get(size), models, tasks),
            "comparisons": verdicts[size]["comparisons"],
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
        "ta": None if ta is None else {**ta, "size": family["ta"]},
        "teacher": _teacher(models.get("teacher", {}), tasks, artifacts),
        "baseline_target": results["baseline_target"],
        "measured_on": results["measured_on"],
        "seconds": seconds,
        "total_seconds": round(sum(seconds.values()), 3),
    }


def _own_parameters(member: Member) -> int:
    """The parameters without padding. The gate orders students by these."""
    return member["compact"]["parameters"] if "compact" in member else member["parameters"]


def training_curves(checkpoint: Artifact, sizes: list[str]) -> Curves:
    """The objective's held-out figure by size: (optimizer step, value) pairs from metrics.jsonl, of the joint run and
    then of the size alone."""
    figure, joint_steps = checkpoint.metadata["figure"], checkpoint.metadata["steps"]
    curves: Curves = {}
    for size in sizes:
        for folder, before in ((checkpoint.path, 0), (checkpoint.path / CONSOLIDATION / size, joint_steps)):
            for line in (folder / METRICS).read_text().splitlines() if (folder / METRICS).exists() else []:
                row = json.loads(line)
                value = finite(row.get(f"eval/{figure}/{size}"))
                if value is not None:
                    curves.setdefault(size, []).append((before + row["step"], value))
    return curves


def scalars(summary: Summary) -> dict[str, float]:
    """The scalars that a dashboard plots over many runs: figures by task and size, latency, what was pushed."""
    values: dict[str, float] = {}
    for size, model in summary["students"].items():
        figures = {task: entry["value"] for task, entry in model["tasks"].items()}
        figures["decode_seconds_per_token"] = decode_seconds(model)
        figures |= {"blessed": float(bool(model["blessed"])), "pushed": float(model["pushed_to"] is not None)}
        values |= {f"{name}/{size}": float(value) for name, value in figures.items() if value is not None}
    return values


def decode_seconds(model: MeasuredSummary) -> float | None:
    """Seconds per generated token; the model's latency when it answers one request at a time."""
    one = (model["decode"] or {}).get("1")
    return None if one is None else one["seconds_per_token"]


def measured(model: ModelResults, tasks: Iterable[str]) -> MeasuredSummary:
    """Every task's figure and the costs of inference; null for what the evaluation does not have."""
    figures = model.get("tasks", {})
    return {
        "tasks": {task: figure(figures.get(task, {})) for task in tasks},
        "prefill": model.get("prefill"),
        "decode": model.get("decode"),
        "peak_memory_bytes": model.get("peak_memory_bytes"),
    }


def figure(entry: Mapping[str, Any]) -> Numbers:
    return {name: entry.get(name) for name in ("value", "standard_error", "questions", "documents")}


def _baseline(
    size: str, name: str | None, models: Mapping[str, ModelResults], tasks: Iterable[str]
) -> BaselineSummary | None:
    if name is None or name == size:  # nothing was served before it, or the student itself is served
        return None
    model = models.get(name, {})
    return {
        "name": name,
        "version": model.get("version"),
        "parameters": model.get("parameters"),
        "bytes": model.get("bytes"),
        **measured(model, tasks),
    }


def _teacher(model: ModelResults, tasks: Iterable[str], artifacts: Mapping[str, Artifact]) -> ModelSummary:
    """The Teacher's entry. It is not served: neither blessed nor pushed. A foreign one has no path or FLOPs."""
    checkpoint = artifacts.get("train_teacher")
    return {
        "path": None if checkpoint is None else str(checkpoint.path.resolve() / "ta"),
        "parameters": model.get("parameters"),
        "bytes": model.get("bytes"),
        "flops_per_token": checkpoint and checkpoint.metadata["flops_per_token"],
        **measured(model, tasks),
        "intermediate_sizes": None,
        "compact": None,
        "mix": None,
        "blessed": None,
        "held_because": None,
        "pushed_to": None,
        "not_pushed_because": None,
        "baseline": None,
        "comparisons": [],
    }
