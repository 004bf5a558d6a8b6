"""Which pushed version a student is compared with, in a real storage."""

import json

import pytest
import torch
from support import byte_tokenizer, tiny_gpt2

from components.common.served.pointer import move_pointer, read_pointer
from components.common.served.versions import content_digest, install
from components.common.storage.open_storage import open_storage
from components.evaluate.baselines import Baseline, fetch_all, resolve
from components.evaluate.plan_evaluation import plan_evaluation
from components.evaluate.step import evaluate
from matta_core.artifacts import finish_artifact
from matta_core.errors import UserError


def put(target, size, model, *, vocabulary=None, tokenizer=None):
    """Push a folder, or a tiny model with `vocabulary` tokens, by what push itself is made of; its digest."""
    storage = open_storage(str(target))
    if vocabulary is not None:
        tiny_gpt2(24, vocabulary, seed=3, max_position_embeddings=32).save_pretrained(model)
        if tokenizer is not None:
            tokenizer.save_pretrained(model)
    digest = content_digest(model)
    install(storage, size, model, digest, reference=model / "config.json", inputs={}, metadata={})
    move_pointer(storage, size, read_pointer(storage, size), digest, why="push")
    return digest


def folder_of(tmp_path, content):
    folder = tmp_path / content
    folder.mkdir()
    (folder / "config.json").write_text(content)
    return folder


def test_without_a_target_or_before_the_first_push_there_is_none(tmp_path):
    assert resolve(None, {"s": "0" * 64}) == {"s": None}
    assert resolve(str(tmp_path / "pushed"), {"s": "0" * 64, "m": "1" * 64}) == {"s": None, "m": None}


def test_it_is_what_the_pointer_names(tmp_path):
    target = tmp_path / "pushed"
    put(target, "s", folder_of(tmp_path, "first"))
    second = put(target, "s", folder_of(tmp_path, "second"))
    found = resolve(str(target), {"s": "0" * 64, "m": "0" * 64})
    assert found == {"s": Baseline("s", second[:16], second), "m": None}
    assert found["s"].name == "baseline-s"
    files = fetch_all(str(target), found, tmp_path / "downloads")
    assert (files["s"] / "config.json").read_text() == "second"
    assert list(files) == ["s"]


def test_a_student_that_is_served_already_is_compared_with_the_one_before(tmp_path):
    target = tmp_path / "pushed"
    first = put(target, "s", folder_of(tmp_path, "first"))
    assert resolve(str(target), {"s": first}) == {"s": None}
    second = put(target, "s", folder_of(tmp_path, "second"))
    assert resolve(str(target), {"s": second}) == {"s": Baseline("s", first[:16], first)}


def test_a_student_that_a_rollback_made_current_is_its_own_baseline(tmp_path):
    target = tmp_path / "pushed"
    first = put(target, "s", folder_of(tmp_path, "first"))
    put(target, "s", folder_of(tmp_path, "second"))
    storage = open_storage(str(target))
    move_pointer(storage, "s", read_pointer(storage, "s"), first, why="rollback")
    found = resolve(str(target), {"s": first})
    assert found == {"s": Baseline("s", first[:16], first, is_student=True)}
    assert found["s"].name == "s"
    assert fetch_all(str(target), found, tmp_path / "downloads") == {}


def test_a_size_named_as_another_ones_baseline_is_refused():
    with pytest.raises(UserError, match="the size 'baseline-s' has the name of the baseline of 's': rename it"):
        resolve(None, {"s": "0" * 64, "baseline-s": "1" * 64})


def run(root, config, output, target):
    return evaluate(
        config, root / "dataset", root / "students", teacher_checkpoint=root / "teacher", push_target=str(target),
        output=root / output,
    )  # fmt: skip


