"""What is asked of Kubernetes is held against its own published schemas (kubernetes-validate carries them)."""

import re
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from golden_files import FILES, compile_golden
from step_pods import check, pods_of

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("file", [file for file in FILES if file != "vertex.yaml"])
def test_every_steps_pod_is_one_that_kubernetes_takes(file):
    pods = pods_of(compile_golden(file))
    assert pods
    for pod in pods.values():
        check(pod)


def test_the_check_refuses_what_kubernetes_does_not_know():
    wrong = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": {"containers": [{"nam": "main"}]}}
    with pytest.raises(kubernetes_validate.ValidationError):
        check(wrong)


@pytest.mark.parametrize("file", sorted((ROOT / "containers" / "rbac").glob("*.yaml")), ids=lambda file: file.name)
def test_the_roles_are_ones_that_kubernetes_takes(file):
    resources = list(yaml.safe_load_all(file.read_text(encoding="utf-8")))
    assert resources
    for resource in resources:
        check(resource)


def test_the_claim_in_the_page_on_clusters_is_one_that_kubernetes_takes():
    page = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```yaml\n(apiVersion.*?)^```$", page, flags=re.MULTILINE | re.DOTALL)
    assert blocks
    for block in blocks:
        check(yaml.safe_load(block))
