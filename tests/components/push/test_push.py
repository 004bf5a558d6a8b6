"""Push: versions are whole or not there, pointers move once and atomically, and pushing again is harmless."""

import json
import os
import shutil
import subprocess
import sys
import threading

import pytest

from components.push import step, store
from components.push.step import push
from matta_core.artifacts import MANIFEST, finish_artifact, open_artifact
from matta_core.config import PushConfig
from matta_core.errors import UserError

SIZES = {"s": 1000, "m": 2000, "xl": 4000}


@pytest.fixture
def made(tmp_path):
    """A StudentFamily of three sizes, of which m is not blessed, and the decision."""
    return make(tmp_path, "first")


def make(folder, content):
    """The files of the models only need to load in the one test that loads them."""
    students, decision = folder / f"students-{content}", folder / f"decision-{content}"
    for name in SIZES:
        (students / name / "nested").mkdir(parents=True)
        (students / name / "model.safetensors").write_text(f"{content} weights of {name}")
        (students / name / "nested" / "tokenizer.json").write_text("{}")
    members = {name: {"path": name, "parameters": count} for name, count in SIZES.items()}
    (students / "family.json").write_text(json.dumps({"student": "s", "ta": "xl", "students": members}))
    family = finish_artifact(students, "StudentFamily", key="f")
    decision.mkdir()
    checks = [{"check": "monotone", "threshold": 2.0, "value": 2.5, "passed": False, "why": "worse than s"}]
    verdicts = {name: {"blessed": name != "m", "checks": checks if name == "m" else []} for name in SIZES}
    (decision / "decision.json").write_text(json.dumps({"students": verdicts, "blessed": ["s", "xl"]}))
    finish_artifact(decision, "GateDecision", key="d", inputs={"students": family.digest})
    return decision, students


@pytest.fixture
def queried(monkeypatch):
    """Models are not loaded, only noted."""
    names = []
    monkeypatch.setattr(step, "_query_in_fresh_process", lambda name, version, timeout: names.append(name))
    return names


def push_to(target, made, output):
    return push(PushConfig(target=str(target)), *made, output=output)


def record_of(artifact):
    return json.loads((artifact.path / "push.json").read_text())["students"]


def pointer_of(target, name):
    return json.loads((target / name / "current.json").read_text())


def assert_pointer_is_sound(target, name):
    """Whatever the pointer names is there, whole."""
    if (target / name / "current.json").exists():
        pointer = pointer_of(target, name)
        open_artifact(target / name / pointer["path"], "PushedModel")


def test_blessed_students_are_pushed_and_the_others_are_not(made, queried, tmp_path, capsys):
    target = tmp_path / "pushed"
    artifact = push_to(target, made, tmp_path / "record")
    record = record_of(artifact)
    assert artifact.metadata == {"pushed": ["s", "xl"]}
    assert queried == ["s", "xl"]
    for name in ("s", "xl"):
        pointer = pointer_of(target, name)
        assert (target / name / pointer["path"] / "model.safetensors").read_text() == f"first weights of {name}"
        assert record[name]["path"] == str(target / name / pointer["path"])
        assert record[name]["digest"] == pointer["digest"] == store.content_digest(made[1] / name)
        assert (record[name]["before"], record[name]["after"]) == (None, pointer["version"])
    assert record["m"]["pushed"] is False
    assert record["m"]["why"] == "not blessed: worse than s"
    assert not (target / "m").exists()
    assert "[push] m: not pushed, not blessed: worse than s" in capsys.readouterr().out


def test_a_pushed_version_knows_its_size_and_where_it_comes_from(made, queried, tmp_path):
    record = record_of(push_to(tmp_path / "pushed", made, tmp_path / "record"))
    pushed = open_artifact(record["s"]["path"], "PushedModel")
    assert pushed.metadata == {"size": "s"}
    assert pushed.inputs == {
        "decision": open_artifact(made[0], "GateDecision").digest,
        "students": open_artifact(made[1], "StudentFamily").digest,
    }


def test_pushing_again_changes_nothing_and_gives_the_same_record(made, queried, tmp_path, capsys):
    target, output = tmp_path / "pushed", f"{tmp_path}/record-{{key}}"
    first = push_to(target, made, output)
    pointer, files = pointer_of(target, "s"), sorted(target.rglob("*"))
    queried.clear()
    second = push_to(target, made, output)
    assert (second.path, second.digest) == (first.path, first.digest)
    assert pointer_of(target, "s") == pointer
    assert sorted(target.rglob("*")) == files
    assert queried == []
    assert "is current already, and whole" in capsys.readouterr().out


