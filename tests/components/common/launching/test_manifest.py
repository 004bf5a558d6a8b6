"""The TrainJob says what the LaunchConfig says, in fields that Kubeflow Trainer knows."""

import dataclasses
from pathlib import Path

import pytest
from kubeflow_trainer_api.models import TrainerV1alpha1TrainJob

from components.common.launching.config import LaunchConfig, SecretVariable, VolumeClaim
from components.common.launching.manifest import Owner, trainjob_manifest

FULL = LaunchConfig(
    nodes=3,
    processes_per_node=4,
    image="matta/trainer@sha256:1",
    cpu="16",
    memory="64Gi",
    memory_limit="80Gi",
    accelerator="nvidia.com/gpu",
    accelerators=4,
    shared_memory="16Gi",
    claims=(VolumeClaim("artifacts", "/store"), VolumeClaim("models", "/models")),
    secrets=(SecretVariable("hub", "token", "HF_TOKEN"),),
    service_account="pipeline-runner",
    node_selector={"cloud.google.com/gke-accelerator": "nvidia-h100-80gb"},
    tolerations=({"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},),
    labels={"team": "search", "kueue.x-k8s.io/queue-name": "matta", "kueue.x-k8s.io/priority-class": "nightly"},
    annotations={"note": "nightly"},
    timeout_seconds=3600,
)
COMMAND = ["components.train", "--config", '{"seed": 0}', "--output", "/store/train-1"]


def manifest(launch=FULL, owner=None):
    return made_of(launch, COMMAND, owner)


def made_of(launch, command, owner=None):
    heartbeat_file = Path("/store/train-1/.in_progress/heartbeat")
    return trainjob_manifest(
        launch, command, name="matta-train-1", owner=owner, run="run-1", heartbeat_file=heartbeat_file
    )


def pod_of(job):
    (patch,) = job["spec"]["runtimePatches"]
    (replicated,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    assert replicated["name"] == "node"
    return replicated["template"]["spec"]["template"]


def test_every_field_is_known_to_the_typed_models():
    """A field that they do not know is lost in the round trip, as an API server that is strict would refuse it."""
    job = manifest(owner=Owner("pod", "uid"))
    assert TrainerV1alpha1TrainJob.from_dict(job).to_dict() == job
    job["spec"]["podSpecOverrides"] = []
    assert TrainerV1alpha1TrainJob.from_dict(job).to_dict() != job


def test_the_nodes_run_torchrun_on_the_steps_own_command():
    trainer = manifest()["spec"]["trainer"]
    assert (trainer["numNodes"], trainer["numProcPerNode"], trainer["image"]) == (3, 4, "matta/trainer@sha256:1")
    assert trainer["command"] == ["python", "-m", "torch.distributed.run"]
    assert trainer["args"][-6:] == ["-m", *COMMAND]
    variables = {variable["name"]: variable for variable in trainer["env"]}
    assert variables["OMP_NUM_THREADS"]["value"] == "4"  # 16 cores for 4 processes
    assert variables["HF_TOKEN"]["valueFrom"] == {"secretKeyRef": {"name": "hub", "key": "token"}}
    # Trainer's webhook refuses those of torchrun: the runtime sets them.
    assert not any(name.startswith("PET_") for name in variables)


def test_a_dollar_in_a_setting_is_not_taken_for_a_variable():
    job = made_of(FULL, ["components.train", "--config", "$(HOME)"])
    assert job["spec"]["trainer"]["args"][-1] == "$$(HOME)"


def test_resources_are_requested_and_limited():
    gpus = {"nvidia.com/gpu": "4"}
    resources = manifest()["spec"]["trainer"]["resourcesPerNode"]
    assert resources["requests"] == {"cpu": "16", "memory": "64Gi"} | gpus
    assert resources["limits"] == {"cpu": "16", "memory": "80Gi"} | gpus


def test_pods_get_their_volumes_place_and_shared_memory():
    template = pod_of(manifest())
    spec = template["spec"]
    assert template["metadata"]["labels"].items() >= {"team": "search"}.items()
    assert template["metadata"]["annotations"] == {"note": "nightly"}
    assert spec["serviceAccountName"] == "pipeline-runner"
    assert spec["nodeSelector"] == FULL.node_selector
    assert spec["tolerations"] == [FULL.tolerations[0]]
    (container,) = spec["containers"]
    places = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    by_path = {places[volume.pop("name")]: volume for volume in spec["volumes"]}
    assert by_path == {
        "/store": {"persistentVolumeClaim": {"claimName": "artifacts"}},
        "/models": {"persistentVolumeClaim": {"claimName": "models"}},
        "/dev/shm": {"emptyDir": {"medium": "Memory", "sizeLimit": "16Gi"}},
    }


def test_the_least_that_can_be_said_leaves_the_rest_to_the_runtime():
    launch = LaunchConfig(nodes=2, image="i", claims=(VolumeClaim("c", "/store"),))
    job = manifest(launch)
    assert "resourcesPerNode" not in job["spec"]["trainer"]
    assert "activeDeadlineSeconds" not in job["spec"]
    assert "ownerReferences" not in job["metadata"]
    assert pod_of(job)["spec"].keys() == {"volumes", "containers"}


def test_kueue_queues_the_job_as_a_gang_and_not_its_pods():
    """Its integration for TrainJobs reads the job's own labels; labelled pods would be queued one by one."""
    queue = {"kueue.x-k8s.io/queue-name": "matta", "kueue.x-k8s.io/priority-class": "nightly"}
    assert manifest()["metadata"]["labels"] == {"app.kubernetes.io/managed-by": "matta"} | queue
    assert not queue.keys() & pod_of(manifest())["metadata"]["labels"].keys()


def test_the_ranks_pods_are_not_given_a_meshs_proxy_unless_the_profile_says_so():
    def told(**labels):
        launch = dataclasses.replace(FULL, labels=labels)
        return pod_of(manifest(launch))["metadata"]["labels"]["sidecar.istio.io/inject"]

    assert told() == told(team="search") == "false"
    assert told(**{"sidecar.istio.io/inject": "true"}) == "true"


def test_the_nodes_know_the_heartbeat_and_the_job_its_run():
    variables = {variable["name"]: variable.get("value") for variable in manifest()["spec"]["trainer"]["env"]}
    assert variables["MATTA_HEARTBEAT"] == "/store/train-1/.in_progress/heartbeat"
    assert manifest()["metadata"]["annotations"]["matta.trainjob/run"] == "run-1"


@pytest.mark.parametrize(
    "change",
    [
        {"nodes": 2},
        {"image": "matta/trainer@sha256:2"},
        {"cpu": "8"},
        {"labels": FULL.labels | {"kueue.x-k8s.io/queue-name": "b"}},
    ],
)
def test_other_settings_give_another_digest_another_owner_does_not(change):
    def digest(launch, owner=None):
        return manifest(launch, owner)["metadata"]["annotations"]["matta.trainjob/spec"]

    assert digest(FULL) == digest(FULL, Owner("pod", "uid"))
    assert digest(FULL) != digest(dataclasses.replace(FULL, **change))
