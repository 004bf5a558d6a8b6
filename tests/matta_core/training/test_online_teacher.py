"""A Teacher that scores in training gives what its cached scores give, up to their precision."""

import dataclasses
import json

import pytest
from support import make_dataset
from training_support import CONFIG, TEACHER

from components.score_teacher.step import score_teacher
from components.train.step import train, train_teacher
from matta_core.errors import UserError
from matta_core.recipe import ScoreTeacherConfig

VOCABULARY = 257


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("data") / "dataset")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory, dataset):
    return train_teacher(TEACHER, dataset.path, output=tmp_path_factory.mktemp("teacher"))


def losses(checkpoint):
    """All losses of training and validation by step."""
    rows = [json.loads(line) for line in (checkpoint.path / "metrics.jsonl").read_text().splitlines()]
    found = {(row["step"], name): row[name] for row in rows for name in row if name.count("/") == 2}
    assert any("teacher_divergence" in name for _, name in found)
    return {key: value for key, value in found.items() if "perplexity" not in key[1] and "weight" not in key[1]}


@pytest.mark.parametrize(
    "kept", [{"top_k": VOCABULARY, "tail_samples": 0}, {"top_k": 32}, {"top_k": 8, "tail_samples": 0}]
)
@pytest.mark.parametrize("micro_batch_size", [None, 3])
def test_cached_and_online_give_the_same_losses(dataset, teacher, tmp_path, kept, micro_batch_size):
    scoring = ScoreTeacherConfig(**kept)
    config = dataclasses.replace(CONFIG, micro_batch_size=micro_batch_size)
    scores = score_teacher(scoring, dataset.path, teacher.path, output=tmp_path / "scores")
    cached = train(config, dataset.path, scores.path, output=tmp_path / "cached")
    online = train(
        config, dataset.path, None, output=tmp_path / "online", teacher_config=scoring, teacher_checkpoint=teacher.path
    )
    assert online.inputs == {"dataset": dataset.digest, "teacher": teacher.digest}
    ours, theirs = losses(online), losses(cached)
    assert ours.keys() == theirs.keys()
    # A cached probability is exact to 0.8 %, which nearly cancels in a divergence's sum.
    for name, value in theirs.items():
        assert ours[name] == pytest.approx(value, rel=2e-3, abs=1e-4), name
    assert online.digest != cached.digest


def test_how_the_teacher_scores_is_part_of_the_key_and_how_many_at_once_is_not(dataset, teacher, tmp_path):
    def key(**scoring):
        return train(
            CONFIG,
            dataset.path,
            None,
            output=tmp_path / "{key}",
            teacher_config=ScoreTeacherConfig(**scoring),
            teacher_checkpoint=teacher.path,
        ).key

    assert key(top_k=8) == key(top_k=8, batch_size=1) != key(top_k=9)


def test_scores_and_an_online_teacher_together_or_no_teacher_are_refused(dataset, teacher, tmp_path):
    scores = score_teacher(ScoreTeacherConfig(top_k=8), dataset.path, teacher.path, output=tmp_path / "scores")
    with pytest.raises(UserError, match=r"either teacher scores or score_teacher.online"):
        train(
            CONFIG,
            dataset.path,
            scores.path,
            output=tmp_path / "run",
            teacher_config=ScoreTeacherConfig(),
            teacher_checkpoint=teacher.path,
        )
    with pytest.raises(UserError, match=r"give either score_teacher.teacher .* got None and None"):
        train(CONFIG, dataset.path, None, output=tmp_path / "run", teacher_config=ScoreTeacherConfig())


def test_a_teacher_of_another_vocabulary_is_refused_before_the_first_step(dataset, teacher, tmp_path):
    with pytest.raises(UserError, match=r"top_k must be at most the vocabulary's 257, got 300"):
        train(
            CONFIG,
            dataset.path,
            None,
            output=tmp_path / "run",
            teacher_config=ScoreTeacherConfig(top_k=300),
            teacher_checkpoint=teacher.path,
        )
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_scores_of_another_version_are_refused_with_the_remedy(dataset, teacher, tmp_path, monkeypatch):
    from matta_core.objectives.next_token import NextToken

    scores = score_teacher(ScoreTeacherConfig(top_k=8), dataset.path, teacher.path, output=tmp_path / "scores")
    monkeypatch.setattr(NextToken, "teacher_columns", ("top_k_ids", "once_more"))
    with pytest.raises(UserError, match=r"has no columns once_more: it was made by another version of score_teacher"):
        train(CONFIG, dataset.path, scores.path, output=tmp_path / "run")