def test_it_is_evaluated_on_the_same_questions_and_part_of_the_key(tmp_path, make_artifacts, config, unmeasured):
    make_artifacts(tmp_path)
    target = tmp_path / "pushed"
    without = run(tmp_path, config, "without", target)
    student = tmp_path / "students" / "s"
    # The served model of size xl is today's s: the same files must get the same figures.
    digest = put(target, "xl", student)
    report = run(tmp_path, config, "with", target)
    assert report.key != without.key
    results = json.loads((report.path / "results.json").read_text())
    assert results["baselines"] == {"s": None, "xl": "baseline-xl"}
    assert report.metadata["models"] == ["s", "xl", "teacher", "baseline-xl"]
    served = results["models"]["baseline-xl"]
    assert (served["role"], served["size"], served["version"], served["digest"]) == (
        "baseline", "xl", digest[:16], digest,
    )  # fmt: skip
    assert served["tasks"] == results["models"]["s"]["tasks"]
    assert (report.path / "documents" / "baseline-xl.jsonl").read_bytes() == (
        report.path / "documents" / "s.jsonl"
    ).read_bytes()
    # What is served must not change what is asked.
    assert report.metadata["evaluation_set"] == without.metadata["evaluation_set"]


def test_after_its_own_push_a_second_run_finds_the_same_evaluation(
    tmp_path, make_artifacts, config, unmeasured, capsys
):
    make_artifacts(tmp_path)
    target = tmp_path / "pushed"
    first = run(tmp_path, config, "report", target)
    for size in ("s", "xl"):
        put(target, size, tmp_path / "students" / size)
    again = run(tmp_path, config, "report", target)
    assert again.digest == first.digest
    assert "[evaluate] reused" in capsys.readouterr().out


def test_a_baseline_with_another_tokenizer_is_evaluated_with_its_own(tmp_path, make_artifacts, config, unmeasured):
    make_artifacts(tmp_path)
    tokenizer = byte_tokenizer()
    put(tmp_path / "pushed", "s", tmp_path / "served", vocabulary=len(tokenizer), tokenizer=tokenizer)
    report = run(tmp_path, config, "report", tmp_path / "pushed")
    served = json.loads((report.path / "results.json").read_text())["models"]["baseline-s"]
    # A random model of bytes is about as good as chance: 257 tokens of one byte each are 8 bits per byte, and some.
    assert 7 < served["tasks"]["matta_bits_per_byte"]["value"] < 14


def test_a_baseline_without_a_tokenizer_must_have_the_datasets_vocabulary(
    tmp_path, make_artifacts, config, tokenizer, unmeasured
):
    make_artifacts(tmp_path)
    put(tmp_path / "pushed", "s", tmp_path / "other", vocabulary=len(tokenizer) + 5)
    with pytest.raises(UserError, match=f"no tokenizer, and a vocabulary of {len(tokenizer) + 5} tokens"):
        run(tmp_path, config, "report", tmp_path / "pushed")
    put(tmp_path / "pushed", "s", tmp_path / "same", vocabulary=len(tokenizer))
    report = run(tmp_path, config, "again", tmp_path / "pushed")
    assert "baseline-s" in report.metadata["models"]


def test_a_baseline_that_sees_less_leaves_the_questions_as_they_are(
    tmp_path, make_artifacts, config, tokenizer, unmeasured
):
    make_artifacts(tmp_path)
    without = run(tmp_path, config, "without", tmp_path / "pushed")
    folder = tmp_path / "short"
    torch.manual_seed(0)
    tiny_gpt2(16, len(tokenizer), max_position_embeddings=14).save_pretrained(folder)
    put(tmp_path / "pushed", "s", folder)
    report = run(tmp_path, config, "with", tmp_path / "pushed")
    assert report.metadata["evaluation_set"] == without.metadata["evaluation_set"]
    measured_on = json.loads((report.path / "results.json").read_text())["measured_on"]
    assert measured_on["sequence_length"] + measured_on["new_tokens"] == 14


@pytest.mark.parametrize("path", ["../elsewhere", "/etc", "s/../../s"])
def test_a_student_whose_files_lie_outside_of_its_family_is_not_evaluated(tmp_path, path):
    member = {"path": path, "parameters": 1, "bytes": 4, "flops_per_token": 2}
    (tmp_path / "family.json").write_text(json.dumps({"student": "s", "ta": "s", "students": {"s": member}}))
    finish_artifact(tmp_path, "StudentFamily", key="0" * 64)
    with pytest.raises(UserError, match=r"family.json names the file .*, which is no plain relative name"):
        plan_evaluation(tmp_path, None)
