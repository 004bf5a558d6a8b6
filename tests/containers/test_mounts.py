"""Which paths the containers of a run see. No engine is needed."""

import pytest

from components.common.command_line import load_recipe
from matta_core.errors import UserError
from pipelines.local import docker as docker_run
from pipelines.local.mounts import Mounts, local_paths, mounts_of


def recipe_of(tmp_path, **settings):
    values = {"push.target": tmp_path / "pushed"} | settings
    return load_recipe(overrides=[f"{key}={value}" for key, value in values.items()])


def paths_of(mounts):
    return {mount["Target"]: mount["ReadOnly"] for mount in mounts.as_docker_mounts()}


def test_the_output_and_the_target_are_written_to_and_what_the_recipe_names_is_read(tmp_path):
    for folder in ("corpus/sub", "teacher", "tokenizer", "out"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "questions.jsonl").touch()
    recipe = recipe_of(
        tmp_path,
        **{
            "prepare_data.source": tmp_path / "corpus/**/*.txt",
            "prepare_data.tokenizer": tmp_path / "tokenizer",
            "score_teacher.teacher": tmp_path / "teacher",
            "train_teacher": "null",
            "evaluate.tasks": f"{{lambada_openai: {{data_files: {tmp_path / 'questions.jsonl'}}}}}",
        },
    )
    assert paths_of(mounts_of(recipe, tmp_path / "out")) == {
        str(tmp_path / "out"): False,
        str(tmp_path / "pushed"): False,
        str(tmp_path / "corpus"): True,
        str(tmp_path / "tokenizer"): True,
        str(tmp_path / "teacher"): True,
        str(tmp_path / "questions.jsonl"): True,
    }


def test_a_bucket_and_a_hubs_name_are_no_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    values = {"source": "gs://bucket/data/*.txt", "tokenizer": "openai-community/gpt2", "size": "s", "empty": ""}
    assert list(local_paths(values)) == []
    (tmp_path / "openai-community" / "gpt2").mkdir(parents=True)
    assert list(local_paths(values)) == [("tokenizer = 'openai-community/gpt2'", "openai-community/gpt2")]


def test_relative_paths_are_seen_where_they_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts").mkdir()
    mounts = Mounts()
    mounts.add("texts", read_only=True, why="prepare_data.source")
    assert paths_of(mounts) == {str(tmp_path / "texts"): True}


def test_what_lies_below_a_mount_needs_none_of_its_own_unless_it_is_written_to():
    mounts = Mounts()
    mounts.add("/data", read_only=True, why="source")
    mounts.add("/data/teacher", read_only=True, why="teacher")
    mounts.add("/data/pushed", read_only=False, why="target")
    mounts.add("/data/pushed/more", read_only=True, why="x")
    assert list(paths_of(mounts).items()) == [("/data", True), ("/data/pushed", False)]


def test_the_folder_that_a_link_leads_to_comes_along(tmp_path):
    """So lie the files of a Hugging Face cache: snapshots are links to blobs."""
    snapshot, blobs = tmp_path / "snapshots" / "abc", tmp_path / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    (blobs / "123").touch()
    (snapshot / "model.safetensors").symlink_to("../../blobs/123")
    (snapshot / "inside").symlink_to("model.safetensors")
    mounts = Mounts()
    mounts.add(snapshot, read_only=True, why="teacher")
    assert paths_of(mounts) == {str(snapshot): True, str(blobs): True}


@pytest.mark.parametrize("path", ["/", "/usr", "/etc", "/tmp", "/opt", "/opt/matta/src", "/proc/self", "/dev/shm"])
def test_a_path_that_would_hide_the_containers_own_files_is_refused(path):
    with pytest.raises(UserError, match=r"push.target = .*: .* cannot be mounted in a container without hiding"):
        Mounts().add(path, read_only=False, why=f"push.target = {path!r}")


def test_without_an_engine_the_run_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    with (
        pytest.raises(UserError, match=r"no docker engine answers .*: start docker, or run .* without --docker"),
        docker_run.containers_of(recipe_of(tmp_path), tmp_path),
    ):
        pass
