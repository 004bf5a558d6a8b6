"""The whole pipeline and each of its steps in containers: the same files as in processes, and failures that are told.

A training writes its times (metrics.jsonl) and TensorBoard's file, whose name holds the clock; an evaluation measures
speed. These files differ from run to run on one machine, too, and with them the digests of all that is made of them.
Every other file is the same, byte for byte: the images hold the same packages as .venv, by constraints.txt.
"""

import json
import os
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import pytest

from components.common.command_line import DEFAULT_RECIPE
from components.common.images import DATA_IMAGE, EVALUATOR_IMAGE, TRAINER_IMAGE

pytestmark = [pytest.mark.docker, pytest.mark.slow]

SMOKE = DEFAULT_RECIPE.parent / "smoke.yaml"
ROOT = DEFAULT_RECIPE.parent.parent.parent
TINY = {
    "prepare_data.max_documents": 16,
    "train_teacher.steps": 8,
    "train_teacher.warmup_steps": 1,
    "train.steps": 8,
    "train.warmup_steps": 1,
    "train.eval_every_steps": 4,
    "gate.policy.maximum": "{matta_bits_per_byte: 20}",
    "gate.policy.min_documents": 2,
    "evaluate.last_token_questions": 10,
    "evaluate.bits_per_byte_documents": 2,
}
FOREIGN_ID = 61234


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """Some forty text files: the interpreter's own library as it is here. The image's is another one."""
    folder = tmp_path_factory.mktemp("text")
    for file in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))[:40]:
        (folder / f"{file.stem}.txt").write_text(file.read_text(encoding="utf-8", errors="replace")[:20_000])
    return folder


def settings(text, target, **more):
    values = TINY | {"prepare_data.source": f"{text}/*.txt", "push.target": str(target)} | more
    return [part for key, value in values.items() for part in ("--set", f"{key}={value}")]


