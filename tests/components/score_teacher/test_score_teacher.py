import dataclasses

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from support import byte_tokenizer, make_dataset, tiny_gpt2

from components.score_teacher.step import score_teacher
from matta_core.artifacts import IN_PROGRESS
from matta_core.config import ScoreTeacherConfig
from matta_core.errors import UserError
from matta_core.models import save_model

VOCABULARY = 257


@pytest.fixture
def teacher(tmp_path):
    folder = tmp_path / "teacher"
    save_model(tiny_gpt2(64, vocab_size=VOCABULARY), byte_tokenizer(), folder)
    return folder


def config(teacher, **changes):
    return ScoreTeacherConfig(**({"teacher": str(teacher), "top_k": 8, "precision": "fp32"} | changes))


def test_scores_lie_row_by_row_beside_the_dataset_and_are_the_teachers(dataset, teacher, tmp_path):
    scores = score_teacher(config(teacher), dataset.path, None, output=tmp_path / "scores")
    model = tiny_gpt2(64, vocab_size=VOCABULARY).eval()
    shards = sorted((dataset.path / "train").glob("*.parquet"))
    assert [file.name for file in sorted((scores.path / "train").glob("*"))] == [file.name for file in shards]
    for shard in shards:
        rows = np.stack(pq.read_table(shard)["input_ids"].to_numpy())
        table = pq.read_table(scores.path / "train" / shard.name)
        assert table.num_rows == len(rows)
        with torch.no_grad():
            log_probs = model(torch.from_numpy(rows.astype(np.int64))).logits[:, :-1].log_softmax(-1)
        expected, ids = log_probs.topk(8, dim=-1)
        assert np.array_equal(np.stack(table["top_k_ids"].to_numpy()), ids.flatten(1).numpy())
        # float16 keeps 11 bits
        assert np.allclose(np.stack(table["top_k_log_probs"].to_numpy()), expected.flatten(1).numpy(), rtol=1e-3)
        tail = 1 - expected.exp().sum(-1).numpy()
        assert np.allclose(np.stack(table["tail_mass"].to_numpy()), tail, rtol=2e-3, atol=1e-6)


def test_killed_between_shards_it_goes_on_with_the_next_and_ends_with_the_same_digest(
    dataset, teacher, tmp_path, monkeypatch
):
    from matta_core import teacher as module

    whole = score_teacher(config(teacher), dataset.path, None, output=tmp_path / "whole")
    real, scored = module._score_shard, []

    def dies_on_the_second(model, shard, target, *rest):
        scored.append(shard.name)
        if len(scored) == 2:
            target.write_bytes(b"half a shard")
            raise KeyboardInterrupt
        real(model, shard, target, *rest)

    monkeypatch.setattr(module, "_score_shard", dies_on_the_second)
    with pytest.raises(KeyboardInterrupt):
        score_teacher(config(teacher), dataset.path, None, output=tmp_path / "killed")
    resumed = score_teacher(config(teacher), dataset.path, None, output=tmp_path / "killed")
    assert scored == ["part-00000-of-00002.parquet"] + 2 * ["part-00001-of-00002.parquet"]
    assert resumed.digest == whole.digest
    assert not (resumed.path / IN_PROGRESS).exists()


def test_a_teacher_of_another_vocabulary_is_refused(dataset, tmp_path):
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(["hello"])
    save_model(tiny_gpt2(64, vocab_size=258), tokenizer, tmp_path / "other")
    with pytest.raises(UserError, match=r"\(258 tokens\) is not the dataset's \(257 tokens\).*Set prepare_data.token"):
        score_teacher(config(tmp_path / "other"), dataset.path, None, output=tmp_path / "scores")


def test_a_teacher_that_predicts_more_tokens_than_it_names_is_refused(dataset, tmp_path):
    save_model(tiny_gpt2(64, vocab_size=264), byte_tokenizer(), tmp_path / "padded")
    with pytest.raises(UserError, match=r"predicts 264 tokens, the dataset's tokenizer has 257"):
        score_teacher(config(tmp_path / "padded"), dataset.path, None, output=tmp_path / "scores")


def test_a_teacher_that_reads_less_than_a_sequence_is_refused(teacher, tmp_path):
    long = make_dataset(tmp_path / "long", length=32)
    with pytest.raises(UserError, match=r"reads at most 16 tokens: set prepare_data.sequence_length to that or less"):
        score_teacher(config(teacher), long.path, None, output=tmp_path / "scores")


def test_more_log_probabilities_than_tokens_are_refused(dataset, teacher, tmp_path):
    with pytest.raises(UserError, match=r"top_k must be at most the vocabulary's 257, got 300"):
        score_teacher(config(teacher, top_k=300), dataset.path, None, output=tmp_path / "scores")


def test_a_teacher_that_is_not_there_or_is_pickled_is_refused(dataset, teacher, tmp_path):
    with pytest.raises(UserError, match=r"cannot load a model from .*nowhere.*Give a folder"):
        score_teacher(config(tmp_path / "nowhere"), dataset.path, None, output=tmp_path / "a")
    (teacher / "model.safetensors").unlink()
    torch.save({}, teacher / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"cannot load a model from .*safetensors"):
        score_teacher(config(teacher), dataset.path, None, output=tmp_path / "b")


def test_two_teachers_or_none_are_refused(dataset, tmp_path):
    with pytest.raises(UserError, match=r"give either score_teacher.teacher .* got None and None"):
        score_teacher(ScoreTeacherConfig(), dataset.path, None, output=tmp_path / "scores")


def test_a_truncated_shard_of_the_dataset_is_refused_by_name(dataset, teacher, tmp_path):
    shard = dataset.path / "train" / "part-00001-of-00002.parquet"
    shard.write_bytes(shard.read_bytes()[:-10])
    with pytest.raises(UserError, match=r"part-00001-of-00002.parquet has \d+ bytes, its manifest says"):
        score_teacher(config(teacher), dataset.path, None, output=tmp_path / "scores")
    shard.unlink()
    with pytest.raises(UserError, match=r"part-00001-of-00002.parquet is missing"):
        score_teacher(config(teacher), dataset.path, None, output=tmp_path / "scores")


def test_the_batch_size_changes_no_key(teacher):
    one, other = config(teacher), dataclasses.replace(config(teacher), batch_size=1)
    assert one.what_changes_the_result() == other.what_changes_the_result()
