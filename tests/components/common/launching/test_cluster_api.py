"""What the cluster refuses, and what the step is granted there."""

import dataclasses
import os
import signal
from pathlib import Path

import pytest
import yaml

from components.common.launching.cluster_api import RBAC_MANIFEST, TrainJobs
from matta_core.errors import UserError

NAME = "matta-train-0123456789abcdef"


def start(cluster):
    for node in cluster.nodes:
        node.runs()


def complete(cluster):
    cluster.ends("Complete")


def test_a_server_that_stays_away_is_named_with_what_it_said_and_the_job_is_left_alone(cluster, two_nodes):
    jobs = TrainJobs("", patience_seconds=1.0)
    cluster.faults = [(("list", "pods"), 503)] * 20
    with pytest.raises(RuntimeError, match=r"out of reach for 1 s \(list pods in namespace team\): 503 as the test"):
        jobs.pods(NAME)
    assert cluster.deleted == []


def test_a_missing_right_names_the_manifest_that_grants_it(cluster, two_nodes, run):
    cluster.faults = [(("get", "trainjobs"), 403)]
    with pytest.raises(
        UserError, match=r"refused to get in namespace team: 403 .* needs the rights in containers/rbac"
    ):
        run(two_nodes)


def test_a_cluster_without_trainer_is_told(cluster, two_nodes, run):
    cluster.faults = [(("create", "trainjobs"), 404)]
    with pytest.raises(UserError, match="Is Kubeflow Trainer installed"):
        run(two_nodes)


def test_a_trainer_that_does_not_know_a_field_is_refused_before_any_pod_runs(cluster, two_nodes, run):
    cluster.unknown_to_trainer = {"runtimePatches", "activeDeadlineSeconds"}  # releases before 2.2
    two_nodes = dataclasses.replace(two_nodes, timeout_seconds=60)
    with pytest.raises(UserError, match=r'refused to create .*"spec.activeDeadlineSeconds", .*Trainer 2\.2 or later'):
        run(two_nodes)
    assert cluster.created == []


def test_what_the_webhook_refuses_is_told_with_its_reason(cluster, two_nodes, run):
    cluster.refusal = "ClusterTrainingRuntime torch-distributed not found"
    with pytest.raises(UserError, match=r"torch-distributed not found\. See launch_config"):
        run(two_nodes)


def test_no_cluster_is_told(two_nodes, monkeypatch, tmp_path, run):
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "absent"))
    with pytest.raises(UserError, match="no Kubernetes cluster is configured here"):
        run(two_nodes)


def test_a_job_in_another_namespace_than_its_owner_is_refused(cluster, two_nodes, run):
    with pytest.raises(UserError, match=r"launch_config\.namespace is 'other', but the TrainJob must be in"):
        run(dataclasses.replace(two_nodes, namespace="other"))


def test_the_role_grants_exactly_what_is_called(cluster, two_nodes, run, job_of):
    role, binding = yaml.safe_load_all((Path(__file__).parents[4] / RBAC_MANIFEST).read_text())
    granted = {(verb, resource) for rule in role["rules"] for resource in rule["resources"] for verb in rule["verbs"]}
    cluster.moves = [start, complete]
    run(two_nodes)  # creates, gets, lists, reads
    cluster.jobs.clear()
    cluster.add_job(job_of(two_nodes))
    cluster.moves = [start, start, lambda c: os.kill(os.getpid(), signal.SIGTERM)]
    with pytest.raises(SystemExit):
        run(two_nodes)  # takes over, deletes
    assert set(cluster.calls) == granted
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert all(
        rule["apiGroups"] == ["trainer.kubeflow.org" if rule["resources"] == ["trainjobs"] else ""]
        for rule in role["rules"]
    )


def test_a_step_outside_of_a_pod_is_told_that_nobody_owns_its_job(cluster, two_nodes, monkeypatch, capsys, run):
    monkeypatch.delenv("KFP_POD_UID")
    cluster.moves = [start, complete]
    run(two_nodes)
    assert "ownerReferences" not in cluster.created[0]["metadata"]
    assert "belongs to no pod, as KFP_POD_NAME and KFP_POD_UID are not set" in capsys.readouterr().out
