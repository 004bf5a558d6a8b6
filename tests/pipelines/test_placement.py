"""What a training step over several ranks is given: its time, its runtime, its run."""

import pytest
from kfp import compiler, dsl

from components.common.launching.config import LaunchConfig
from components.train.component import train
from pipelines.cluster import load_cluster
from pipelines.placement import launch_config, place


def gke(*overrides):
    return load_cluster("pipelines/clusters/gke_h100.yaml", list(overrides))


def launch(cluster):
    return LaunchConfig.from_json(launch_config("train", cluster))


@pytest.mark.parametrize(("pod", "ranks"), [(86_400, 86_340), (150, 90), (120, 60), (60, 30)])
@pytest.mark.parametrize("nodes", [1, 2])
def test_the_ranks_time_is_over_before_the_pods_that_tells_of_it(pod, ranks, nodes):
    cluster = gke(f"steps.train.timeout_seconds={pod}", f"steps.train.nodes={nodes}")
    assert launch(cluster).timeout_seconds == ranks


def test_vertex_has_no_time_per_step_and_so_have_its_ranks():
    assert launch(load_cluster("pipelines/clusters/vertex.yaml")).timeout_seconds is None


def test_the_profile_names_the_runtime_of_several_nodes():
    assert launch(gke("steps.train.nodes=2")).runtime == "torch-distributed"
    assert launch(gke("steps.train.nodes=2", "steps.train.runtime=torch-a3")).runtime == "torch-a3"


@pytest.mark.parametrize("nodes", [1, 2])
def test_a_step_of_several_nodes_knows_its_run_by_its_pods_label(nodes, tmp_path):
    cluster = gke(f"steps.train.nodes={nodes}")

    @dsl.pipeline
    def alone():
        dataset = dsl.importer(artifact_uri="gs://b/d", artifact_class=dsl.Dataset)
        scores = dsl.importer(artifact_uri="gs://b/s", artifact_class=dsl.Dataset)
        task = train(config="", store="", dataset=dataset.output, scores=scores.output)
        place(task, "train", cluster)
        config = task.platform_config["kubernetes"]
        variables = [{"name": "KFP_RUN_ID", "fieldPath": "metadata.labels['pipeline/runid']"}]
        assert config.get("fieldPathAsEnv", []) == (variables if nodes > 1 else [])

    compiler.Compiler().compile(alone, str(tmp_path / "alone.yaml"))
    assert (tmp_path / "alone.yaml").is_file()


def test_claims_and_secrets_are_the_profiles_own():
    cluster = gke("steps.train.nodes=2")
    assert launch(cluster).claims == cluster.volumes
    assert launch(cluster).secrets == cluster.secrets
