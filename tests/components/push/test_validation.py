"""Infra validation: a fresh process with stock libraries loads the files of the target, or nothing moves."""

import json
import os
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import byte_tokenizer, granularity, tiny_gpt2

from components.common.served.pointer import read_pointer
from components.common.served.versions import content_digest
from components.common.storage.open_storage import open_storage
from components.extract_students.step import extract_students
from components.push import validation
from components.push.operations import rollback
from components.push.validation import Queries
from matta_core.artifacts import finish_artifact
from matta_core.checkpoints import save_model
from matta_core.errors import UserError
from matta_core.nesting.size import whole
from matta_core.recipe import ExtractStudentsConfig, PushConfig

QUERY = validation.QUERY
LIMITS = {"timeout_seconds": 120.0, "max_memory_bytes": None}


def query(*arguments, **limits):
    with Queries() as queries:
        return queries.query(*arguments, **limits)


def stand_in(folder, main):
    """A query.py whose `main(folder, reference)` is another."""
    path = folder / "stand_in.py"
    path.write_text(
        f"import json, os, pathlib, runpy, sys\nserve = runpy.run_path({str(QUERY)!r})['serve']\n"
        f"def main(folder, reference):\n{textwrap.indent(textwrap.dedent(main), '    ')}\n"
        f"serve.__globals__['main'] = main\nserve()\n"
    )
    return path


def write_real_model(folder, reference, seed=0):
    model = tiny_gpt2(32, vocab_size=257, seed=seed).eval()
    save_model(model, byte_tokenizer(), folder)
    input_ids = torch.arange(40, 56)[None]
    with torch.no_grad():
        save_file({"input_ids": input_ids, "logits": model(input_ids=input_ids).logits[0]}, reference)


@pytest.fixture
def model(tmp_path):
    write_real_model(tmp_path / "model", tmp_path / "reference.safetensors")
    return tmp_path / "model", tmp_path / "reference.safetensors"


