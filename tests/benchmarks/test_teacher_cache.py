"""The benchmark's exact KL is exact, and its bytes are those that the scoring step writes."""

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from support import byte_tokenizer, make_dataset, tiny_gpt2

from benchmarks import teacher_cache
from components.score_teacher.step import score_teacher
from matta_core.checkpoints import save_model
from matta_core.objectives.top_k import top_k_scores
from matta_core.recipe import ScoreTeacherConfig


def test_nearly_the_whole_vocabulary_has_hardly_an_error_and_samples_have_far_less_than_none(monkeypatch):
    monkeypatch.setattr(teacher_cache, "KEPT", [(8, 0), (8, 16), (32, 32), (256, 0)])
    teacher, student = (tiny_gpt2(vocab_size=257, seed=seed).eval() for seed in (0, 1))
    rows = torch.randint(257, (8, 16), generator=torch.Generator().manual_seed(0))
    figures = teacher_cache.measure(teacher, student, rows)["kept"]
    merged, sampled, whole = (
        figures[name] for name in ("top 8 and 0 samples", "top 8 and 16 samples", "top 256 and 0 samples")
    )
    assert abs(whole["kl_error"]) < 0.01
    assert whole["gradient_error_per_token"] < 0.02
    assert abs(sampled["kl_error"]) < 0.2 * abs(merged["kl_error"])
    assert merged["bytes"] < sampled["bytes"]


def test_packed_bits_hold_the_ids():
    ids = np.array([[0, 5, 256], [255, 128, 1]])
    packed = teacher_cache.bits(ids, 257)
    assert packed.shape == (2, 4)  # 27 bits
    found = np.unpackbits(packed, axis=-1)[:, :27].reshape(2, 3, 9)
    assert np.array_equal((found * 2 ** np.arange(9)).sum(-1), ids)


def test_bytes_are_those_of_the_scoring_steps_file(tmp_path):
    """But for the file's own head, which counts for more where it holds more columns."""
    dataset = make_dataset(tmp_path / "data", train_rows=400, shards=1)
    model = tiny_gpt2(vocab_size=257).eval()
    save_model(model, byte_tokenizer(), tmp_path / "teacher")
    config = ScoreTeacherConfig(teacher=str(tmp_path / "teacher"), batch_size=400)
    scores = score_teacher(config, dataset.path, None, output=tmp_path / "scores")
    (file,) = (scores.path / "train").iterdir()
    written = file.stat().st_size / (400 * 15)
    (shard,) = (dataset.path / "train").iterdir()
    read = teacher_cache.in_rows(pq.read_table(shard)["input_ids"].combine_chunks().flatten().to_numpy(), 16)
    with torch.no_grad():
        logits = [teacher_cache.logits_of(model, {"input_ids": row}) for row in read.split(1)]
    pieces = [top_k_scores(each, config.top_k, 257, config.tail_samples) for each in logits]
    assert teacher_cache.bytes_of(pieces) == pytest.approx(written, rel=0.05)
