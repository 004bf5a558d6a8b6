"""submit, with the real kfp.Client, against a server that checks what it is sent."""

import re
from pathlib import Path

import pytest
from kfp_server import KubeflowServer, serving

import pipelines.kubeflow.follow
import pipelines.kubeflow.submit

pytestmark = pytest.mark.slow

PROFILE = Path(pipelines.__file__).parent / "clusters" / "cpu.yaml"


def test_a_version_is_uploaded_once_per_content_and_each_submission_starts_a_run(submit, kubeflow, host):
    status, said, _ = submit()
    assert status == 0
    assert "(uploaded)" in said
    (run,) = kubeflow.runs.values()
    assert f"link      {host}/#/runs/details/{run.run_id}" in said
    status, said, _ = submit()
    assert status == 0
    assert "(was there)" in said
    assert [len(items) for items in (kubeflow.pipelines, kubeflow.versions, kubeflow.experiments, kubeflow.runs)] == [
        1,
        1,
        1,
        2,
    ]
    assert len({run.display_name for run in kubeflow.runs.values()}) == 2
    (version,) = kubeflow.versions.values()
    assert re.fullmatch(r"matta-demo-[0-9a-f]{12}", version.name)


def test_a_run_gets_what_the_profile_says(submit_compiling, kubeflow):
    root = "pipeline_root=gs://bucket/matta"
    assert submit_compiling("--cluster-set", root, "--experiment", "trials", "--run-name", "first")[0] == 0
    (run,) = kubeflow.runs.values()
    assert run.display_name == "first"
    assert run.service_account == "pipeline-runner"
    assert run.runtime_config.pipeline_root == "gs://bucket/matta"
    assert [item.display_name for item in kubeflow.experiments.values()] == ["trials"]


def test_a_changed_setting_is_a_parameter_of_the_run_and_no_version_of_its_own(submit_compiling, kubeflow):
    assert submit_compiling()[0] == 0
    status, said, _ = submit_compiling("--set", "train.steps=321")
    assert status == 0
    assert "(was there)" in said
    first, second = kubeflow.runs.values()
    assert not first.runtime_config.parameters
    assert list(second.runtime_config.parameters) == ["train_config"]
    assert '"steps": 321' in second.runtime_config.parameters["train_config"]


def test_a_change_of_the_pipeline_itself_is_another_version(submit_compiling, kubeflow):
    assert submit_compiling()[0] == 0
    status, said, _ = submit_compiling("--set", "train_teacher=null", "--set", "score_teacher.teacher=gpt2")
    assert status == 0
    assert "(uploaded)" in said
    assert len(kubeflow.versions) == 2


def test_a_run_name_that_is_taken_is_refused(submit, kubeflow):
    assert submit("--run-name", "mine")[0] == 0
    status, _, error = submit("--run-name", "mine")
    assert status == 2
    assert "a run named mine exists in experiment demo" in error
    assert len(kubeflow.runs) == 1


def test_a_parameter_is_passed_as_it_is_and_must_be_one_of_the_pipelines(submit, kubeflow):
    assert submit("--parameter", "store=/mnt/a=b")[0] == 0
    (run,) = kubeflow.runs.values()
    assert run.runtime_config.parameters == {"store": "/mnt/a=b"}
    status, _, error = submit("--parameter", "stor=x")
    assert status == 2
    assert "--parameter takes NAME=VALUE with a name among name, store, got 'stor=x'" in error
    status, _, error = submit("--parameter", "store=")
    assert (status, "--parameter store= has no value: is a variable of the shell empty?" in error) == (2, True)


@pytest.mark.parametrize("section", ["push", "train"])
def test_settings_are_no_parameters_to_be_passed_round_their_checks(submit, kubeflow, section):
    status, _, error = submit("--parameter", f'{section}_config={{"target": "pushed"}}')
    assert status == 2
    assert f"--set {section}.NAME=VALUE" in error
    assert not kubeflow.runs


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "--host is missing"),
        (("--host", "ftp://x"), "--host must begin with https:// or http://, got ftp://x"),
        (("--host", "http://x", "--ca-cert", "/nowhere.pem"), "--ca-cert /nowhere.pem holds no certificates"),
        (("--host", "http://x", "--token-file", "/nowhere"), "cannot read the token in /nowhere"),
        (("--host", "http://x", "--cluster", "nowhere.yaml"), "cannot read cluster profile nowhere.yaml"),
        (("--host", "http://x", "--cluster", PROFILE.with_name("vertex.yaml")), "is for vertex"),
        (
            ("--host", "http://x", "--cluster", PROFILE.with_name("one_gpu.yaml")),
            "images.data of profile one-gpu is the example's: give the digest that docker push printed",
        ),
        (
            ("--host", "http://x", "--set", "push.target=pushed"),
            "push.target is pushed, in the file system of push's own pod: what is pushed there is lost",
        ),
        (
            ("--host", "http://x", "--set", "prepare_data.source=data/*.txt"),
            "prepare_data.source is data/*.txt, a path of this machine, which no pod sees. Give a path on a volume",
        ),
        (("--host", "https://"), "--host must be an address such as https://kubeflow.example.com/pipeline, got https"),
        (("--host", "http://x:port"), "--host must be an address such as https://kubeflow.example.com/pipeline, got"),
    ],
)
def test_a_mistake_is_told_before_anything_is_sent(command, impatient, arguments, message):
    status, _, error = command("submit", "--cluster", PROFILE, *arguments)
    assert status == 2
    assert message in error


def test_the_address_may_come_from_kfps_own_variable(command, host, monkeypatch):
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", host)
    assert command("schedule", "--list")[0] == 0


def test_where_several_users_are_served_the_namespace_is_the_profiles_or_the_options(impatient, command):
    server = KubeflowServer(multi_user=True)
    with serving(server) as host:
        assert command("submit", "--host", host, "--cluster", PROFILE)[0] == 0
        assert command("submit", "--host", host, "--cluster", PROFILE, "--namespace", "ada")[0] == 0
        assert [item.namespace for item in server.experiments.values()] == ["kubeflow", "ada"]
        assert [item.namespace for item in server.pipelines.values()] == ["kubeflow", "ada"]
        status, _, error = command("schedule", "--host", host, "--list")
        assert status == 2
        assert "serves several users: name yours by --namespace" in error


def test_where_a_single_user_is_served_a_namespace_is_refused(submit):
    status, _, error = submit("--namespace", "ada")
    assert status == 2
    assert "knows no namespaces: leave out --namespace ada" in error


def test_nothing_is_written_into_the_home(submit, tmp_path):
    assert submit()[0] == 0
    assert not (tmp_path / "home").exists()


def test_the_steps_of_a_package_come_in_the_order_in_which_they_run(package):
    """Within the loop over the models as well; the loop itself is no step."""
    assert package.steps[0] == "prepare-data"
    assert package.steps[-1] == "report"
    places = [package.steps.index(name) for name in ("train", "extract-students", "evaluate", "gate", "push")]
    assert places == sorted(places)
    assert not [name for name in package.steps if "models" in name or "loop" in name]
