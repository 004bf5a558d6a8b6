"""Cluster profiles: what is read, and how a mistake in one is told."""

from pathlib import Path

import pytest
import yaml
from kubernetes.utils.quantity import parse_quantity

from matta_core.errors import UserError
from pipelines.cluster import ClusterProfile, StepPlacement, load_cluster

PROFILES = sorted(Path("pipelines/clusters").glob("*.yaml"))
DIGEST = "registry.example.com:5000/matta/data@sha256:" + "0123456789abcdef" * 4
GPUS = {"accelerator": "nvidia.com/gpu", "accelerators": 2}
IMAGES = {"data": DIGEST, "trainer": DIGEST, "evaluator": DIGEST}


def profile(**settings):
    return ClusterProfile.from_dict({"name": "test", "images": IMAGES, **settings})


def test_a_steps_settings_take_the_place_of_the_defaults_one_by_one():
    cluster = profile(
        defaults={"cpu": "2", "memory": "8Gi", "labels": {"team": "a"}, "tolerations": [{"key": "k", "value": "v"}]},
        steps={"train": {"cpu": "16", "tolerations": []}},
    )
    assert cluster.placement("gate") == cluster.defaults
    train = cluster.placement("train")
    assert (train.cpu, train.memory, train.labels, train.tolerations) == ("16", "8Gi", {"team": "a"}, ())


def test_a_step_runs_one_process_per_accelerator_unless_told_otherwise():
    assert StepPlacement().processes == 1
    assert StepPlacement(accelerator="nvidia.com/gpu", accelerators=8).processes == 8
    assert StepPlacement(accelerator="nvidia.com/gpu", accelerators=8, processes_per_node=4).processes == 4


def test_retries_may_take_as_long_as_all_attempts_and_the_waits_between_them():
    placement = StepPlacement(timeout_seconds=1000, retries=3, retry_backoff_seconds=10, retry_backoff_factor=2)
    assert placement.retry_window_seconds == 4 * 1000 + 10 + 20 + 40


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)
def test_every_example_is_read_and_its_quantities_are_kubernetes_own(path):
    cluster = load_cluster(path)
    assert cluster.name == path.stem.replace("_", "-")
    for placement in (cluster.defaults, *cluster.steps.values()):
        for name in ("cpu", "cpu_limit", "memory", "memory_limit", "shared_memory"):
            if getattr(placement, name) is not None:
                assert parse_quantity(getattr(placement, name)) > 0
        for request, limit in (("cpu", "cpu_limit"), ("memory", "memory_limit")):
            if getattr(placement, limit) is not None:
                assert parse_quantity(getattr(placement, limit)) >= parse_quantity(getattr(placement, request))


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)
def test_an_example_that_retries_train_after_hours_keeps_its_unfinished_work(path):
    cluster = load_cluster(path)
    if cluster.platform == "kubeflow" and cluster.placement("train").timeout_seconds > 4 * 3600:
        assert cluster.store


def test_quantities_may_be_numbers_and_a_store_taken_away():
    overrides = [
        "steps.train.cpu=4",
        "steps.train.memory=64e9",
        "defaults.cpu=0.5",
        "store=null",
        "steps.train.retries=0",
    ]
    with pytest.raises(
        UserError, match=r"train.memory must be a Kubernetes quantity .*'64000000000.0' \(in .*--cluster-set store=null"
    ):
        load_cluster("pipelines/clusters/one_gpu.yaml", overrides)
    overrides[1] = "steps.train.memory=64000000000"
    cluster = load_cluster("pipelines/clusters/one_gpu.yaml", overrides)
    assert (cluster.placement("train").cpu, cluster.placement("train").memory) == ("4", "64000000000")
    assert (cluster.defaults.cpu, cluster.store) == ("0.5", None)


def test_a_setting_given_on_the_command_line_changes_one_step_only(tmp_path):
    """YAML's aliases are one object in Python."""
    cluster = load_cluster("pipelines/clusters/gke_h100.yaml", ["steps.train.nodes=2", f"images.data={DIGEST}"])
    assert (cluster.placement("train").nodes, cluster.placement("train_teacher").nodes) == (2, 1)
    assert cluster.images.data == DIGEST


