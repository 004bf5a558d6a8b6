"""The wrappers hand their settings to the ranks whole: by the step's own command, read back by its own parser."""

import dataclasses
import json
import runpy
import sys
from types import SimpleNamespace

import pytest

from components.common.launching.config import LaunchConfig, VolumeClaim
from components.common.launching.heartbeat import heartbeat
from components.score_teacher.step import score_teacher
from components.train.component import train, train_teacher
from components.train.step import train_teacher as train_step
from matta_core.artifacts import IN_PROGRESS, file_digest, open_artifact
from matta_core.recipe import LossConfig, ScoreTeacherConfig, TrainConfig

TEACHER = TrainConfig(
    model={"model_type": "gpt2", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2},
    sizes={"teacher": 32},
    student="teacher",
    steps=2,
    warmup_steps=1,
    batch_size=8,
    eval_sequences=4,
    loss=LossConfig(teacher_weight=0.0),
)
STUDENTS = dataclasses.replace(TEACHER, sizes={"s": 8, "xl": 16}, student="s", loss=LossConfig())


class KfpArtifact(SimpleNamespace):
    def log_metric(self, name, value):
        self.metadata[name] = value


def kfp_artifact(path=None):
    return KfpArtifact(path=str(path), metadata={})


@pytest.fixture
def launched(monkeypatch):
    """torchrun, with one rank, in this process."""
    calls = []

    def run_here(command, processes, *, timeout_seconds):
        calls.append((command, processes, timeout_seconds))
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", command)
            runpy.run_module(command[0], run_name="__main__")

    monkeypatch.setattr("components.common.launching.launch.run_torchrun", run_here)
    return calls


def assert_same_work(ours, theirs):
    """All but the metrics' files, which hold how fast it went."""
    assert ours.key == theirs.key
    assert ours.metadata == theirs.metadata
    for name in ("ta/model.safetensors", "ta/config.json", "nesting.json"):
        assert file_digest(ours.path / name) == file_digest(theirs.path / name), name


def test_launched_steps_make_the_artifacts_that_steps_make_in_process(dataset, tmp_path, launched):
    def run(wrapper, config, launch_config, **inputs):
        checkpoint, metrics = kfp_artifact(tmp_path / "unused"), kfp_artifact()
        wrapper.python_func(
            config=config.to_json(),
            store=str(tmp_path / ("launched" if launch_config else "plain")),
            dataset=kfp_artifact(dataset.path),
            checkpoint=checkpoint,
            metrics=metrics,
            launch_config=launch_config,
            **inputs,
        )
        artifact = open_artifact(checkpoint.path, "MattaCheckpoint")
        assert checkpoint.metadata == {"kind": "MattaCheckpoint", "digest": artifact.digest}
        assert metrics.metadata == artifact.metadata["final"]
        return artifact

    two = json.dumps({"processes_per_node": 2, "timeout_seconds": 60})
    teacher = run(train_teacher, TEACHER, two)
    assert_same_work(teacher, run(train_teacher, TEACHER, ""))
    scores = score_teacher(ScoreTeacherConfig(top_k=4), dataset.path, teacher.path, output=tmp_path / "scores")
    assert launched[0][1:] == (2, 60)

    students = run(train, STUDENTS, two, scores=kfp_artifact(scores.path))
    assert students.inputs == {"dataset": dataset.digest, "scores": scores.digest}
    assert_same_work(students, run(train, STUDENTS, "", scores=kfp_artifact(scores.path)))
    assert len(launched) == 2


def test_one_process_needs_no_torchrun(dataset, tmp_path, launched):
    one = LaunchConfig().to_json()
    checkpoint = kfp_artifact(tmp_path / "checkpoint")
    train_teacher.python_func(
        config=TEACHER.to_json(),
        store="",
        dataset=kfp_artifact(dataset.path),
        checkpoint=checkpoint,
        metrics=kfp_artifact(),
        launch_config=one,
    )
    assert open_artifact(checkpoint.path, "MattaCheckpoint").path == tmp_path / "checkpoint"
    assert launched == []


def test_a_step_of_several_nodes_keeps_its_heartbeat_beside_the_unfinished_work(dataset, tmp_path, monkeypatch):
    files = []

    def run_here(launch, command, *, name, heartbeat_file):
        files.append(heartbeat_file)
        with heartbeat(heartbeat_file, beat_seconds=0.001), monkeypatch.context() as patch:
            patch.setattr(sys, "argv", command)
            runpy.run_module(command[0], run_name="__main__")

    monkeypatch.setattr("components.common.launching.trainjob.run_trainjob", run_here)
    nodes = LaunchConfig(nodes=2, image="i", claims=(VolumeClaim("c", str(tmp_path)),))
    artifact = train_step(TEACHER, dataset.path, output=tmp_path / "nodes-{key}", launch_config=nodes)
    assert files == [artifact.path / IN_PROGRESS / "heartbeat"]
    assert not files[0].parent.exists()  # removed by rank 0, and not made again
    assert_same_work(artifact, train_step(TEACHER, dataset.path, output=tmp_path / "plain"))