@pytest.mark.slow
def test_a_model_that_answers_as_recorded_passes_whatever_lies_in_the_working_directory(model, tmp_path, monkeypatch):
    (tmp_path / "transformers.py").write_text("raise SystemExit('this is not transformers')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    report = query(*model, "the model", timeout_seconds=120.0, max_memory_bytes=8 * 2**30)
    assert report["max_difference"] < report["tolerance"] / 100
    assert isinstance(report["generated"], str)
    assert 2**26 < report["peak_memory_bytes"] < 8 * 2**30


@pytest.mark.slow
def test_what_extraction_wrote_and_recorded_passes(dataset, tmp_path):
    ta = tiny_gpt2(32, vocab_size=257)
    save_model(ta, byte_tokenizer(), tmp_path / "checkpoint" / "ta")
    kept = {"s": granularity(ta, intermediate_size=8), "xl": whole(ta.config, "xl")}
    sizes = {name: size.to_dict() for name, size in kept.items()}
    nesting = {"model_type": "gpt2", "sizes": sizes, "student": "s", "sequence_length": 16}
    (tmp_path / "checkpoint" / "nesting.json").write_text(json.dumps(nesting))
    checkpoint = finish_artifact(
        tmp_path / "checkpoint", "MattaCheckpoint", key="k", inputs={"dataset": dataset.digest}
    )
    family = extract_students(ExtractStudentsConfig(), checkpoint.path, dataset.path, output=tmp_path / "students")
    member = json.loads((family.path / "family.json").read_text())["students"]["s"]
    report = query(family.path / member["path"], family.path / member["reference"], "s", **LIMITS)
    assert report["max_difference"] < report["tolerance"] / 100


@pytest.mark.slow
def test_models_are_tried_out_in_processes_of_their_own_that_share_only_the_libraries(tmp_path, monkeypatch):
    """One that dies takes nothing with it; one that spoils its process spoils no other's."""
    main = """
        spoilt, json.spoilt = hasattr(json, "spoilt"), True
        if pathlib.Path(folder).name == "dies":
            os.kill(os.getpid(), 9)
        sys.stderr.write(f"of {folder}")
        print(json.dumps({"pid": os.getpid(), "parent": os.getppid(), "spoilt": spoilt, "peak_memory_bytes": 1}))
        """
    monkeypatch.setattr(validation, "QUERY", stand_in(tmp_path, main))
    with Queries() as queries:
        first, second = (queries.query(tmp_path / name, tmp_path, name, **LIMITS) for name in ("first", "second"))
        with pytest.raises(UserError, match=r"^it does not load and generate in a fresh process: exit status -9\. "):
            queries.query(tmp_path / "dies", tmp_path, "it", **LIMITS)
        third = queries.query(tmp_path / "third", tmp_path, "third", **LIMITS)
    assert len({report["pid"] for report in (first, second, third)}) == 3
    assert first["parent"] == second["parent"] != third["parent"], "after a failure the process is another one"
    assert not any(report["spoilt"] for report in (first, second, third))
    for pid in (first["parent"], third["parent"]):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_the_process_imports_nothing_of_ours():
    source = validation.QUERY.read_text()
    assert "matta_core" not in source
    assert "components" not in source


@pytest.mark.slow
def test_another_models_logits_are_refused_with_what_was_expected_and_what_came(model, tmp_path):
    recorded = load_file(model[1])
    recorded["logits"][3, 7] += 1.0
    save_file(recorded, tmp_path / "wrong.safetensors")
    expected = recorded["logits"][3, 7].item()
    message = (
        rf"the model does not load .*recorded logit {expected:.6g} of token 7 at position 3, got {expected - 1:.4f}"
    )
    with pytest.raises(UserError, match=message):
        query(model[0], tmp_path / "wrong.safetensors", "the model", **LIMITS)


@pytest.mark.slow
def test_files_that_do_not_make_a_model_are_refused(model, tmp_path):
    (model[0] / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"the model does not load and generate .*The pointer was not moved"):
        query(*model, "the model", **LIMITS)


@pytest.mark.slow
def test_a_model_that_takes_more_memory_than_allowed_is_refused(model):
    with pytest.raises(UserError, match=r"took [\d,]+ bytes of memory .*max_load_memory_bytes allows 50,000,000"):
        query(*model, "the model", timeout_seconds=120.0, max_memory_bytes=50_000_000)


def test_a_model_that_takes_too_long_is_ended_and_refused(model):
    with pytest.raises(UserError, match=r"within push\.load_timeout_seconds = 0\.2: the pointer was not moved"):
        query(*model, "the model", timeout_seconds=0.2, max_memory_bytes=None)


def test_the_peak_of_a_process_is_read_while_it_runs_and_not_its_parents():
    peak = validation._peak_memory_bytes(os.getpid())
    assert peak > 2**20
    assert validation._peak_memory_bytes(2**22 + 1) == 0


@pytest.mark.slow
def test_a_failed_validation_moves_no_pointer_and_the_version_stays_for_the_next_push(
    target, made, push_to, tmp_path, monkeypatch
):
    monkeypatch.setattr(validation, "QUERY", stand_in(tmp_path, "sys.exit('out of luck')"))
    with pytest.raises(UserError, match=r"s: .*fresh process: out of luck\. .*xl: .*out of luck"):
        push_to(target, made, tmp_path / "record")
    storage = open_storage(target)
    assert read_pointer(storage, "s") is None
    monkeypatch.setattr(validation, "QUERY", stand_in(tmp_path, f"print({json.dumps(passed())!r})"))
    push_to(target, made, tmp_path / "record")
    assert read_pointer(storage, "s") is not None


def passed():
    return {"generated": "x", "max_difference": 0.0, "tolerance": 1.0, "peak_memory_bytes": 1, "seconds": 0.1}


@pytest.mark.slow
def test_the_process_gets_the_files_of_the_target_and_the_logits_recorded_at_extraction(
    target, made, push_to, tmp_path, monkeypatch
):
    """Stand-in for query.py: it writes down what it was given."""
    seen = tmp_path / "seen"
    seen.mkdir()
    note = f"""
        weights, logits = pathlib.Path(folder, "model.safetensors").read_text(), pathlib.Path(reference).read_text()
        note = pathlib.Path({str(seen)!r}, weights.split()[-1])
        note.write_text("|".join([folder, weights, logits, os.getcwd(), sys.executable]))
        print({json.dumps(passed())!r})
        """
    monkeypatch.setattr(validation, "QUERY", stand_in(tmp_path, note))
    push_to(target, made, tmp_path / "record")
    for size in ("s", "xl"):
        folder, weights, logits, directory, python = (seen / size).read_text().split("|")
        digest = content_digest(made.students / size)
        assert folder.endswith(f"/{size}/versions/{digest[:16]}" if "gs://" not in target else f"/{size}/{digest[:16]}")
        assert not folder.startswith(str(made.students))
        assert (weights, logits) == (f"first weights of {size}", f"first logits of {size}")
        assert Path(directory).resolve() != Path.cwd()
        assert python == sys.executable


@pytest.mark.slow
def test_a_real_model_is_pushed_to_an_object_store_and_rolled_back_to_after_it_was_tried_out_again(
    gcs_target, make, push_to, tmp_path, capsys
):
    generations = [
        make(f"{seed}", blessed=("s",), write_model=lambda *paths, seed=seed: write_real_model(*paths, seed=seed))
        for seed in (0, 1)
    ]
    for number, made in enumerate(generations):
        push_to(gcs_target, made, tmp_path / f"record-{number}")
    told = capsys.readouterr().out
    assert told.count("loaded in a fresh process in") == 2
    pointer = rollback(PushConfig(target=gcs_target), "s")
    assert pointer.digest == content_digest(generations[0].students / "s")
    assert "loaded in a fresh process in" in capsys.readouterr().out
