"""What the example profiles compile to: the same as the files that a person has read, and what kfp's protos, Vertex AI
and Kubeflow's resources take."""

import re

import pytest
import yaml
from golden_files import FILES, GOLDEN, compile_golden, pipeline_spec, platform_spec, shortened, sources
from google.protobuf import json_format
from kfp.kubernetes import kubernetes_executor_config_pb2
from kfp.pipeline_spec import pipeline_spec_pb2

from components.common.launching.config import LaunchConfig
from pipelines.cluster import load_cluster

pytestmark = pytest.mark.slow

# backend/src/crd/kubernetes/v2beta1 of kubeflow/pipelines: an API server prunes or refuses other fields.
PIPELINE_FIELDS = {"displayName", "description"}
PIPELINE_VERSION_FIELDS = {
    "description",
    "codeSourceURL",
    "pipelineName",
    "versionName",
    "displayName",
    "pipelineSpec",
    "platformSpec",
    "pipelineSpecURI",
    "tags",
}
# Argo keeps a run's workflow in one Kubernetes object of at most 1.5 MiB, in which steps' sources stand more than once;
# `kubectl apply` keeps a manifest in an annotation of at most 256 KiB.
MAX_BYTES = 96_000
MAX_GOLDEN_BYTES = 64_000
MAX_SOURCE_BYTES = 2_500


@pytest.fixture(scope="module")
def compiled():
    return {file: compile_golden(file) for file in FILES}


@pytest.mark.parametrize("file", FILES)
def test_the_golden_file_is_what_is_compiled(compiled, file):
    """Where the change is wanted: python -m tests.golden_files, and read the difference."""
    assert shortened(compiled[file]) == list(yaml.safe_load_all((GOLDEN / file).read_text(encoding="utf-8")))


@pytest.mark.parametrize("file", FILES)
def test_kfps_protos_know_every_field(compiled, file):
    """ParseDict refuses what a message does not have."""
    json_format.ParseDict(pipeline_spec(compiled[file]), pipeline_spec_pb2.PipelineSpec())
    platform = platform_spec(compiled[file])
    if file == "vertex.yaml":
        assert platform is None, "Vertex AI refuses a pipeline with Kubernetes settings"
        return
    parsed = json_format.ParseDict(platform, pipeline_spec_pb2.PlatformSpec())
    executors = json_format.MessageToDict(parsed.platforms["kubernetes"])["deploymentSpec"]["executors"]
    assert set(executors) == set(pipeline_spec(compiled[file])["deploymentSpec"]["executors"])
    for config in executors.values():
        json_format.ParseDict(config, kubernetes_executor_config_pb2.KubernetesExecutorConfig())


@pytest.mark.parametrize("file", FILES)
def test_files_are_small_and_wrappers_are_thin(compiled, file):
    assert len(yaml.dump_all(compiled[file], Dumper=yaml.CSafeDumper)) < MAX_BYTES
    assert (GOLDEN / file).stat().st_size < MAX_GOLDEN_BYTES
    for name, source in sources(compiled[file]).items():
        assert len(source) < MAX_SOURCE_BYTES, f"{name}: the wrapper's logic belongs into its step"


@pytest.mark.parametrize("file", FILES)
def test_every_step_has_the_profiles_image_and_resources(compiled, file):
    cluster = load_cluster(f"pipelines/clusters/{FILES[file][0]}.yaml")
    for executor in pipeline_spec(compiled[file])["deploymentSpec"]["executors"].values():
        container = executor["container"]
        assert container["image"] in cluster.images.to_dict().values()
        assert {"resourceCpuLimit", "resourceMemoryLimit"} <= set(container["resources"])


