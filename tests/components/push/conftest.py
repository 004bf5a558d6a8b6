"""Students, decisions and evaluations for push, and both kinds of target: a directory, and gs:// on a real server."""

import json
from collections import namedtuple

import pytest

from components.common.served.pointer import read_pointer
from components.common.storage.open_storage import open_storage
from components.push import step
from matta_core.artifacts import finish_artifact
from matta_core.recipe import PushConfig

SIZES = {"s": 1000, "m": 2000, "xl": 4000}

Made = namedtuple("Made", "decision students evaluation")


@pytest.fixture
def make(tmp_path):
    """Make a StudentFamily of three sizes, its evaluation, and a decision that blesses all but m.

    The files of the models only need to load in the tests that load them.
    """

    def make_artifacts(content, *, blessed=("s", "xl"), baseline=None, write_model=None):
        made = Made(*(tmp_path / f"{kind}-{content}" for kind in Made._fields))
        (made.students / "references").mkdir(parents=True)
        for size in SIZES:
            reference = made.students / "references" / f"{size}.safetensors"
            if write_model is not None:
                write_model(made.students / size, reference)
                continue
            (made.students / size / "nested").mkdir(parents=True)
            (made.students / size / "model.safetensors").write_text(f"{content} weights of {size}")
            (made.students / size / "nested" / "tokenizer.json").write_text("{}")
            (made.students / size / "config.json").write_text('{"dtype": "bfloat16"}')
            reference.write_text(f"{content} logits of {size}")
        members = {
            size: {
                "path": size,
                "reference": f"references/{size}.safetensors",
                "parameters": count,
                "bytes": 4 * count,
                "flops_per_token": 2 * count,
            }
            for size, count in SIZES.items()
        }
        family = {"student": "s", "ta": "xl", "students": members}
        (made.students / "family.json").write_text(json.dumps(family))
        inputs = {"checkpoint": "c" * 64, "dataset": "d" * 64}
        students = finish_artifact(made.students, "StudentFamily", key="f", inputs=inputs)

        made.evaluation.mkdir()
        (made.evaluation / "results.json").write_text(json.dumps(results_of(baseline)))
        inputs = {"students": students.digest, "dataset": "d" * 64}
        evaluation = finish_artifact(made.evaluation, "EvaluationReport", key="e", inputs=inputs)

        made.decision.mkdir()
        (made.decision / "decision.json").write_text(json.dumps(decision_of(blessed, baseline)))
        inputs = {"students": students.digest, "evaluation": evaluation.digest}
        finish_artifact(made.decision, "GateDecision", key="d", inputs=inputs)
        return made

    return make_artifacts


def results_of(baseline):
    task = {"metric": "bits_per_byte", "higher_is_better": False, "unit": "bits per byte", "version": 1}
    figure = {"value": 2.0625, "standard_error": 0.101, "questions": 40, "documents": 32}
    broken = {"value": None, "standard_error": None, "questions": 40, "documents": 32}
    models = {
        size: {
            "role": "student",
            "size": size,
            "parameters": count,
            "tasks": {"matta_bits_per_byte": figure},
            "peak_memory_bytes": 3 * 2**30 + 1,
        }
        for size, count in SIZES.items()
    }
    models["xl"]["tasks"] |= {"lambada|odd": broken}
    models["teacher"] = {"role": "teacher", "size": None, "digest": "7" * 64, "parameters": 9000, "tasks": {}}
    if baseline is not None:
        models[baseline] = {"role": "baseline", "size": "s", "version": "0123456789abcdef", "tasks": {}}
    return {
        "evaluation_set": "abc",
        "tasks": {"matta_bits_per_byte": task, "lambada|odd": task | {"metric": "acc", "higher_is_better": True}},
        "models": models,
        "baselines": dict.fromkeys(SIZES, None) | {"s": baseline},
        "measured_on": {"device": "cpu"},
    }


def decision_of(blessed, baseline):
    failed = {"check": "monotone", "threshold": 2.0, "value": 2.5, "passed": False, "why": "worse than s"}
    passed = {"check": "certificate", "threshold": 0.0, "value": 0.0, "passed": True, "why": "equal to the live one"}
    comparison = {
        "task": "matta_bits_per_byte",
        "slice": "length=long",
        "difference": 0.125,
        "interval": [-0.0625, 0.3125],
        "p_value": 0.25,
        "p_adjusted": 0.25,
        "verdict": "noise",
        "documents": 32,
        "baseline_value": 2.1875,
        "value": 2.0625,
    }
    students = {
        size: {
            "blessed": size in blessed,
            "baseline": baseline if size == "s" else None,
            "checks": [passed] if size in blessed else [failed],
            "comparisons": [comparison] if size == "s" and baseline else [],
        }
        for size in SIZES
    }
    return {
        "evaluation_set": "abc",
        "config": {},
        "confidence": 0.95,
        "hypotheses": 1,
        "students": students,
        "blessed": list(blessed),
        "warnings": [],
    }


@pytest.fixture
def made(make):
    return make("first")


@pytest.fixture
def queried(monkeypatch):
    """Models are not loaded, only noted."""
    tried = []
    monkeypatch.setattr(step, "validate", lambda queries, config, storage, size, version: tried.append(size))
    return tried


@pytest.fixture
def push_to(monkeypatch):
    """Push as if the students had been compared with what the target serves (`stale`: with what they really were)."""

    def push(target, made, output, *, stale=False, **settings):
        config = PushConfig.from_dict({"target": str(target)} | settings, "push")
        with monkeypatch.context() as patch:
            if not stale:
                storage = open_storage(config.target)
                served = {size: pointer.version for size in SIZES if (pointer := read_pointer(storage, size))}
                patch.setattr(step._Judged, "judged_against", lambda self, size: served.get(size))
            return step.push(config, *made, output=output)

    return push
