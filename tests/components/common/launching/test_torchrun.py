"""Ranks that really run: torchrun on gloo, in one pod, and as the two nodes that a TrainJob's manifest asks for."""

import dataclasses
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support import TRAINING
from trainjob_cluster import NAMESPACE

from components.common.launching.config import LaunchConfig, VolumeClaim
from components.common.launching.torchrun import run_torchrun
from components.train.step import train_teacher
from matta_core.artifacts import IN_PROGRESS
from matta_core.errors import UserError

pytestmark = pytest.mark.slow  # each starts several processes with torch

CONFIG = dataclasses.replace(TRAINING, sizes={"teacher": 64}, student="teacher")
TWO = LaunchConfig(processes_per_node=2)


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def weights(path):
    return load_file(path / "ta" / "model.safetensors")


def assert_agree(ours, theirs):
    """Ranks add the same numbers in another order; AdamW's division makes more of that in a few weights.

    The tolerance of tests/matta_core/training/test_train.py.
    """
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert torch.allclose(ours[name], tensor, rtol=1e-2, atol=1e-4), name


def processes_that_name(text):
    """The ids of processes with this text in their command."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and text in (entry / "cmdline").read_text():
                found.append(int(entry.name))
        except OSError:  # gone meanwhile
            continue
    return sorted(found)


def test_two_processes_of_a_pod_make_the_artifact_of_one(dataset, tmp_path, capfd):
    plain = train_teacher(CONFIG, dataset.path, output=tmp_path / "plain-{key}")
    launched = train_teacher(CONFIG, dataset.path, output=tmp_path / "two-{key}", launch_config=TWO)
    assert launched.key == plain.key
    assert launched.path.name.removeprefix("two-") == plain.path.name.removeprefix("plain-")
    assert launched.metadata.keys() == plain.metadata.keys()
    assert_agree(weights(launched.path), weights(plain.path))
    assert not (launched.path / IN_PROGRESS).exists()
    said = capfd.readouterr().out
    assert "[train_teacher] 2 processes on 1 node(s)\n[train_teacher] started" in said
    assert "[rank 1]" not in said  # one progress bar, rank 0's
    again = train_teacher(CONFIG, dataset.path, output=tmp_path / "two-{key}", launch_config=TWO)
    assert again.digest == launched.digest
    assert capfd.readouterr().out == f"[train_teacher] reused {launched.path}\n"


def test_a_mistake_that_the_ranks_find_is_the_steps_own(dataset, tmp_path):
    config = dataclasses.replace(CONFIG, batch_size=9)
    with pytest.raises(UserError) as caught:
        train_teacher(config, dataset.path, output=tmp_path / "run", launch_config=TWO)
    assert str(caught.value) == "train_teacher.batch_size must be divisible by the number of processes, 2, got 9"


def test_a_killed_rank_is_named_with_the_end_of_its_log(tmp_path, monkeypatch):
    (tmp_path / "misfortune.py").write_text(
        "import os, signal, time\n"
        "print('rank', os.environ['RANK'], 'speaks', flush=True)\n"
        "if os.environ['RANK'] == '1': time.sleep(1); os.kill(os.getpid(), signal.SIGKILL)\n"
        "time.sleep(60)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    started = time.monotonic()
    with pytest.raises(RuntimeError) as caught:
        run_torchrun(["misfortune"], 2)
    assert str(caught.value) == (
        "rank 1 was killed by SIGKILL (often: out of memory) in this pod. The end of its log:\nrank 1 speaks"
    )
    assert time.monotonic() - started < 55  # rank 0 was not waited for


def test_ranks_past_their_time_are_ended(tmp_path, monkeypatch):
    (tmp_path / "endless.py").write_text("import time\ntime.sleep(600)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(TimeoutError, match="ended after timeout_seconds = 10"):
        run_torchrun(["endless"], 2, timeout_seconds=10)


def test_a_step_told_to_end_saves_with_all_ranks_within_seconds_and_goes_on_bit_for_bit(dataset, tmp_path):
    """Two ranks add the same two numbers in any order: their run repeats to the last bit. No checkpoint is due."""
    config = dataclasses.replace(CONFIG, steps=120, checkpoint_every_steps=1000, eval_every_steps=100)
    output = tmp_path / "ended"
    command = [sys.executable, "-m", "components.train.teacher", "--config", config.to_json()]
    command += ["--dataset", str(dataset.path), "--output", str(output), "--launch", TWO.to_json()]
    step = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    give_up_at = time.monotonic() + 120
    metrics = output / "metrics.jsonl"
    while not (metrics.is_file() and '"step": 10,' in metrics.read_text()) and time.monotonic() < give_up_at:
        assert step.poll() is None, step.stdout.read()
        time.sleep(0.01)
    ranks = processes_that_name(str(output))
    assert len(ranks) >= 4  # the step, torchrun, two ranks
    step.terminate()
    ended_at = time.monotonic()
    said, _ = step.communicate(timeout=60)
    assert step.returncode == 128 + signal.SIGTERM
    assert time.monotonic() - ended_at < 25  # of the 30 s that Kubernetes gives; nearly all of it torchrun's own
    assert processes_that_name(str(output)) == []
    (saved,) = (output / IN_PROGRESS).glob("step-*")
    assert "step-00000010" <= saved.name < "step-00000120", "the run was over before it could be ended: more steps"
    assert f"ended: told to end (SIGTERM): step {int(saved.name[5:])} of 120 is saved in {saved};" in said
    assert "Traceback" not in said
    resumed = train_teacher(config, dataset.path, output=output, launch_config=TWO)
    whole = train_teacher(config, dataset.path, output=tmp_path / "whole", launch_config=TWO)
    for name, tensor in weights(whole.path).items():
        assert torch.equal(weights(resumed.path)[name], tensor), name


def test_one_rank_alone_that_is_told_to_end_takes_the_others_along(dataset, tmp_path):
    """They agree on the step by the message that sums their gradients."""
    config = dataclasses.replace(CONFIG, steps=4000, checkpoint_every_steps=10_000, eval_every_steps=1000)
    command = [sys.executable, "-m", "components.train.teacher", "--config", config.to_json()]
    command += ["--dataset", str(dataset.path), "--output", str(tmp_path / "run"), "--launch", TWO.to_json()]
    step = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    give_up_at, metrics = time.monotonic() + 120, tmp_path / "run" / "metrics.jsonl"
    while not (metrics.is_file() and '"step": 10,' in metrics.read_text()) and time.monotonic() < give_up_at:
        assert step.poll() is None, step.stdout.read()
        time.sleep(0.01)
    (second,) = (pid for pid in processes_that_name(str(tmp_path / "run")) if "\0RANK=1\0" in environment_of(pid))
    os.kill(second, signal.SIGTERM)
    said, _ = step.communicate(timeout=60)
    assert step.returncode == 1  # which Kubernetes retries: nobody told the step itself
    assert "ended: told to end (SIGTERM): step " in said
    assert len(list((tmp_path / "run" / IN_PROGRESS).glob("step-*"))) == 1


def environment_of(pid):
    return "\0" + Path(f"/proc/{pid}/environ").read_text().replace("LOCAL_RANK", "").replace("GROUP_RANK", "")


class Kubelet:
    """Runs a TrainJob's nodes as processes here, with the variables that Trainer's torch runtime sets."""

    def __init__(self, cluster, port):
        self.cluster, self.port, self.processes = cluster, port, []
        cluster.idle_looks = None
        cluster.moves = [self.look] * 100_000

    def look(self, cluster):
        if not self.processes:
            (job,) = cluster.jobs.values()
            self.processes = [self._start(job["spec"]["trainer"], node) for node in cluster.nodes]
        for process, node in zip(self.processes, cluster.nodes, strict=True):
            if process.poll() is not None and "running" in node.state:
                process.reader.join()
                node.ends(process.returncode, "Completed" if process.returncode == 0 else "Error")
        if all(process.poll() == 0 for process in self.processes):
            cluster.ends("Complete")
        elif any(process.poll() for process in self.processes):
            cluster.ends("Failed")

    def _start(self, trainer, node):
        variables = {variable["name"]: variable["value"] for variable in trainer["env"]} | {
            "PET_NNODES": str(trainer["numNodes"]),
            "PET_NPROC_PER_NODE": str(trainer["numProcPerNode"]),
            "PET_NODE_RANK": str(node.rank),
            "PET_MASTER_ADDR": "127.0.0.1",
            "PET_MASTER_PORT": str(self.port),
        }
        command = [sys.executable, *trainer["command"][1:], *trainer["args"]]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        process = subprocess.Popen(command, env=os.environ | variables | {"GLOO_SOCKET_IFNAME": "lo"}, **pipes)
        node.runs()
        process.reader = threading.Thread(target=lambda: [node.says(line.rstrip("\n")) for line in process.stdout])
        process.reader.start()
        return process

    def end(self):
        for process in self.processes:
            process.kill()
            process.wait()
            process.reader.join()


@pytest.fixture
def kubelet(cluster, unused_port):
    running = Kubelet(cluster, unused_port)
    yield running
    running.end()


@pytest.fixture
def unused_port():
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_the_command_of_a_trainjob_trains_on_two_nodes(dataset, tmp_path, kubelet, capfd):
    plain = train_teacher(CONFIG, dataset.path, output=tmp_path / "plain-{key}")
    nodes = LaunchConfig(nodes=2, image="i", cpu="1", claims=(VolumeClaim("artifacts", str(tmp_path)),))
    launched = train_teacher(CONFIG, dataset.path, output=tmp_path / "nodes-{key}", launch_config=nodes)
    assert launched.key == plain.key
    assert_agree(weights(launched.path), weights(plain.path))
    said = capfd.readouterr().out
    name = f"matta-train-teacher-{launched.key[:16]}"
    assert f"TrainJob {NAMESPACE}/{name}: created" in said
    assert len(re.findall(r"^\[train_teacher\] started$", said, re.MULTILINE)) == 2  # the plain run's, and rank 0's


def test_a_rank_of_another_node_that_fails_is_told_by_its_rank(dataset, tmp_path, kubelet):
    config = dataclasses.replace(CONFIG, batch_size=9)
    nodes = LaunchConfig(nodes=2, image="i", cpu="1", claims=(VolumeClaim("artifacts", str(tmp_path)),))
    with pytest.raises(
        UserError, match=r"train_teacher\.batch_size must be divisible by the number of processes, 2, got 9"
    ):
        train_teacher(config, dataset.path, output=tmp_path / "run", launch_config=nodes)