def test_a_gpu_step_has_what_its_profile_gives_it(compiled):
    documents = compiled["gke_h100.yaml"]
    container = pipeline_spec(documents)["deploymentSpec"]["executors"]["exec-train"]["container"]
    assert container["resources"]["accelerator"]["resourceType"] == "nvidia.com/gpu"
    assert container["resources"]["accelerator"]["resourceCount"] == "8"
    assert {"name": "OMP_NUM_THREADS", "value": str(192 // 8)} in container["env"]
    pod = platform_spec(documents)["platforms"]["kubernetes"]["deploymentSpec"]["executors"]["exec-train"]
    assert pod["nodeSelector"]["labels"]["cloud.google.com/gke-accelerator"] == "nvidia-h100-80gb"
    assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in pod["tolerations"]
    assert pod["emptyDirMounts"] == [
        {"volumeName": "shared-memory", "mountPath": "/dev/shm", "medium": "Memory", "sizeLimit": "256Gi"}
    ]
    assert pod["activeDeadlineSeconds"] == "86400"
    assert pod["podMetadata"]["labels"]["kueue.x-k8s.io/priority-class"] == "nightly"
    assert pod["secretAsEnv"][0]["keyToEnv"] == [{"secretKey": "token", "envVar": "HF_TOKEN"}]
    assert pod["pvcMount"][0]["mountPath"] == "/mnt/matta"
    task = pipeline_spec(documents)["root"]["dag"]["tasks"]["train"]
    # All attempts have room: Argo ends retries when maxDuration is over, and kfp's own default is an hour.
    assert task["retryPolicy"] == {
        "maxRetryCount": 8,
        "backoffDuration": "300s",
        "backoffFactor": 1.0,
        "backoffMaxDuration": f"{9 * 86400 + 8 * 300}s",
    }
    launch = LaunchConfig.from_json(task["inputs"]["parameters"]["launch_config"]["runtimeValue"]["constant"])
    assert (launch.nodes, launch.processes_per_node) == (1, 8)


@pytest.mark.parametrize("file", FILES)
def test_each_model_is_evaluated_in_a_pod_of_its_own_by_one_plan(compiled, file):
    spec = pipeline_spec(compiled[file])
    tasks = spec["root"]["dag"]["tasks"]
    assert "evaluate" not in tasks
    (loop,) = [task for task in tasks.values() if "parameterIterator" in task]
    planned = loop["inputs"]["parameters"][loop["parameterIterator"]["items"]["inputParameter"]]
    assert planned["taskOutputParameter"] == {"producerTask": "plan-evaluation", "outputParameterKey": "models"}
    (part,) = spec["components"][loop["componentRef"]["name"]]["dag"]["tasks"].values()
    assert part["componentRef"]["name"] == "comp-evaluate"
    assert {"plan", "model"} <= set(part["inputs"]["parameters"])
    assert not part["cachingOptions"].get("enableCache")
    assert not tasks["plan-evaluation"]["cachingOptions"].get("enableCache")
    for step in ("gate", "push", "report"):
        assert tasks[step]["inputs"]["artifacts"]["evaluation"]["taskOutputArtifact"]["producerTask"] == (
            "merge-evaluations"
        )
        assert not tasks[step]["cachingOptions"].get("enableCache")


def test_vertex_is_asked_by_its_own_accelerator_names_and_for_limits_only(compiled):
    executors = pipeline_spec(compiled["vertex.yaml"])["deploymentSpec"]["executors"]
    assert executors["exec-train"]["container"]["resources"]["accelerator"]["resourceType"] == "NVIDIA_H100_80GB"
    assert not [
        key for executor in executors.values() for key in executor["container"]["resources"] if "Request" in key
    ]


def test_the_manifest_is_a_pipeline_and_a_version_named_by_its_content(compiled):
    pipeline, version = compiled["one_gpu_manifest.yaml"]
    for document, kind in ((pipeline, "Pipeline"), (version, "PipelineVersion")):
        assert (document["apiVersion"], document["kind"]) == ("pipelines.kubeflow.org/v2beta1", kind)
        assert document["metadata"]["namespace"] == "kubeflow"
        assert set(document) == {"apiVersion", "kind", "metadata", "spec"}
    assert set(pipeline["spec"]) <= PIPELINE_FIELDS
    assert set(version["spec"]) <= PIPELINE_VERSION_FIELDS
    assert version["spec"]["pipelineName"] == pipeline["metadata"]["name"] == "matta-smoke"
    assert re.fullmatch("matta-smoke-[0-9a-f]{12}", version["metadata"]["name"])
