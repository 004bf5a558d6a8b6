"""Paths in a recipe, and what the pods of a cluster see of them."""

import pytest

from components.common.command_line import DEFAULT_RECIPE, load_recipe
from matta_core.errors import UserError
from pipelines.checks.paths import is_path, out_of_reach
from pipelines.cluster import load_cluster
from pipelines.local.run import run_locally

CLUSTERS = DEFAULT_RECIPE.parent.parent / "clusters"
WITH_A_VOLUME, WITHOUT = CLUSTERS / "one_gpu.yaml", CLUSTERS / "cpu.yaml"
TEACHER = ["train_teacher=null", "score_teacher.teacher="]
SPANS = ["prepare_data.tokenizer=gpt2", "prepare_data.source=stdlib", "retrain.prefix="]
TASK = ["evaluate.tasks.agieval_sat_math.data_files="]


@pytest.mark.parametrize(
    ("target", "lost"),
    [
        ("gs://bucket/pushed", False),
        ("/mnt/matta/pushed", False),
        ("/mnt/mattapushed", True),
        ("runs/demo/pushed", True),
    ],
)
def test_a_target_in_the_pods_own_file_system_is_told(target, lost):
    recipe = load_recipe(DEFAULT_RECIPE, [f"push.target={target}"])
    reasons = out_of_reach(recipe, load_cluster(WITH_A_VOLUME))
    assert len(reasons) == lost
    assert all(reason.endswith("Give gs://bucket/prefix, or a directory below /mnt/matta") for reason in reasons)


@pytest.mark.parametrize(
    ("settings", "value", "instead"),
    [
        (["prepare_data.source="], "data/*.jsonl", "gs://bucket/glob"),
        (["prepare_data.source="], "/mnt/matta/../data/*.jsonl", "gs://bucket/glob"),
        (SPANS, "data/nightly", "gs://bucket/prefix"),
        (["prepare_data.tokenizer="], "./tokenizer", "a name on the hub"),
        (["train.start_from="], "runs/last/xl", "a name on the hub"),
        (["train_teacher.start_from="], "/srv/teacher", "a name on the hub"),
        (TEACHER, "/home/me/teacher", "a name on the hub"),
        (TASK, "sat_math.jsonl", "nothing: the task's data on the hub"),
    ],
)
def test_a_path_that_no_pod_sees_is_told_with_the_volumes_there_are(settings, value, instead):
    recipe = load_recipe(DEFAULT_RECIPE, ["push.target=gs://bucket/pushed", *settings[:-1], settings[-1] + value])
    where = settings[-1].removesuffix("=")
    told = f"{where} is {value}, a path of this machine, which no pod sees. Give "
    assert out_of_reach(recipe, load_cluster(WITH_A_VOLUME)) == [f"{told}a path below /mnt/matta, or {instead}"]
    assert out_of_reach(recipe, load_cluster(WITHOUT)) == [
        f"{told}a path on a volume (the profile has no volumes), or {instead}"
    ]


@pytest.mark.parametrize(
    ("settings", "value"),
    [
        (["prepare_data.source="], "/mnt/matta/data/*.jsonl"),
        (["prepare_data.source="], "gs://bucket/data/*.jsonl"),
        (SPANS, "/mnt/matta/nightly"),
        (SPANS, "gs://bucket/nightly"),
        (["prepare_data.tokenizer="], "openai-community/gpt2"),
        (["train.start_from="], "/mnt/matta/last"),
        (TEACHER, "gpt2-xl"),
        (TASK, "/mnt/matta/sat_math.jsonl"),
        (TASK, "null"),
    ],
)
def test_what_lies_on_a_volume_in_a_bucket_or_on_the_hub_is_seen_by_pods(settings, value):
    recipe = load_recipe(DEFAULT_RECIPE, ["push.target=gs://bucket/pushed", *settings[:-1], settings[-1] + value])
    assert out_of_reach(recipe, load_cluster(WITH_A_VOLUME)) == []


def test_vertex_shows_its_pods_every_bucket_to_read_from_but_not_to_push_to():
    recipe = load_recipe(DEFAULT_RECIPE, ["push.target=/gcs/b/pushed", "prepare_data.source=/gcs/b/*.jsonl"])
    (reason,) = out_of_reach(recipe, load_cluster(CLUSTERS / "vertex.yaml"))
    assert reason.startswith("push.target is /gcs/b/pushed")


def test_the_nightly_example_is_for_one_machine_until_it_names_buckets():
    nightly, cluster = DEFAULT_RECIPE.parent / "nightly.yaml", load_cluster(WITH_A_VOLUME)
    assert [reason.split(" is ")[0] for reason in out_of_reach(load_recipe(nightly), cluster)] == [
        "push.target",
        "retrain.prefix",
    ]
    buckets = ["push.target=gs://bucket/pushed", "retrain.prefix=gs://bucket/nightly"]
    assert out_of_reach(load_recipe(nightly, buckets), cluster) == []


@pytest.mark.parametrize("name", ["gpt2", "openai-community/gpt2"])
def test_a_name_on_the_hub_is_no_path(name):
    assert not is_path(name)


@pytest.mark.parametrize("path", ["/srv/gpt2", "./gpt2", "../gpt2", "runs/demo/teacher"])
@pytest.mark.parametrize("where", ["prepare_data.tokenizer", "train.start_from", "train_teacher.start_from"])
def test_a_run_here_begins_only_where_the_folders_are_that_its_recipe_names(where, path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe(DEFAULT_RECIPE, [f"{where}={path}"])
    with pytest.raises(UserError, match=rf"{where}: there is no folder {path}: correct the path"):
        run_locally(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_here_begins_only_where_its_target_can_be(tmp_path, gcs_server):
    (tmp_path / "file").touch()
    for target, message in (
        (f"{tmp_path}/file/pushed", r"push.target: .*/file/pushed cannot be a directory, as .*/file is a file"),
        ("/proc/x", r"cannot make the directory /proc/x: No such file or directory; choose another push\.target"),
        ("gs://no-such-bucket/pushed", "no-such-bucket"),
    ):
        recipe = load_recipe(DEFAULT_RECIPE, [f"push.target={target}"])
        with pytest.raises(UserError, match=message):
            run_locally(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()
