"""start_from: pushed. The Student that is served grows into the new TA, from a directory and from gs://."""

import dataclasses
import json

import pytest
from support import TRAINING

from components.common.launching.config import LaunchConfig
from components.common.served.pointer import move_pointer, read_pointer
from components.common.served.versions import content_digest, install
from components.common.storage.open_storage import open_storage
from components.extract_students.step import extract_students
from components.train.start import start_of
from components.train.step import train, train_teacher
from matta_core.artifacts import IN_PROGRESS
from matta_core.errors import UserError
from matta_core.recipe import PUSHED, ExtractStudentsConfig, PushConfig, SizeConfig

FIRST = dataclasses.replace(TRAINING, steps=30, eval_every_steps=30)
# The next TA is wider and deeper; s is what it was.
SECOND = dataclasses.replace(
    TRAINING,
    model=TRAINING.model | {"num_hidden_layers": 3},
    sizes={"s": SizeConfig(intermediate_size=8, num_hidden_layers=2), "m": 8, "xl": 48},
    start_from=PUSHED,
    steps=4,
    warmup_steps=1,
)


def evaluation(run, step, size):
    rows = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    return next(row[name] for row in rows if row["step"] == step and (name := f"eval/cross_entropy/{size}") in row)


def push(students, target, size="s"):
    """As push's step moves a size's pointer to an extracted student."""
    storage, model = open_storage(target), students.path / size
    digest = content_digest(model)
    install(
        storage,
        size,
        model,
        digest,
        reference=students.path / "references" / f"{size}.safetensors",
        inputs={},
        metadata={},
    )
    return move_pointer(storage, size, read_pointer(storage, size), digest, why="push")


@pytest.fixture
def first(dataset, tmp_path):
    return train(FIRST, dataset.path, None, output=tmp_path / "first")


@pytest.fixture
def students(first, dataset, tmp_path):
    return extract_students(ExtractStudentsConfig(), first.path, dataset.path, output=tmp_path / "students")


def test_the_pushed_student_is_where_the_next_ta_begins(first, students, dataset, target, tmp_path):
    pushed = push(students, target)
    second = train(SECOND, dataset.path, None, output=tmp_path / "second", push_config=PushConfig(target=target))
    served = first.metadata["final"]["eval/cross_entropy/s"]  # after it went on alone
    assert evaluation(second, 0, "s") == pytest.approx(served, abs=1e-5)
    assert evaluation(second, 0, "xl") == pytest.approx(served, abs=1e-5)  # all that is new writes nothing yet
    assert served < evaluation(first, 0, "s") - 1  # and that is no new model's loss
    assert second.metadata["start_from"] == pushed.digest
    assert not (second.path / IN_PROGRESS).exists()  # with what was downloaded


def test_what_is_served_now_is_part_of_the_key(students, target, tmp_path):
    config = PushConfig(target=target)
    before = push(students, target)
    first = start_of(SECOND, config, "train")
    assert first.identity == before.digest
    # The same files named by hand are the same start.
    folder = first.located(SECOND, tmp_path / "download").start_from
    assert start_of(dataclasses.replace(SECOND, start_from=folder), None, "train").identity == before.digest
    (students.path / "s" / "note.txt").write_text("another model")
    after = push(students, target)
    assert start_of(SECOND, config, "train").identity == after.digest != before.digest


def begin_with_pushed(dataset, folder):
    served = PushConfig(target=str(folder / "pushed"))
    return train(SECOND, dataset.path, None, output=folder / "second", push_config=served)


def test_a_damaged_version_is_told(students, dataset, tmp_path):
    push(students, str(tmp_path / "pushed"))
    (weights,) = (tmp_path / "pushed").glob("s/versions/*/model.safetensors")
    weights.write_bytes(b"other")
    with pytest.raises(UserError, match=r"pushed version .* is damaged \(roll back"):
        begin_with_pushed(dataset, tmp_path)


def test_where_nothing_was_pushed_yet_the_first_run_is_told_what_to_set(dataset, tmp_path):
    with pytest.raises(
        UserError,
        match=r"train.start_from = 'pushed': nothing of size 's' \(train.student\) was pushed to .*/pushed yet. "
        r"For the first run: --set train.start_from=CHECKPOINT",
    ):
        begin_with_pushed(dataset, tmp_path)


def test_a_teacher_begins_with_nothing_that_is_pushed(dataset, tmp_path):
    config = dataclasses.replace(TRAINING, sizes={"s": 8}, start_from=PUSHED)
    with pytest.raises(UserError, match=r"train_teacher.start_from = 'pushed' needs push.target, which .* not given"):
        train_teacher(config, dataset.path, output=tmp_path / "teacher")


@pytest.mark.slow
def test_ranks_begin_with_it_too(first, students, dataset, target, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    pushed = push(students, target)
    second = train(
        SECOND,
        dataset.path,
        None,
        output=tmp_path / "{key}",
        launch_config=LaunchConfig(processes_per_node=2),
        push_config=PushConfig(target=target),
    )
    assert evaluation(second, 0, "xl") == pytest.approx(first.metadata["final"]["eval/cross_entropy/s"], abs=1e-5)
    assert second.metadata["start_from"] == pushed.digest