def pipeline(folder, text, *options, **more):
    command = [sys.executable, "-m", "pipelines.matta_pipeline", "run", "--recipe", str(SMOKE)]
    command += ["--output", str(folder / "run"), *options, *settings(text, folder / "pushed", **more)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


@pytest.fixture(scope="module")
def in_processes(tmp_path_factory, text):
    folder = tmp_path_factory.mktemp("processes")
    result = pipeline(folder, text)
    assert result.returncode == 0, result.stdout + result.stderr
    return folder


@pytest.fixture(scope="module")
def in_containers(tmp_path_factory, text, images):
    folder = tmp_path_factory.mktemp("containers")
    result = pipeline(folder, text, "--docker")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "4/9 train             finished" in result.stdout
    return folder


def artifacts(folder):
    """Directory and manifest of each step of a run."""
    found = {}
    for manifest in (folder / "run" / "artifacts").glob("*/manifest.json"):
        found[manifest.parent.name.rpartition("-")[0]] = (manifest.parent, json.loads(manifest.read_text()))
    return found


def steady(manifest):
    """The digests of the files that one machine, too, makes alike twice."""
    changing = ("metrics.jsonl", "results.json")
    files = manifest["files"]
    return {
        name: files[name]["sha256"] for name in files if Path(name).name not in changing and "tensorboard" not in name
    }


def test_containers_make_the_same_files_as_processes(in_processes, in_containers):
    ours, theirs = artifacts(in_processes), artifacts(in_containers)
    assert ours["prepare_data"][1]["digest"] == theirs["prepare_data"][1]["digest"]
    for step in ("prepare_data", "train_teacher"):  # made of equal inputs: equal keys, so each reuses the other's
        assert ours[step][0].name == theirs[step][0].name
    for step in ("prepare_data", "train_teacher", "score_teacher", "train", "extract_students", "evaluate"):
        assert steady(ours[step][1]) == steady(theirs[step][1]), step
        assert len(steady(ours[step][1])) > 1
    ours, theirs = (
        json.loads((folder / "run" / "summary.json").read_text()) for folder in (in_processes, in_containers)
    )
    for name, student in ours["students"].items():
        assert student["tasks"] == theirs["students"][name]["tasks"]
        assert Path(student["pushed_to"]).name == Path(theirs["students"][name]["pushed_to"]).name
        assert Path(theirs["students"][name]["pushed_to"]).is_dir()


def test_each_step_runs_by_plain_docker_run_under_a_foreign_user(in_processes, text, images, tmp_path_factory):
    """With a read-only root and without a network; what is deterministic has the digest that the process's has."""
    folder = tmp_path_factory.mktemp("steps")
    user = os.getuid() or FOREIGN_ID
    made = {step: path for step, (path, _) in artifacts(in_processes).items()}
    manifests = {step: manifest for step, (_, manifest) in artifacts(in_processes).items()}
    data, teacher, scores = made["prepare_data"], made["train_teacher"], made["score_teacher"]
    checkpoint, students, evaluation = made["train"], made["extract_students"], made["evaluate"]
    (folder / "pushed").mkdir()
    if os.getuid() == 0:
        os.chown(folder, user, user)
        os.chown(folder / "pushed", user, user)
        # safetensors writes files that only their owner may read; pytest makes such folders.
        subprocess.run(["chmod", "-R", "a+rX", str(in_processes), str(text)], check=True)
    commands = {
        "prepare_data": (DATA_IMAGE, []),
        "train_teacher": (TRAINER_IMAGE, ["--dataset", data]),
        "score_teacher": (TRAINER_IMAGE, ["--dataset", data, "--teacher-checkpoint", teacher]),
        "train": (TRAINER_IMAGE, ["--dataset", data, "--scores", scores]),
        "extract_students": (TRAINER_IMAGE, ["--checkpoint", checkpoint, "--dataset", data]),
        "evaluate": (
            EVALUATOR_IMAGE,
            ["--dataset", data, "--students", students, "--teacher-checkpoint", teacher],
        ),
        "gate": (EVALUATOR_IMAGE, ["--evaluation", evaluation, "--students", students]),
        "push": (
            EVALUATOR_IMAGE,
            ["--decision", folder / "gate", "--students", students, "--evaluation", evaluation],
        ),
    }
    modules = {"train_teacher": "train.teacher"}
    for step, (image, inputs) in commands.items():
        command = ["docker", "run", "--rm", "--read-only", "--tmpfs", "/tmp", "--network", "none"]
        command += ["--env", "OMP_NUM_THREADS"] if "OMP_NUM_THREADS" in os.environ else []  # as the processes had
        command += ["--user", f"{user}:{user}", "--volume", f"{folder}:{folder}", "--volume", f"{text}:{text}:ro"]
        command += ["--volume", f"{in_processes}:{in_processes}:ro", "--volume", f"{SMOKE}:/recipe.yaml:ro", image]
        command += ["python", "-m", f"components.{modules.get(step, step)}"]
        command += ["--recipe", "/recipe.yaml", "--output", folder / step]
        command += [*inputs, *settings(text, folder / "pushed")]
        result = subprocess.run([str(part) for part in command], capture_output=True, text=True)
        assert result.returncode == 0, f"{step}: {result.stdout}{result.stderr}"
        manifest = json.loads((folder / step / "manifest.json").read_text())
        assert (folder / step / "manifest.json").stat().st_uid == user
        if step in manifests and step not in ("gate", "push"):  # those say what was served before
            assert steady(manifest) == steady(manifests[step]), step
        if step in ("prepare_data", "score_teacher", "extract_students"):
            assert manifest["digest"] == manifests[step]["digest"], step
    assert {path.name for path in (folder / "pushed").iterdir()} >= {"s", "m", "l", "xl"}


def test_a_mistake_is_told_as_by_a_process(tmp_path, images):
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "latin.txt").write_bytes(b"caf\xe9")
    result = pipeline(tmp_path, tmp_path / "text", "--docker")
    assert result.returncode == 2, result.stdout + result.stderr
    assert result.stderr.startswith(f"error: {tmp_path}/text/latin.txt")
    assert "prepare_data.on_invalid_utf8=skip" in result.stderr


def test_an_ended_run_leaves_no_container(tmp_path, text, images, engine):
    command = [sys.executable, "-m", "pipelines.matta_pipeline", "run", "--docker", "--recipe", str(SMOKE)]
    command += ["--output", str(tmp_path / "run"), *settings(text, tmp_path / "pushed")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)

    def ours():
        listed = engine.containers.list(filters={"label": "matta.run"})
        return [
            item for item in listed if any(mount["Source"] == str(tmp_path / "run") for mount in item.attrs["Mounts"])
        ]

    deadline = time.monotonic() + 60
    while not ours():
        assert time.monotonic() < deadline, "no container was started"
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, complaint = process.communicate(timeout=60)
    assert process.returncode == 130
    assert complaint.strip().splitlines()[-1] == "interrupted: the same command goes on from here"
    assert ours() == []
