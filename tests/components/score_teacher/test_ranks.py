"""Scoring by two processes that really run: torchrun on gloo."""

import pyarrow.parquet as pq
import pytest
from support import byte_tokenizer, make_dataset, tiny_gpt2

from components.common.launching.config import LaunchConfig
from components.score_teacher.step import score_teacher
from matta_core.checkpoints import save_model
from matta_core.errors import UserError
from matta_core.recipe import ScoreTeacherConfig

pytestmark = pytest.mark.slow  # each starts several processes with torch

TWO = LaunchConfig(processes_per_node=2)


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture
def config(tmp_path):
    save_model(tiny_gpt2(64, vocab_size=257), byte_tokenizer(), tmp_path / "teacher")
    return ScoreTeacherConfig(teacher=str(tmp_path / "teacher"), top_k=8, precision="fp32")


@pytest.fixture
def three_shards(tmp_path):
    return make_dataset(tmp_path / "three", shards=3)


def test_two_ranks_make_the_artifact_of_one(config, three_shards, tmp_path, capfd):
    plain = score_teacher(config, three_shards.path, None, output=tmp_path / "plain")
    capfd.readouterr()
    launched = score_teacher(config, three_shards.path, None, output=tmp_path / "two", launch_config=TWO)
    assert (launched.key, launched.digest) == (plain.key, plain.digest)
    said = capfd.readouterr().out
    assert "[score_teacher] 2 processes on 1 node(s)\n[score_teacher] started" in said
    assert "0/16" in said  # of 24 sequences: the bar is of the first rank's two shards


def test_two_ranks_go_on_where_one_was_killed(config, three_shards, tmp_path, monkeypatch):
    from matta_core import teacher as module

    plain = score_teacher(config, three_shards.path, None, output=tmp_path / "plain")
    real = module._score_shard

    def dies_on_the_last(loaded, schema, shard, target, *rest):
        if shard.name.startswith("part-00002"):
            target.write_bytes(b"half a shard")
            raise KeyboardInterrupt
        real(loaded, schema, shard, target, *rest)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, "_score_shard", dies_on_the_last)
        score_teacher(config, three_shards.path, None, output=tmp_path / "two")
    done = sorted((tmp_path / "two" / "train").glob("part-*"))
    before = [file.stat().st_mtime_ns for file in done]
    resumed = score_teacher(config, three_shards.path, None, output=tmp_path / "two", launch_config=TWO)
    assert resumed.digest == plain.digest
    assert [file.stat().st_mtime_ns for file in done] == before
    assert len(done) == 2


def test_more_ranks_than_shards_do_no_harm_and_a_mistake_is_the_steps_own(config, tmp_path):
    one = make_dataset(tmp_path / "one", shards=1)
    scores = score_teacher(config, one.path, None, output=tmp_path / "two", launch_config=TWO)
    assert [pq.ParquetFile(file).metadata.num_rows for file in (scores.path / "train").iterdir()] == [24]
    with pytest.raises(UserError) as caught:
        too_many = ScoreTeacherConfig(teacher=config.teacher, top_k=300)
        score_teacher(too_many, one.path, None, output=tmp_path / "none", launch_config=TWO)
    assert str(caught.value) == "score_teacher.top_k must be at most the vocabulary's 257, got 300"
