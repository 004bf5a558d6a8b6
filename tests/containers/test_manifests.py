"""What an administrator applies to a cluster: rights, the volume, retries. Kubernetes takes it; it does its work."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from pod_security import violations
from step_pods import check

from components.common.launching.config import SecurityContext
from pipelines.cluster import load_cluster

CONTAINERS = Path(__file__).parents[2] / "containers"
PAGE = (CONTAINERS.parent / "docs" / "cluster.md").read_text(encoding="utf-8")
PROFILES = {path.stem: load_cluster(path) for path in Path("pipelines/clusters").glob("*.yaml")}


def documents(name):
    return list(yaml.safe_load_all((CONTAINERS / name).read_text(encoding="utf-8")))


# Rights. What each pod of a run needs, by the sources: the root driver reads the ConfigMap and its own pod, driver and
# launcher read the object store's Secret, Argo's container that waits for the step reports to the controller.
NEEDED = {
    ("", "configmaps", "get"),
    ("", "secrets", "get"),
    ("", "pods", "get"),
    ("argoproj.io", "workflowtaskresults", "create"),
    ("argoproj.io", "workflowtaskresults", "patch"),
}
# What of these the roles of Kubeflow's own manifests grant (Pipelines 2.14 to 2.17, kubeflow/manifests of April 2026).
GRANTED = {
    ("Role", "pipeline-runner"): {
        ("", "configmaps"): {"get", "watch", "list"},
        ("", "secrets"): {"get"},
        ("", "pods"): {"*"},
        ("", "pods/log"): {"*"},
        ("argoproj.io", "workflowtaskresults"): {"create", "patch"},
    },
    ("ClusterRole", "kubeflow-edit"): {
        ("", "configmaps"): {"get", "list", "watch", "create", "delete", "deletecollection", "patch", "update"},
        ("", "secrets"): {"get", "list", "watch", "create", "delete", "deletecollection", "patch", "update"},
        ("", "pods"): {"get", "list", "watch", "create", "delete", "deletecollection", "patch", "update"},
        ("", "pods/log"): {"get", "list", "watch"},
        ("argoproj.io", "workflowtaskresults"): {"*"},
        ("trainer.kubeflow.org", "trainjobs"): {"create", "patch", "get", "list", "watch", "delete"},
    },
}


def missing(needed, granted):
    return {
        (group, resource, verb)
        for group, resource, verb in needed
        if not granted.get((group, resource), set()) & {verb, "*"}
    }


def of_trainjobs():
    rules = documents("rbac/trainjobs.yaml")[0]["rules"]
    return {
        (group, resource, verb)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


@pytest.mark.parametrize("name", ["standalone", "profile"])
def test_an_account_of_ones_own_gets_what_every_pod_of_a_run_needs(name):
    account, binding = documents(f"rbac/{name}.yaml")
    role = (binding["roleRef"]["kind"], binding["roleRef"]["name"])
    assert missing(NEEDED, GRANTED[role]) == set()
    assert binding["subjects"] == [{"kind": "ServiceAccount", **account["metadata"]}]
    assert binding["metadata"]["namespace"] == account["metadata"]["namespace"]


def test_the_role_of_trainjobs_is_needed_beside_pipeline_runner_and_part_of_kubeflow_edit():
    assert missing(of_trainjobs(), GRANTED["Role", "pipeline-runner"]) == {
        ("trainer.kubeflow.org", "trainjobs", verb) for verb in ("create", "get", "patch", "delete")
    }
    assert missing(of_trainjobs(), GRANTED["ClusterRole", "kubeflow-edit"]) == set()


def test_the_examples_accounts_are_kubeflows_own_or_made_by_a_manifest_here():
    made = {
        (account["metadata"]["namespace"], account["metadata"]["name"])
        for account, _ in (documents("rbac/standalone.yaml"), documents("rbac/profile.yaml"))
    }
    for cluster in PROFILES.values():
        if cluster.platform == "kubeflow":
            account = (cluster.namespace, cluster.service_account)
            assert account in made | {("kubeflow", "pipeline-runner")}


def test_the_page_names_every_right_and_every_manifest():
    for group, resource, verb in NEEDED:
        assert re.search(rf"`{resource}`.*\b{verb}\b", PAGE), (group, resource, verb)
    for path in sorted(CONTAINERS.glob("*/*.yaml")):
        assert f"containers/{path.parent.name}/{path.name}" in PAGE


# The volume.


def job():
    (document,) = documents("volume/prepare.yaml")
    return document


def containers():
    spec = job()["spec"]["template"]["spec"]
    return spec["initContainers"][0], spec["containers"][0]


def test_the_job_is_one_that_kubernetes_takes():
    check(job())


def test_the_volume_and_its_owner_are_those_of_the_examples():
    (volume,) = job()["spec"]["template"]["spec"]["volumes"]
    give, attempt = containers()
    values = {variable["name"]: variable["value"] for variable in give["env"]}
    for cluster in (PROFILES["one_gpu"], PROFILES["gke_h100"]):
        assert volume["persistentVolumeClaim"]["claimName"] == cluster.volumes[0].claim
        assert values["VOLUME"] == cluster.volumes[0].mount_path
        assert cluster.store == f"{values['VOLUME']}/artifacts"
    owner = (SecurityContext().user, SecurityContext().group)
    assert PROFILES["gke_h100"].security_context == SecurityContext(*owner)
    assert (int(values["USER_ID"]), int(values["GROUP_ID"])) == owner
    assert (attempt["securityContext"]["runAsUser"], attempt["securityContext"]["runAsGroup"]) == owner
    assert f"USER {owner[0]}:{owner[1]}" in (CONTAINERS / "Dockerfile").read_text(encoding="utf-8")


def test_only_the_container_that_gives_the_volume_away_is_root():
    spec = job()["spec"]["template"]["spec"]
    assert {problem.split(":")[0] for problem in violations(spec)} == {"give"}
    assert violations({**spec, "initContainers": []}) == []


@pytest.fixture
def volume(tmp_path):
    """A folder that root owns, as a fresh volume is, which others can reach."""
    if os.geteuid() != 0 or not shutil.which("setpriv"):
        pytest.skip("giving files away takes root, and setpriv to be no more than the Job's root")
    for folder in (tmp_path, *tmp_path.parents[:3]):
        if folder.owner() == "root" and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o055)
    folder = tmp_path / "volume"
    folder.mkdir(mode=0o755)
    return folder


def start(container, volume):
    """Run what the Job's container runs, as its user, with its capabilities and no others."""
    context = container["securityContext"]
    added = "".join(f",+{name.lower()}" for name in context["capabilities"].get("add", []))
    switch = ["setpriv", f"--reuid={context['runAsUser']}", f"--regid={context['runAsGroup']}", "--clear-groups"]
    switch += [f"--bounding-set=-all{added}", "--inh-caps=-all", "--no-new-privs"]
    environment = {variable["name"]: variable["value"] for variable in container["env"]}
    return subprocess.run(
        [*switch, *container["command"], *container["args"]],
        env={"PATH": os.environ["PATH"], "TMPDIR": "/nonexistent"} | environment | {"VOLUME": str(volume)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_fresh_volume_is_given_to_the_steps_who_then_write_and_lock_there(volume):
    give, attempt = containers()
    refused = start(attempt, volume)
    assert refused.returncode != 0
    assert "artifacts" in refused.stderr
    for _ in range(2):  # a second time it changes nothing
        given = start(give, volume)
        assert given.returncode == 0, given.stderr
        for folder in (volume, volume / "artifacts"):
            status = folder.stat()
            assert (status.st_uid, status.st_gid, oct(status.st_mode)) == (1000, 1000, "0o42775")
        tried = start(attempt, volume)
        assert (tried.returncode, tried.stderr) == (0, "")
        assert tried.stdout == f"user 1000, group 1000: writes, locks, renames and deletes in {volume}/artifacts\n"
        assert [path.name for path in (volume / "artifacts").iterdir() if path.name != "kept"] == []
        (volume / "artifacts" / "kept").mkdir(exist_ok=True)
    assert (volume / "artifacts" / "kept").is_dir()


def test_a_volume_that_root_may_not_give_away_is_told_with_what_to_do(volume):
    give, _ = containers()
    give["securityContext"]["capabilities"]["add"].remove("CHOWN")  # as with an export that squashes root
    told = start(give, volume)
    assert told.returncode == 1
    assert f"error: root may not give {volume} away (NFS exports with root_squash forbid it): run there" in told.stderr


# Retries.


def patched_deployment():
    (patch,) = documents("workflows/retries.yaml")
    return patch["spec"]["template"]["spec"]["containers"][0]


def test_the_patch_of_the_api_server_is_one_that_kubernetes_takes():
    container = patched_deployment() | {"image": "api-server"}
    template = {"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [container]}}
    check(
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "ml-pipeline"},
            "spec": {"selector": {"matchLabels": {"app": "a"}}, "template": template},
        }
    )


def test_a_step_with_retries_is_tried_again_at_every_end_and_nothing_else_is():
    """Argo merges a template's own strategy, in which Kubeflow sets the limit and the waiting, over these defaults."""
    (variable,) = patched_deployment()["env"]
    assert variable["name"] == "COMPILED_PIPELINE_SPEC_PATCH"
    defaults = json.loads(variable["value"])["templateDefaults"]["retryStrategy"]
    assert defaults | {"limit": "2", "backoff": {}} == {"limit": "2", "backoff": {}, "retryPolicy": "Always"}
    assert defaults == {"limit": "0", "retryPolicy": "Always"}