def test_an_earlier_record_does_not_hide_that_the_target_is_gone(made, queried, tmp_path):
    target, output = tmp_path / "pushed", tmp_path / "record"
    push_to(target, made, output)
    shutil.rmtree(target)
    record = record_of(push_to(target, made, output))
    open_artifact(record["s"]["path"], "PushedModel")
    assert queried == ["s", "xl"] * 2


def test_an_earlier_record_does_not_hide_that_the_pointer_was_moved(made, queried, tmp_path):
    target, output = tmp_path / "pushed", tmp_path / "record"
    first = record_of(push_to(target, made, output))
    other = record_of(push_to(target, make(tmp_path, "second"), tmp_path / "other"))
    assert other["s"]["before"] == first["s"]["version"]
    again = record_of(push_to(target, made, output))
    assert (again["s"]["before"], again["s"]["after"]) == (other["s"]["version"], first["s"]["version"])
    assert pointer_of(target, "s")["version"] == first["s"]["version"]


def test_a_missing_version_behind_a_pointer_is_put_back_and_tried_out(made, queried, tmp_path):
    target = tmp_path / "pushed"
    record = record_of(push_to(target, made, tmp_path / "record"))
    shutil.rmtree(record["s"]["path"])
    queried.clear()
    push_to(target, made, tmp_path / "record")
    assert queried == ["s"]
    assert_pointer_is_sound(target, "s")


def test_a_damaged_version_is_named_and_not_served_again(made, queried, tmp_path):
    target = tmp_path / "pushed"
    record = record_of(push_to(target, made, tmp_path / "record"))
    (tmp_path / record["s"]["path"] / "model.safetensors").write_text("FIRST weights of s")
    with pytest.raises(UserError, match=r"damaged: .*model\.safetensors was altered"):
        push_to(target, made, tmp_path / "record")


def test_a_decision_for_another_family_pushes_nothing(made, queried, tmp_path):
    _, others = make(tmp_path, "second")
    with pytest.raises(UserError, match="nothing was pushed"):
        push_to(tmp_path / "pushed", (made[0], others), tmp_path / "record")
    assert not (tmp_path / "pushed").exists()


@pytest.mark.parametrize("target", ["gs://bucket/models", "s3://bucket", "file:///models"])
def test_an_object_store_is_refused_when_the_recipe_is_read(target):
    with pytest.raises(UserError, match=r"push\.target must be a local directory, got '.*://"):
        PushConfig.from_dict({"target": target}, "push")


