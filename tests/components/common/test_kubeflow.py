"""What Kubeflow hands to a step: its own copy of an artifact, with what an earlier attempt left beside it."""

from types import SimpleNamespace

import pytest
from support import TRAINING

from components.common.kubeflow import publish, received
from components.train.component import train_teacher
from matta_core.artifacts import finish_artifact, open_artifact
from matta_core.errors import UserError


@pytest.fixture
def artifact(tmp_path):
    path = tmp_path / "place"
    (path / "logs").mkdir(parents=True)
    (path / "logs" / "events.2").write_text("of this attempt")
    (path / "weights").write_text("whole")
    return finish_artifact(path, "Thing", key="k")


def place(path):
    return SimpleNamespace(path=str(path), metadata={})


def test_a_whole_place_is_read_where_it_is(artifact):
    assert received(place(artifact.path)) == str(artifact.path)


def test_what_a_half_done_upload_left_is_not_read_and_not_deleted(artifact, capsys):
    for name in ("logs/events.1", "part-00009.parquet"):
        (artifact.path / name).write_text("of an earlier attempt")
    with pytest.raises(UserError, match=r"logs/events.1 is not in the manifest"):
        open_artifact(artifact.path, "Thing")
    opened = open_artifact(received(place(artifact.path)), "Thing")
    assert opened.digest == artifact.digest
    assert sorted(file.name for file in opened.path.rglob("*")) == ["events.2", "logs", "manifest.json", "weights"]
    assert (opened.path / "weights").read_text() == "whole"
    assert (artifact.path / "part-00009.parquet").exists()
    assert "left out 2 file(s) of an earlier attempt, logs/events.1 first" in capsys.readouterr().out


def test_what_is_listed_is_checked_as_ever(artifact):
    (artifact.path / "logs" / "events.1").write_text("of an earlier attempt")
    (artifact.path / "weights").write_text("wholf")
    with pytest.raises(UserError, match=r"weights was altered"):
        open_artifact(received(place(artifact.path)), "Thing")
    (artifact.path / "weights").unlink()
    with pytest.raises(UserError, match=r"place/weights is missing"):
        open_artifact(received(place(artifact.path)), "Thing")


def test_a_place_that_points_to_the_store_or_holds_nothing_is_left_to_who_opens_it(artifact, tmp_path):
    output = place(tmp_path / "output")
    publish(output, artifact)
    assert received(output) == output.path
    assert open_artifact(received(output), "Thing") == artifact
    with pytest.raises(UserError, match=r"there is no artifact at .*nowhere"):
        open_artifact(received(place(tmp_path / "nowhere")), "Thing")


@pytest.mark.slow
def test_a_training_reads_no_shard_that_the_dataset_does_not_list(dataset, tmp_path):
    def trained(name):
        output = place(tmp_path / name)
        config, metrics = TRAINING.to_json(), SimpleNamespace(log_metric=lambda name, value: None)
        train_teacher.python_func(
            config=config, store="", dataset=place(dataset.path), checkpoint=output, metrics=metrics
        )
        return open_artifact(output.path, "MattaCheckpoint")

    clean = trained("clean")
    (dataset.path / "train" / "part-00009-of-00010.parquet").write_bytes(b"of an earlier attempt, and no parquet")
    again = trained("again")
    assert again.inputs == clean.inputs
    assert again.metadata["final"] == clean.metadata["final"]
