"""The compiled pipeline, read with kfp's own proto."""

import re
import resource
import subprocess
import sys

import pytest
import yaml
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2

from components.common.command_line import DEFAULT_RECIPE, load_recipe
from components.common.launching.config import LaunchConfig
from pipelines.cluster import load_cluster
from pipelines.dag import build_pipeline
from pipelines.kubeflow.compile import version_name
from pipelines.placement import launch_config, pod_of
from pipelines.steps import steps_of

CPU = "pipelines/clusters/cpu.yaml"
COMMAND = [sys.executable, "-m", "pipelines.matta_pipeline"]


def compiled(tmp_path, *arguments):
    output = tmp_path / "deep" / "matta_pipeline.yaml"
    result = subprocess.run([*COMMAND, "compile", "--output", str(output), *arguments], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    (document,) = yaml.safe_load_all(output.read_text())
    return json_format.ParseDict(document, pipeline_spec_pb2.PipelineSpec())


def tasks(spec):
    return {name.replace("-", "_"): task for name, task in spec.root.dag.tasks.items()}


@pytest.mark.parametrize("recipe", sorted(DEFAULT_RECIPE.parent.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_compiles_to_ir_that_kfps_proto_parses(tmp_path, recipe):
    settings = load_recipe(recipe)
    spec = compiled(tmp_path, "--recipe", str(recipe))
    looking_for_data = {"find_data", "renew_lease", "renew_lease_2", "record_span"} if settings.retrain else set()
    # A step has an executor wherever it stands, behind a condition or not.
    executors = spec.deployment_spec["executors"]
    assert {name.removeprefix("exec-").replace("-", "_") for name in executors} == {
        *steps_of(settings),
        *looking_for_data,
    }
    assert spec.pipeline_info.name == f"matta-{settings.name.replace('_', '-')}"


def test_what_reads_or_changes_what_is_served_is_never_cached_and_the_rest_is(tmp_path):
    cached = {name: task.caching_options.enable_cache for name, task in tasks(compiled(tmp_path)).items()}
    steps = steps_of(load_recipe(DEFAULT_RECIPE))
    assert cached == {name: name not in ("evaluate", "gate", "push", "report") for name in steps}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "uncached"),
    [
        (["prepare_data.source=gs://bucket/*.jsonl"], {"prepare_data"}),
        (["prepare_data.tokenizer=openai-community/gpt2"], {"prepare_data"}),
        (["train_teacher=null", "score_teacher.teacher=openai-community/gpt2"], {"score_teacher"}),
        (["train.start_from=/mnt/matta/last"], {"train"}),
        (["train.start_from=pushed"], {"train"}),
        (["train_teacher.start_from=/mnt/matta/last"], {"train_teacher"}),
    ],
)
def test_a_step_that_reads_what_kubeflow_does_not_know_of_is_not_cached(overrides, uncached):
    recipe, cluster = load_recipe(DEFAULT_RECIPE, overrides), load_cluster("pipelines/clusters/cpu.yaml")
    spec = build_pipeline(recipe, cluster).pipeline_spec.root.dag.tasks
    cached = {name.replace("-", "_") for name, task in spec.items() if task.caching_options.enable_cache}
    assert not cached & uncached
    assert cached | uncached >= {"prepare_data", "score_teacher", "train", "extract_students"}


@pytest.mark.parametrize(("start", "told"), [("pushed", True), ("null", False)])
def test_train_is_told_where_the_pushed_student_lies_only_where_it_begins_with_it(start, told):
    """Else push's settings would be part of what its cache is known by."""
    spec = build_pipeline(load_recipe(DEFAULT_RECIPE, [f"train.start_from={start}"])).pipeline_spec
    assert ("push_config" in spec.root.dag.tasks["train"].inputs.parameters) == told


@pytest.mark.slow
def test_with_a_store_nothing_is_cached_as_its_folders_may_be_deleted():
    cluster = load_cluster("pipelines/clusters/one_gpu.yaml")
    spec = build_pipeline(load_recipe(DEFAULT_RECIPE), cluster).pipeline_spec.root.dag.tasks
    assert not any(task.caching_options.enable_cache for task in spec.values())


def test_the_recipes_settings_are_the_parameters_defaults(tmp_path):
    spec = compiled(tmp_path, "--set", "train.steps=321")
    parameters = spec.root.input_definitions.parameters
    assert '"steps": 321' in parameters["train_config"].default_value.string_value
    for step in steps_of(load_recipe(DEFAULT_RECIPE))[:-1]:
        assert f"{step}_config" in parameters
        assert tasks(spec)[step].inputs.parameters["config"].component_input_parameter == f"{step}_config"


def test_push_comes_after_the_gate_and_the_gate_after_the_evaluation(tmp_path):
    spec = tasks(compiled(tmp_path))
    assert "gate" in spec["push"].dependent_tasks
    assert "evaluate" in spec["gate"].dependent_tasks
    assert {"extract-students", "train-teacher"} <= set(spec["evaluate"].dependent_tasks)


def test_with_a_teacher_that_exists_nothing_trains_one(tmp_path):
    recipe = yaml.safe_load(DEFAULT_RECIPE.read_text())
    del recipe["train_teacher"]
    recipe["score_teacher"] = {"teacher": "gpt2-xl"}
    path = tmp_path / "real.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    spec = tasks(compiled(tmp_path, "--recipe", str(path)))
    assert set(spec) == set(steps_of(load_recipe(DEFAULT_RECIPE))) - {"train_teacher"}
    # Scoring and evaluation read the Teacher from the same parameter: a run with another one changes both.
    for step, parameter in (("score_teacher", "config"), ("evaluate", "score_teacher_config")):
        source = spec[step].inputs.parameters[parameter].component_input_parameter
        assert source == "score_teacher_config"


@pytest.mark.parametrize("trained", [True, False])
def test_with_an_online_teacher_nothing_is_scored_and_train_gets_it(tmp_path, trained):
    recipe = yaml.safe_load(DEFAULT_RECIPE.read_text())
    recipe["score_teacher"] = {"online": True}
    if not trained:
        del recipe["train_teacher"]
        recipe["score_teacher"]["teacher"] = "gpt2-xl"
    path = tmp_path / "online.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    spec = tasks(compiled(tmp_path, "--recipe", str(path)))
    assert set(spec) == set(steps_of(load_recipe(path)))
    assert "score_teacher" not in spec
    train = spec["train"]
    assert train.inputs.parameters["score_teacher_config"].component_input_parameter == "score_teacher_config"
    assert ("teacher_checkpoint" in train.inputs.artifacts) == trained
    assert "scores" not in train.inputs.artifacts
    assert "scores" not in spec["report"].inputs.artifacts
    # A checkpoint from outside is not in Kubeflow's key.
    assert train.caching_options.enable_cache == trained


def test_with_cached_scores_train_does_not_know_how_they_were_made(tmp_path):
    train = tasks(compiled(tmp_path))["train"]
    assert "scores" in train.inputs.artifacts
    assert "teacher_checkpoint" not in train.inputs.artifacts
    given = train.inputs.parameters.get("score_teacher_config", None)
    assert given is None or not given.component_input_parameter


def test_several_nodes_are_a_launch_config_and_a_pod_that_only_waits():
    cluster = load_cluster("pipelines/clusters/gke_h100.yaml", ["steps.train.nodes=2"])
    launch = LaunchConfig.from_json(launch_config("train", cluster))
    assert (launch.nodes, launch.processes_per_node, launch.accelerators) == (2, 8, 8)
    assert (launch.image, launch.service_account) == (cluster.images.trainer, cluster.service_account)
    assert launch.claims[0].mount_path == "/mnt/matta"
    assert launch.node_selector == cluster.placement("train").node_selector
    pod = pod_of("train", cluster)
    assert (pod.cpu, pod.accelerator, pod.accelerators, pod.node_selector) == (cluster.defaults.cpu, None, 0, {})
    assert (pod.timeout_seconds, pod.retries) == (86_400, 8)  # as long as the work


def test_one_process_in_the_steps_own_pod_needs_no_launch_config():
    assert launch_config("train", None) == ""
    assert launch_config("train", load_cluster(CPU)) == ""
    assert LaunchConfig.from_json(launch_config("train", load_cluster("pipelines/clusters/vertex.yaml"))).processes == 8


def test_the_same_content_is_the_same_version():
    documents = [{"pipelineInfo": {"name": "matta-demo"}}, {"platforms": {}}]
    assert version_name(documents) == version_name([dict(document) for document in documents])
    assert version_name(documents) != version_name([*documents[:1], {"platforms": {"kubernetes": {}}}])
    assert re.fullmatch("matta-demo-[0-9a-f]{12}", version_name(documents))


def test_the_profiles_store_is_the_runs_default(tmp_path):
    output = tmp_path / "p.yaml"
    command = [*COMMAND, "compile", "--output", str(output), "--cluster", "pipelines/clusters/one_gpu.yaml"]
    subprocess.run([*command, "--cluster-set", "store=/mnt/matta/other"], check=True, capture_output=True)
    spec, _ = yaml.safe_load_all(output.read_text())
    assert spec["root"]["inputDefinitions"]["parameters"]["store"]["defaultValue"] == "/mnt/matta/other"


def test_the_warning_is_on_stderr_and_the_file_is_written(tmp_path):
    command = [*COMMAND, "compile", "--output", str(tmp_path / "p.yaml"), "--cluster", CPU]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stderr.startswith("warning: push.target is runs/demo/pushed, in the file system of push's own pod")
    assert (tmp_path / "p.yaml").is_file()


def test_compiling_takes_seconds_and_imports_neither_torch_nor_beam(tmp_path):
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['x', 'compile', '--output', {str(tmp_path / 'p.yaml')!r}]\n"
        "runpy.run_module('pipelines.matta_pipeline', run_name='__main__')\n"
        "heavy = {'torch', 'apache_beam', 'lm_eval', 'transformers', 'datasets'} & sys.modules.keys()\n"
        "assert not heavy, heavy\n"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # Of CPU, with the check's own process: the machine may have other work.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 5


def test_the_workflow_stays_small(tmp_path):
    """Wrappers are inlined in it: a step's logic in its wrapper would show here."""
    compiled(tmp_path)
    assert (tmp_path / "deep" / "matta_pipeline.yaml").stat().st_size < 64_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compile", "--set", "train.stepz=1"], "error: unknown setting train.stepz"),
        (["compile", "--recipe", "nowhere.yaml"], "error: cannot read recipe nowhere.yaml"),
        (["compile", "--output", "pipeline.txt"], "error: --output must end in .yaml, got pipeline.txt"),
        (
            ["compile", "--output", "pyproject.toml/x.yaml"],
            "error: cannot make the directory pyproject.toml: File exists",
        ),
        (
            ["compile", "--output", "/proc/x.yaml"],
            "error: cannot write /proc/x.yaml: No such file or directory; choose",
        ),
        (["compile", "--cluster", "nowhere.yaml"], "error: cannot read cluster profile nowhere.yaml"),
        (["compile", "--cluster-set", "store=/a"], "error: --cluster-set store=/a needs the profile that it changes"),
        (["compile", "--cluster", CPU, "--cluster-set", "x"], "error: --cluster-set takes KEY=VALUE"),
        (["compile", "--kubernetes-manifest"], "error: --kubernetes-manifest takes its namespace from a profile"),
        (["run", "--output", "/dev/null/x"], "error: cannot write /dev/null"),
        (["run", "--output", "/proc/x"], "error: cannot make the directory /proc/x"),
    ],
)
def test_mistakes_end_with_status_2_and_one_line(arguments, message):
    result = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr.startswith(message)
    assert result.stderr.count("\n") == 1
