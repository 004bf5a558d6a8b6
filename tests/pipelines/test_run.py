"""The whole pipeline under kfp.local, with the smallest settings: every step real, resumable, explained."""

import fcntl
import json
import subprocess
import sys
import time

import pytest
from transformers import AutoModelForCausalLM

from components.common.command_line import DEFAULT_RECIPE
from matta_core.artifacts import LOCK

SMOKE = DEFAULT_RECIPE.parent / "smoke.yaml"
TINY = {
    "prepare_data.max_documents": 40,
    "train_teacher.steps": 8,
    "train.steps": 8,
    "train.eval_every_steps": 4,
    "train_teacher.warmup_steps": 1,
    "train.warmup_steps": 1,
    "gate.policy.maximum": "{matta_bits_per_byte: 20}",
    "gate.per_student": "{m: {max_parameters: 1}}",
}


def run(tmp_path, **overrides):
    settings = (
        TINY | {"push.target": str(tmp_path / "pushed")} | {k.replace("__", "."): v for k, v in overrides.items()}
    )
    command = [sys.executable, "-m", "pipelines.matta_pipeline", "run", "--recipe", str(SMOKE)]
    command += ["--output", str(tmp_path / "run")]
    for key, value in settings.items():
        command += ["--set", f"{key}={value}"]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.slow
def test_the_pipeline_runs_goes_on_after_a_mistake_and_reuses_what_is_finished(tmp_path):
    mistaken = run(tmp_path, train__batch_size=100_000)
    assert mistaken.returncode == 2
    assert mistaken.stderr.startswith("error: train.batch_size must be at most the dataset's")
    assert "3/9 score_teacher     finished" in mistaken.stdout

    first = run(tmp_path)
    assert first.returncode == 0, first.stdout + first.stderr
    for step in ("prepare_data", "train_teacher", "score_teacher"):
        assert f"{step:<17} reused" in first.stdout
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert list(summary["students"]) == ["s", "m", "l", "xl"]
    fields = {
        "path", "parameters", "bytes", "flops_per_token", "tasks", "prefill", "decode", "peak_memory_bytes",
        "blessed", "held_because", "pushed_to", "not_pushed_because", "baseline", "comparisons",
    }  # fmt: skip
    for name, student in summary["students"].items():
        assert fields <= student.keys()
        # m is over its ceiling of parameters: it is held, and the others go.
        assert student["blessed"] is (name != "m")
        assert (student["pushed_to"] is None) is (name == "m")
    pushed = AutoModelForCausalLM.from_pretrained(summary["students"]["s"]["pushed_to"])
    assert pushed.num_parameters() == summary["students"]["s"]["parameters"]
    assert fields <= summary["ta"].keys() & summary["teacher"].keys()
    assert summary["teacher"]["tasks"]["matta_bits_per_byte"]["value"] > 0
    assert set(summary["seconds"]) == {
        "prepare_data", "train_teacher", "score_teacher", "train", "extract_students", "evaluate", "gate", "push",
    }  # fmt: skip
    assert summary["total_seconds"] == pytest.approx(sum(summary["seconds"].values()), abs=0.01)
    assert "<svg" in (tmp_path / "run" / "report.html").read_text()
    assert "## The gate's reasons" in (tmp_path / "run" / "summary.md").read_text()

    second = run(tmp_path)
    assert second.returncode == 0, second.stdout + second.stderr
    assert second.stdout.count(" reused ") >= 6
    assert "is current, and whole" in second.stdout

    # An artifact that somebody changed is refused, by name, and nothing is lost by that.
    weights = next((tmp_path / "run" / "artifacts").glob("extract_students-*/s/model.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    third = run(tmp_path)
    assert third.returncode == 2
    assert "s/model.safetensors was altered" in third.stderr


@pytest.mark.slow
def test_told_to_end_it_passes_that_on_to_the_step_at_work_which_saves(tmp_path):
    """`kill` of the run alone: its steps are processes of their own."""
    settings = TINY | {"push.target": str(tmp_path / "pushed"), "train_teacher.steps": 5000}
    settings |= {"train_teacher.checkpoint_every_steps": 10_000, "train_teacher.log_every_steps": 1}
    command = [sys.executable, "-m", "pipelines.matta_pipeline", "run", "--recipe", str(SMOKE)]
    command += ["--output", str(tmp_path / "run"), *(f"--set={key}={value}" for key, value in settings.items())]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    give_up_at = time.monotonic() + 900
    folder = tmp_path / "run" / "artifacts"
    while process.poll() is None and time.monotonic() < give_up_at:
        if any('"step": 2,' in file.read_text() for file in folder.glob("train_teacher-*/metrics.jsonl")):
            break
        time.sleep(0.05)
    process.terminate()
    told_at = time.monotonic()
    _, said = process.communicate(timeout=120)
    assert process.returncode == 143
    assert time.monotonic() - told_at < 30
    (saved,) = folder.glob("train_teacher-*/.in_progress/step-*")
    assert said.splitlines()[-1] == (
        f"ended: told to end (SIGTERM): step {int(saved.name[5:])} of 5000 is saved in {saved}; the same command "
        f"goes on from it"
    )
    with (saved.parents[1] / LOCK).open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # no process of the step is left