def test_a_target_that_cannot_be_written_is_named_with_the_setting(made, queried, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*file/pushed/s.*choose another push\.target"):
        push_to(tmp_path / "file" / "pushed", made, tmp_path / "record")


STAGES = ["_copy", "content_digest", "finish_artifact", "_flush", "move_pointer", "write_json_atomically"]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("stage", STAGES)
def test_a_crash_at_any_stage_leaves_a_sound_pointer_and_can_be_retried(
    made, queried, tmp_path, monkeypatch, stage, when
):
    target = tmp_path / "pushed"
    first = record_of(push_to(target, made, tmp_path / "first"))
    new = make(tmp_path, "second")
    original = getattr(store, stage)

    def crash(*args, **kwargs):
        if when == "after":
            original(*args, **kwargs)
        raise KeyboardInterrupt(stage)

    with monkeypatch.context() as patch:
        patch.setattr(store, stage, crash)
        with pytest.raises(KeyboardInterrupt):
            push_to(target, new, tmp_path / "record")
    for name in ("s", "xl"):
        assert_pointer_is_sound(target, name)
    retried = record_of(push_to(target, new, tmp_path / "record"))
    undisturbed = record_of(push_to(target, new, tmp_path / "undisturbed"))
    assert retried == undisturbed
    assert retried["s"]["before"] == first["s"]["version"]
    for name in ("s", "xl"):
        assert_pointer_is_sound(target, name)
        assert pointer_of(target, name)["version"] == retried[name]["version"]
        assert not list((target / name / "versions").glob(".*"))


KILLED = """
import os, signal, sys
from components.push import step, store
from matta_core.config import PushConfig

step._query_in_fresh_process = lambda *args: None
target, decision, students, output, countdown = sys.argv[1:]
left = int(countdown)
real = os.fsync

def fsync(descriptor):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    real(descriptor)

os.fsync = fsync
step.push(PushConfig(target=target), decision, students, output=output)
"""


@pytest.mark.slow
def test_a_process_killed_at_any_flush_leaves_a_sound_pointer_and_can_be_retried(made, queried, tmp_path):
    reference = record_of(push_to(tmp_path / "reference", made, tmp_path / "reference-record"))
    for countdown in range(1, 100):
        target, output = tmp_path / f"pushed-{countdown}", tmp_path / f"record-{countdown}"
        arguments = [target, *made, output, countdown]
        result = subprocess.run([sys.executable, "-c", KILLED, *map(str, arguments)], capture_output=True)
        for name in ("s", "xl"):
            assert_pointer_is_sound(target, name)
        if result.returncode == 0:
            break
        assert result.returncode == -9, result.stderr
        retried = record_of(push_to(target, made, output))
        for name in SIZES:
            assert retried[name]["version"] == reference[name]["version"]
        assert [file.name for file in sorted(output.iterdir())] == ["manifest.json", "push.json"]
    assert countdown > 10  # it was killed at ten places at least


def test_a_pointer_that_moved_meanwhile_is_left_to_the_winner(made, tmp_path, monkeypatch):
    target, other = tmp_path / "pushed", make(tmp_path, "second")

    def another_push_wins(name, version, timeout):
        monkeypatch.setattr(step, "_query_in_fresh_process", lambda *args: None)
        push_to(target, other, tmp_path / "other")

    monkeypatch.setattr(step, "_query_in_fresh_process", another_push_wins)
    winner = store.content_digest(other[1] / "s")[:16]
    with pytest.raises(UserError, match=rf"no version was expected, {winner} \(moved at .*\) won.*push again"):
        push_to(target, made, tmp_path / "record")
    assert pointer_of(target, "s")["version"] == winner
    record = record_of(push_to(target, made, tmp_path / "record"))
    assert record["s"]["before"] == winner


def test_of_racing_pushers_exactly_one_moves_the_pointer(tmp_path):
    folder = tmp_path / "s"
    outcomes = []

    def race(number):
        try:
            store.move_pointer(folder, None, f"{number:064d}"[::-1])
            outcomes.append("won")
        except UserError:
            outcomes.append("lost")

    threads = [threading.Thread(target=race, args=(number,)) for number in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["lost"] * 7 + ["won"]


def test_a_broken_pointer_is_named(made, queried, tmp_path):
    target = tmp_path / "pushed"
    (target / "s").mkdir(parents=True)
    (target / "s" / "current.json").write_text('{"version": ')
    with pytest.raises(UserError, match=r"current\.json is no pointer"):
        push_to(target, made, tmp_path / "record")


def test_the_content_digest_depends_on_names_and_bytes_and_on_nothing_else(tmp_path):
    for name, file, text in [("a", "x", "1"), ("b", "x", "1"), ("c", "y", "1"), ("d", "x", "2")]:
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text(text)
    os.utime(tmp_path / "b" / "x", (0, 0))
    a, b, c, d = (store.content_digest(tmp_path / name) for name in "abcd")
    assert a == b
    assert len({a, c, d}) == 3


def test_a_model_that_does_not_load_moves_no_pointer(made, tmp_path):
    target = tmp_path / "pushed"
    with pytest.raises(UserError, match=r"does not load and generate .*The pointer was not moved"):
        push_to(target, made, tmp_path / "record")
    assert not (target / "s" / "current.json").exists()


def test_a_model_that_takes_too_long_moves_no_pointer(made, tmp_path):
    config = PushConfig(target=str(tmp_path / "pushed"), load_timeout_seconds=0.01)
    with pytest.raises(UserError, match=r"load_timeout_seconds = 0\.01: the pointer was not moved"):
        push(config, *made, output=tmp_path / "record")
    assert not (tmp_path / "pushed" / "s" / "current.json").exists()


@pytest.mark.slow
def test_a_real_model_is_loaded_by_stock_transformers_and_the_pushed_copy_generates(made, tmp_path, capsys):
    import torch
    from tokenizers import ByteLevelBPETokenizer
    from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(["import os"], vocab_size=260, special_tokens=["<eos>"], show_progress=False)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe._tokenizer, eos_token="<eos>", model_input_names=["input_ids", "attention_mask"]
    )
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=len(tokenizer), n_positions=32, n_embd=8, n_layer=1, n_head=2)
    _, students = made
    for name in SIZES:
        shutil.rmtree(students / name)
        GPT2LMHeadModel(config).save_pretrained(students / name)
        tokenizer.save_pretrained(students / name)
    (students / MANIFEST).unlink()
    family = finish_artifact(students, "StudentFamily", key="f")
    decision = tmp_path / "decision-first"
    (decision / MANIFEST).unlink()
    finish_artifact(decision, "GateDecision", key="d", inputs={"students": family.digest})

    record = record_of(push_to(tmp_path / "pushed", made, tmp_path / "record"))
    assert "[push] s: loaded in a fresh process in" in capsys.readouterr().out
    pushed, source = (AutoModelForCausalLM.from_pretrained(path) for path in (record["s"]["path"], students / "s"))
    assert all(torch.equal(a, b) for a, b in zip(pushed.parameters(), source.parameters(), strict=True))
