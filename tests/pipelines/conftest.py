"""A Kubeflow to talk to, and the command line, run in this process."""

import sys

import pytest
from kfp_server import KubeflowServer, serving

from components.common.command_line import DEFAULT_RECIPE, run_command
from pipelines.checks.models import check_models

PROFILE = DEFAULT_RECIPE.parent.parent / "clusters" / "cpu.yaml"


@pytest.fixture
def impatient(monkeypatch, tmp_path):
    """Short waits, no credentials of the person who runs the tests, a home that is not theirs."""
    from kfp.client import Client

    import pipelines.checks.recipe
    import pipelines.commands.submit
    import pipelines.kubeflow.client
    import pipelines.kubeflow.http

    patience = pipelines.kubeflow.http.Patience(
        connect_seconds=2, read_seconds=0.5, attempts=3, backoff_seconds=0.02, longest_wait_seconds=0.3
    )
    monkeypatch.setattr(pipelines.kubeflow.client, "PATIENCE", patience)
    # In this process, which has torch at hand; in one of its own: checks/test_recipe.py.
    monkeypatch.setattr(pipelines.checks.recipe, "check", lambda recipe, cluster=None: check_models(recipe))
    monkeypatch.setattr(pipelines.commands.submit, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(Client, "_LOCAL_KFP_CONTEXT", str(tmp_path / "home" / ".config" / "kfp" / "context.json"))
    for name in (
        "KF_PIPELINES_ENDPOINT",
        "KF_PIPELINES_UI_ENDPOINT",
        "KF_PIPELINES_SA_TOKEN_PATH",
        "KUBERNETES_SERVICE_HOST",
    ):
        monkeypatch.delenv(name, raising=False)
    return patience


@pytest.fixture(scope="session")
def recipe(tmp_path_factory):
    """The demo's, which pushes to a bucket."""
    file = tmp_path_factory.mktemp("recipe") / "demo.yaml"
    file.write_text(DEFAULT_RECIPE.read_text().replace("target: runs/demo/pushed", "target: gs://bucket/pushed"))
    return file


@pytest.fixture(scope="session")
def package(recipe, tmp_path_factory):
    """That recipe, compiled for a cluster of CPUs."""
    import pipelines.kubeflow.submit
    from pipelines.cluster import load_cluster

    return pipelines.kubeflow.submit.make_package(recipe, [], load_cluster(PROFILE), tmp_path_factory.mktemp("package"))


@pytest.fixture
def kubeflow(impatient):
    """For a single user, without credentials."""
    return KubeflowServer()


@pytest.fixture
def host(kubeflow):
    with serving(kubeflow) as address:
        yield address


@pytest.fixture
def command(recipe, monkeypatch, capsys):
    """Run the command line, with that recipe where none is named: (exit status, stdout, stderr)."""
    from pipelines.matta_pipeline import main

    def run(*arguments):
        if "--cluster" in arguments and "--recipe" not in arguments:
            arguments = (*arguments, "--recipe", recipe)
        monkeypatch.setattr(sys, "argv", ["matta_pipeline", *map(str, arguments)])
        capsys.readouterr()
        try:
            run_command(main)
            status = 0
        except SystemExit as error:
            status = error.code
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


@pytest.fixture
def submit_compiling(command, host):
    """Run submit; the server's address is given."""
    return lambda *arguments: command("submit", "--host", host, "--cluster", PROFILE, *arguments)


@pytest.fixture
def schedule(command, host, package, monkeypatch):
    """Run schedule; the demo's package, compiled once for all tests."""
    import pipelines.kubeflow.submit

    monkeypatch.setattr(pipelines.kubeflow.submit, "make_package", lambda *_: package)
    return lambda *arguments: command("schedule", "--host", host, *arguments)


@pytest.fixture
def submit(submit_compiling, package, monkeypatch):
    """As submit_compiling, with the demo's package, compiled once for all tests."""
    import pipelines.kubeflow.submit

    monkeypatch.setattr(pipelines.kubeflow.submit, "make_package", lambda *_: package)
    return submit_compiling
