"""Pods that a namespace held to Pod Security "restricted" takes: the steps' and the nodes' of a TrainJob."""

import copy
import json
from pathlib import Path

import pytest
from golden_files import compile_golden
from pod_security import violations
from step_pods import check, pods_of

from components.common.launching.config import LaunchConfig
from components.common.launching.manifest import trainjob_manifest
from pipelines.cluster import load_cluster
from pipelines.placement import launch_config

pytestmark = pytest.mark.slow

RESTRICTED = {
    "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
    "containers": [
        {
            "name": "main",
            "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        }
    ],
}


def node_pod(*overrides):
    """Of the TrainJob: the runtime torch-distributed, whose pod is one bare container, patched."""
    cluster = load_cluster("pipelines/clusters/gke_h100.yaml", ["steps.train.nodes=2", *overrides])
    launch = LaunchConfig.from_json(launch_config("train", cluster))
    job = trainjob_manifest(launch, [], name="j", owner=None, run="r", heartbeat_file=Path("/mnt/matta/heartbeat"))
    (patch,) = job["spec"]["runtimePatches"]
    (nodes,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    template = copy.deepcopy(nodes["template"]["spec"]["template"])
    template["spec"]["containers"][0]["image"] = job["spec"]["trainer"]["image"]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "node", **template["metadata"]}} | {
        "spec": template["spec"]
    }


def test_every_step_of_a_profile_with_a_security_context_keeps_the_rules():
    pods = pods_of(compile_golden("gke_h100.yaml"))
    assert pods
    for each in pods.values():
        assert violations(each["spec"]) == []
        context = each["spec"]["containers"][0]["securityContext"]
        assert (context["runAsUser"], context["runAsGroup"]) == (1000, 1000)


def test_without_one_only_the_promise_not_to_be_root_is_missing():
    """Kubeflow Pipelines sets the rest by itself, from 2.16 on."""
    for each in pods_of(compile_golden("cpu.yaml")).values():
        assert violations(each["spec"]) == ["main: runAsNonRoot is not true"]


def test_the_nodes_of_a_trainjob_keep_the_rules_as_the_same_user_and_group():
    node = node_pod("security_context.user=4711", "security_context.group=4712")
    check(node)
    assert violations(node["spec"]) == []
    context = node["spec"]["securityContext"]
    assert (context["runAsUser"], context["runAsGroup"], context["fsGroup"]) == (4711, 4712, 4712)


def test_the_nodes_of_a_profile_without_one_are_as_the_runtime_has_them():
    node = node_pod("security_context=null")
    assert "securityContext" not in node["spec"]
    assert "securityContext" not in node["spec"]["containers"][0]


@pytest.mark.parametrize("name", ["user", "group"])
def test_the_launch_passes_what_the_profile_says(name):
    cluster = load_cluster("pipelines/clusters/gke_h100.yaml", ["steps.train.nodes=2", f"security_context.{name}=7"])
    assert json.loads(launch_config("train", cluster))["security_context"][name] == 7


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda pod, main: pod.update(hostNetwork=True), "hostNetwork is set"),
        (lambda pod, main: pod.update(volumes=[{"name": "v", "hostPath": {}}]), "volume v: hostPath"),
        (lambda pod, main: pod["securityContext"].update(runAsUser=0), "the pod's runAsUser is 0"),
        (lambda pod, main: pod["securityContext"].pop("runAsNonRoot"), "main: runAsNonRoot is not true"),
        (lambda pod, main: main.update(runAsNonRoot=False), "main: runAsNonRoot is not true"),
        (lambda pod, main: main.update(runAsUser=0), "main: runAsUser is 0"),
        (lambda pod, main: main.pop("allowPrivilegeEscalation"), "main: allowPrivilegeEscalation is not false"),
        (lambda pod, main: main["capabilities"].update(drop=["NET_RAW"]), "main: capabilities do not drop ALL"),
        (lambda pod, main: main["capabilities"].update(add=["SYS_PTRACE"]), "main: capabilities are added"),
        (
            lambda pod, main: main.update(seccompProfile={"type": "Unconfined"}),
            "main: seccompProfile is not RuntimeDefault or Localhost",
        ),
        (lambda pod, main: main.update(privileged=True), "main: privileged"),
        (lambda pod, main: pod["containers"][0].update(ports=[{"hostPort": 1}]), "main: hostPort"),
    ],
)
def test_each_rule_is_looked_at(change, problem):
    spec = copy.deepcopy(RESTRICTED)
    assert violations(spec) == []
    change(spec, spec["containers"][0]["securityContext"])
    assert violations(spec) == [problem]