def test_a_mistake_in_a_list_that_an_override_gives_is_told():
    told = (
        r"unknown setting defaults.tolerations\[0\].a: .* \(in .*gke_h100.yaml with --cluster-set defaults.tolerations"
    )
    with pytest.raises(UserError, match=told):
        load_cluster("pipelines/clusters/gke_h100.yaml", ["defaults.tolerations=[{a: b}]"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"step": {}}, "unknown setting step: known here are name, images, platform"),
        ({"steps": {"trian": {}}}, "steps must be among prepare_data, train_teacher,.*, got 'trian'"),
        ({"steps": {"train": {"cpus": "1"}}}, "unknown setting steps.train.cpus: known here are cpu,"),
        ({"defaults": {"gpu": 1}}, "unknown setting defaults.gpu: known here are cpu,"),
        ({"steps": {"train": 1}}, "steps.train must be a mapping of settings, got 1"),
        ({"steps": []}, r"steps must be a mapping, got \[\]"),
        (
            {"defaults": {"memory_limit": "4Gi"}, "steps": {"train": {"memory": "8Gi"}}},
            r"steps.train.memory must be <= memory_limit = 4Gi \(raise that, too\), got 8Gi",
        ),
        (
            {"images": {**IMAGES, "trainer": "matta/trainer:1.0"}},
            r"images.trainer must be NAME@sha256:….*allow_tags: true.*got 'matta/trainer:1.0'",
        ),
        ({"images": {**IMAGES, "trainer": DIGEST[:-1]}}, "images.trainer must be an image's name, got"),
        ({"images": {"data": DIGEST}}, "images.trainer is required"),
        ({"defaults": {"cpu": "two"}}, "defaults.cpu must be a Kubernetes quantity such as 500m or 8, got 'two'"),
        ({"defaults": {"cpu": True}}, "defaults.cpu must be of type str, got True"),
        ({"defaults": {"memory": "8GB"}}, "defaults.memory must be a Kubernetes quantity such as 512Mi or 16Gi, got"),
        ({"defaults": {"memory": "1.5Gi"}}, "defaults.memory must be a Kubernetes quantity"),
        ({"steps": {"train": {"shared_memory": "8 Gi"}}}, "steps.train.shared_memory must be a Kubernetes quantity"),
        ({"defaults": {"accelerators": 1}}, "accelerator and accelerators must be given together, got None and 1"),
        ({"defaults": {"accelerator": "nvidia.com/gpu"}}, "must be given together, got 'nvidia.com/gpu' and 0"),
        ({"defaults": {"labels": {"a b": "c"}}}, "defaults.labels.a b: the key must be a Kubernetes label's key"),
        ({"defaults": {"labels": {"a": "b c"}}}, "defaults.labels.a must be a Kubernetes label's value, got 'b c'"),
        ({"defaults": {"node_selector": {"gpu": True}}}, "defaults.node_selector.gpu must be of type str, got True"),
        ({"defaults": {"tolerations": [{"key": "a"}]}}, r"tolerations\[0\].value must be given with operator Equal"),
        (
            {"defaults": {"tolerations": [{"key": "a", "operator": "Exists", "effect": "Never"}]}},
            r"tolerations\[0\].effect must be one of NoSchedule, PreferNoSchedule, NoExecute, got 'Never'",
        ),
        ({"defaults": {"timeout_seconds": 5}}, "defaults.timeout_seconds must be >= 60 and <= 2592000 seconds"),
        ({"defaults": {"retries": 21}}, "defaults.retries must be >= 0 and <= 20, got 21"),
        ({"defaults": {"retry_backoff_factor": 1.5}}, "retry_backoff_factor must be of type int, got 1.5"),
        ({"defaults": {"nodes": 2}}, "defaults: several nodes or processes .* are of the training steps"),
        ({"defaults": GPUS}, r"defaults: several nodes or processes \(one per accelerator\) are of the training steps"),
        (
            {"steps": {"gate": {"nodes": 2}}},
            "steps.gate: only train_teacher, score_teacher, train run as several processes",
        ),
        ({"steps": {"evaluate": GPUS}}, r"steps.evaluate: only .* got nodes 1 and processes 2 \(one per accelerator\)"),
        ({"defaults": {"runtime": "a3"}}, "defaults.runtime is of the training steps, name it there, got 'a3'"),
        ({"steps": {"gate": {"runtime": "a3"}}}, "steps.gate.runtime is of the training steps, got 'a3'"),
        ({"steps": {"train": {"runtime": "A3"}}}, "steps.train.runtime must be a ClusterTrainingRuntime's name"),
        ({"secrets": [{"secret": "s", "key": "k", "env": "1X"}]}, r"secrets\[0\].env must be an environment variable"),
        ({"volumes": [{"claim": "c", "mount_path": "data"}]}, r"volumes\[0\].mount_path must be an absolute path"),
        (
            {"volumes": [{"claim": "c", "mount_path": "/mnt/../etc"}]},
            r"volumes\[0\].mount_path must be an absolute path without \.\., : and braces, got '/mnt/../etc'",
        ),
        ({"store": "/mnt/matta"}, r"store must be below a volume's mount_path \(there is none\).*got '/mnt/matta'"),
        (
            {"store": "/mnt/other", "volumes": [{"claim": "c", "mount_path": "/mnt/matta"}]},
            r"store must be below a volume's mount_path \(/mnt/matta\)",
        ),
        (
            {"pipeline_root": "/tmp"},
            "pipeline_root must be a URI such as gs://bucket/folder, without spaces, .*, got '/tmp'",
        ),
        ({"security_context": {"user": 0}}, r"security_context\.user must be >= 1 and <= 2147483647, got 0"),
        ({"security_context": {"user": "root"}}, r"security_context\.user must be of type int, got 'root'"),
        ({"security_context": {"group": -1}}, r"security_context\.group must be >= 0"),
        ({"security_context": {"fs_group": 1}}, r"unknown setting security_context\.fs_group: known here are user, g"),
        (
            {"defaults": {"accelerator": "'; rm -rf /", "accelerators": 1}},
            r"""defaults\.accelerator must be a resource's name, such as nvidia\.com/gpu, got "'; rm -rf /\"""",
        ),
        (
            {"steps": {"train": {"accelerator": "NVIDIA_H100_80GB", "accelerators": 1}}},
            r"steps\.train\.accelerator must be a resource's name, such as nvidia\.com/gpu, got 'NVIDIA_H100_80GB'",
        ),
        (
            {"defaults": {"tolerations": [{"key": "a", "value": "\ud800"}]}},
            r"defaults\.tolerations\[0\]\.value must be .*, got '\\ud800'",
        ),
        ({"defaults": {"tolerations": [{"key": "a", "value": "b c"}]}}, r"value must be a taint's value, got 'b c'"),
        ({"pipeline_root": "gs://b/a b"}, "pipeline_root must be a URI .*, without spaces, quotes and braces, got"),
        ({"volumes": [{"claim": "c", "mount_path": "/a:b"}]}, r"volumes\[0\].mount_path must be an absolute path"),
        ({"platform": "sagemaker"}, "platform must be one of kubeflow, vertex, got 'sagemaker'"),
    ],
)
def test_a_mistake_is_told_with_its_place_and_value(settings, message):
    with pytest.raises(UserError, match=message):
        profile(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"volumes": [{"claim": "c", "mount_path": "/m"}]}, "volumes must be empty for platform vertex"),
        ({"secrets": [{"secret": "s", "key": "k", "env": "X"}]}, "secrets must be empty for platform vertex"),
        ({"security_context": {}}, "security_context must be empty for platform vertex"),
        ({"steps": {"train": {"node_selector": {"a": "b"}}}}, "steps.train.node_selector must not be set for platform"),
        ({"defaults": {"labels": {"a": "b"}}}, "defaults.labels must not be set for platform vertex"),
        ({"defaults": {"shared_memory": "1Gi"}}, "defaults.shared_memory must not be set for platform vertex"),
        ({"defaults": {"cpu_limit": "2"}}, "defaults.cpu_limit must not be set for platform vertex"),
        ({"defaults": {"timeout_seconds": 3600}}, "defaults.timeout_seconds must not be set for platform vertex"),
        ({"steps": {"train": {"nodes": 2}}}, "steps.train.nodes must be 1 for platform vertex"),
        ({"steps": {"train": {"runtime": "a3"}}}, "steps.train.runtime must not be set for platform vertex"),
        (
            {"steps": {"train": {"accelerator": "nvidia.com/gpu", "accelerators": 1}}},
            "steps.train.accelerator must be one of Vertex's accelerator types, such as NVIDIA_H100_80GB, got",
        ),
    ],
)
def test_what_vertex_does_not_know_is_refused(settings, message):
    with pytest.raises(UserError, match=message):
        profile(platform="vertex", **settings)


def test_tags_are_taken_where_the_profile_allows_them():
    images = dict.fromkeys(IMAGES, "matta/trainer:local")
    assert profile(images=images, allow_tags=True).images.trainer == "matta/trainer:local"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read cluster profile .*: No such file or directory; cluster profiles here: .*one_gpu.yaml"),
        ("a: [", "cluster profile .*, line 1, column 5: what begins in line 1, column 5 is not closed"),
        ("- a", "cluster profile .* must be a mapping of settings, got list"),
        (yaml.safe_dump({"name": "x", "images": IMAGES, "stores": ""}), r"unknown setting stores: .*\(in .*c.yaml\)"),
    ],
)
def test_a_file_that_is_no_profile_is_refused_by_name(tmp_path, content, message):
    path = tmp_path / "c.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=message):
        load_cluster(path)
