"""A run's artifacts as the steps write them, made by hand."""

import json
import math

import pytest

from matta_core.artifacts import MANIFEST, finish_artifact

SIZES = {"s": 900_000, "m": 1_200_000, "xl": 1_700_000}
BITS = {"s": 2.31, "m": 2.22, "xl": 2.16, "teacher": 2.05}
TASKS = {
    "matta_bits_per_byte": ("bits_per_byte", False, "bits per byte", 0.02, 32),
    "matta_last_token": ("acc", True, "accuracy", 0.034, 40),
}
FURTHER = {
    "lambada_openai": ("acc", True, "accuracy", 0.021, 500),
    "agieval_sat_math": ("acc", True, "accuracy", 0.029, 220),
}


def model_of(role, size, parameters, bits, tasks, slices):
    """A model's entry in results.json."""
    figures = {}
    for task, (metric, _, unit, error, documents) in tasks.items():
        value = bits if metric == "bits_per_byte" else 0.6 - bits / 10
        shift = 1.0 if unit == "bits per byte" else 0.1
        parts = {
            name: {"value": value + shift * n / 50, "standard_error": 2 * error, "documents": max(2, documents // 3)}
            for n, name in enumerate(slices)
        }
        lengths = {
            name: {"value": value - shift * n / 50, "standard_error": 2 * error, "documents": documents // 3}
            for n, name in enumerate(("short", "medium", "long"))
        }
        figures[task] = {
            "value": value,
            "standard_error": error,
            "questions": 5 * documents,
            "documents": documents,
            "slices": {"source": parts, "length": lengths},
        }
    seconds = 2e-9 * parameters
    return {
        "role": role,
        "size": size,
        "version": "0123456789abcdef" if role == "baseline" else None,
        "digest": "d" * 64,
        "parameters": parameters,
        "bytes": 4 * parameters,
        "tasks": figures,
        "prefill": {
            batch: {"seconds": 9 * seconds * int(batch), "tokens_per_second": 14 / seconds} for batch in ("1", "8")
        },
        "decode": {
            batch: {"seconds_per_token": seconds * (1 + int(batch) / 9), "tokens_per_second": int(batch) / seconds}
            for batch in ("1", "8")
        },
        "peak_memory_bytes": 30 * parameters,
    }


def comparison_of(task, unit, **overrides):
    scale = 1.0 if unit == "bits per byte" else 0.1
    return {
        "task": task,
        "slice": None,
        "difference": 0.031 * scale,
        "interval": [-0.012 * scale, 0.074 * scale],
        "p_value": 0.021,
        "p_adjusted": 0.084,
        "verdict": "noise",
        "documents": 32,
        "baseline_value": 2.34 * scale,
        "value": 2.31 * scale,
    } | overrides


def check_of(check, passed=True, threshold=None, value=None, why="as asked", task=None, slice_=None):
    return {
        "check": check,
        "task": task,
        "slice": slice_,
        "threshold": threshold,
        "value": value,
        "passed": passed,
        "why": why,
    }


def build_run(folder, *, teacher_flops=None, sizes=SIZES, bits=BITS, tasks=TASKS, served=("s", "xl"), slices=("json",)):
    """The artifacts of a run by the names of report's parameters: m is not blessed, `served` sizes have a baseline."""
    made = {}

    def artifact(name, kind, files, inputs=(), seconds=1.0, metadata=None):
        path = folder / name
        for file, content in files.items():
            (path / file).parent.mkdir(parents=True, exist_ok=True)
            (path / file).write_text(content if isinstance(content, str) else json.dumps(content))
        digests = {source: made[source].digest for source in inputs}
        made[name] = finish_artifact(path, kind, key=name, inputs=digests, seconds=seconds, metadata=metadata)

    artifact("dataset", "TokenizedDataset", {"stats.json": {}}, seconds=20.0)
    if teacher_flops is not None:
        files = {"ta/model.safetensors": "x" * 1000, "metrics.jsonl": ""}
        metadata = {"flops_per_token": teacher_flops}
        artifact("teacher_checkpoint", "MattaCheckpoint", files, ["dataset"], seconds=100.0, metadata=metadata)
    rows = [
        {"step": step}
        | {f"eval/cross_entropy/{size}": 3 + n / 9 + 4 * math.exp(-step / 150) for n, size in enumerate(sizes)}
        for step in range(0, 801, 50)
    ]
    metrics = "".join(json.dumps(row) + "\n" for row in rows)
    metadata = {"figure": "cross_entropy", "figure_title": "cross-entropy, nats per token", "steps": 400}
    artifact("checkpoint", "MattaCheckpoint", {"metrics.jsonl": metrics}, ["dataset"], 200.0, metadata)
    members = {
        size: {"path": size, "parameters": count, "bytes": 4 * count, "flops_per_token": 2 * count}
        for size, count in sizes.items()
    }
    family = {"student": next(iter(sizes)), "ta": "xl", "students": members}
    artifact("students", "StudentFamily", {"family.json": family}, ["checkpoint"], seconds=5.0)
    artifact(
        "evaluation",
        "EvaluationReport",
        {"results.json": results_of(sizes, bits, tasks, served, slices)},
        ["dataset", "students"],
        seconds=60.0,
    )
    artifact(
        "decision", "GateDecision", {"decision.json": decision_of(sizes, tasks, served)}, ["evaluation", "students"]
    )
    record = {size: record_of(size, pushed=size != "m") for size in sizes}
    push = {"target": "/pushed", "students": record}
    artifact("push_record", "PushRecord", {"push.json": push}, ["decision", "evaluation", "students"], 10.0)
    return {name: item.path for name, item in made.items()}


def results_of(sizes, bits, tasks, served, slices):
    models = {
        size: model_of("ta" if size == "xl" else "student", size, count, bits[size], tasks, slices)
        for size, count in sizes.items()
    }
    models["teacher"] = model_of("teacher", None, 4_900_000, bits["teacher"], tasks, slices)
    for size in served:
        models[f"baseline-{size}"] = model_of("baseline", size, sizes[size], bits[size] + 0.03, tasks, slices)
    return {
        "evaluation_set": "e" * 64,
        "tasks": {
            task: {
                "metric": metric,
                "higher_is_better": higher,
                "unit": unit,
                "version": 1,
                "digest": "f" * 64,
                "questions": 5 * documents,
                "documents": documents,
            }
            for task, (metric, higher, unit, _, documents) in tasks.items()
        },
        "models": models,
        "baselines": {size: f"baseline-{size}" if size in served else None for size in sizes},
        "baseline_target": "/pushed",
        "measured_on": {"device": "cpu", "threads": 2, "sequence_length": 128, "new_tokens": 32},
    }


def decision_of(sizes, tasks, served):
    students = {}
    for size in sizes:
        checks = [
            check_of("certificate", threshold=True, value=True, why="bit for bit"),
            check_of("maximum", threshold=2.4, value=2.3, task="matta_bits_per_byte", why="2.3 is at most 2.4"),
        ]
        if size == "m":
            checks.append(
                check_of("non_inferior", False, 0.05, "nan", "bits < NaN & worse", "matta_bits_per_byte", "length=long")
            )
        comparisons = [comparison_of(task, tasks[task][2]) for task in tasks] if size in served else []
        if comparisons:
            comparisons[0] |= {"verdict": "better", "p_value": 1e-5, "p_adjusted": 4e-5, "interval": [0.004, 0.058]}
        students[size] = {
            "blessed": size != "m",
            "baseline": f"baseline-{size}" if size in served else None,
            "checks": checks,
            "comparisons": comparisons,
        }
    return {
        "evaluation_set": "e" * 64,
        "config": {},
        "policies": {size: {} for size in sizes},
        "confidence": 0.95,
        "hypotheses": len(tasks) * len(served),
        "students": students,
        "blessed": [size for size in sizes if size != "m"],
        "left_on": False,
        "warnings": ["nothing but certificate is asked of xl, whatever its quality"],
    }


def record_of(size, *, pushed):
    entry = dict.fromkeys(
        ("version", "path", "digest", "before", "after", "manifest_path", "model_card", "registered", "registry_error")
    )
    if not pushed:
        return entry | {"pushed": False, "why": "not blessed: bits < NaN & worse"}
    return entry | {
        "pushed": True,
        "why": "blessed",
        "version": "fedcba9876543210",
        "path": f"/pushed/{size}/versions/fedcba9876543210",
        "digest": "fedcba9876543210" * 4,
        "before": "0123456789abcdef",
        "after": "fedcba9876543210",
        "manifest_path": f"serving/{size}.yaml",
        "model_card": f"cards/{size}.md",
        "registry_error": "the registry answered 503" if size == "xl" else None,
    }


def reseal_run(run, name, file, content):
    """Replace a file of an artifact, and seal anew what was made from it."""
    (run[name] / file).write_text(json.dumps(content))
    digests = {}
    for artifact in run:
        manifest = json.loads((run[artifact] / MANIFEST).read_text())
        inputs = {source: digests[source] for source in manifest["inputs"]}
        (run[artifact] / MANIFEST).unlink()
        metadata = manifest["metadata"]
        made = finish_artifact(run[artifact], manifest["kind"], key=artifact, inputs=inputs, metadata=metadata)
        digests[artifact] = made.digest


@pytest.fixture(scope="session")
def make_run():
    return build_run


@pytest.fixture(scope="session")
def reseal():
    return reseal_run


@pytest.fixture(scope="session")
def further_tasks():
    return TASKS | FURTHER
