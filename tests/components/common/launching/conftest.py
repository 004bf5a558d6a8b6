import pytest
from trainjob_cluster import cluster as running_cluster

from components.common.launching.config import LaunchConfig, VolumeClaim
from components.common.launching.manifest import trainjob_manifest
from components.common.launching.trainjob import run_trainjob

NAME = "matta-train-0123456789abcdef"
COMMAND = ["components.train", "--config", "{}"]


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """A stand-in cluster, to which this process's kubeconfig points; the step runs in a pod of it."""
    with running_cluster() as server:
        path = str(server.kubeconfig(tmp_path))
        monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", path)
        monkeypatch.setenv("KFP_POD_NAME", "train-step-1")
        monkeypatch.setenv("KFP_POD_UID", "uid-1")
        monkeypatch.setenv("KFP_RUN_ID", "run-1")
        yield server


@pytest.fixture
def two_nodes():
    return LaunchConfig(
        nodes=2, processes_per_node=2, image="matta/trainer@sha256:1", claims=(VolumeClaim("artifacts", "/store"),)
    )


@pytest.fixture
def run(tmp_path):
    """Run the TrainJob of tests/components/train, as the step does."""

    def run(launch):
        run_trainjob(launch, COMMAND, name=NAME, heartbeat_file=tmp_path / "work" / "heartbeat", poll_seconds=0.01)

    return run


@pytest.fixture
def job_of(tmp_path):
    """The manifest of that TrainJob, from an attempt before or of another run."""

    def job_of(launch, *, owner=None, run="run-1"):
        heartbeat_file = tmp_path / "work" / "heartbeat"
        return trainjob_manifest(launch, COMMAND, name=NAME, owner=owner, run=run, heartbeat_file=heartbeat_file)

    return job_of
