"""Push: versions are whole or not there, pointers move once and atomically, and pushing again is harmless."""

import json
import os
import shutil
from pathlib import Path

import pytest
import yaml

from components.common.served.pointer import read_pointer
from components.common.served.versions import content_digest, fetch, version_digest, versions_there
from components.common.storage.open_storage import open_storage
from components.push import step
from matta_core.artifacts import digest_of, files_of, open_artifact
from matta_core.errors import UserError
from matta_core.recipe import PushConfig, ServingConfig


def record_of(artifact):
    return json.loads((artifact.path / "push.json").read_text())["students"]


def state_of(target):
    """Every file of the target, with its generation: equal where nothing was written."""
    storage = open_storage(str(target))
    return [entry for size in ("s", "m", "xl") for entry in storage.list(size)]


def test_blessed_students_are_pushed_and_the_others_are_not(target, made, push_to, queried, tmp_path, capsys):
    artifact = push_to(target, made, tmp_path / "record")
    record, storage = record_of(artifact), open_storage(target)
    assert artifact.metadata == {"pushed": ["s", "xl"]}
    assert queried == ["s", "xl"]
    for size in ("s", "xl"):
        pointer = read_pointer(storage, size)
        files = fetch(storage, size, pointer.version, tmp_path / "fetched")
        assert (files / "model.safetensors").read_text() == f"first weights of {size}"
        assert record[size]["path"] == f"{storage.url}/{size}/versions/{pointer.version}"
        assert record[size]["digest"] == pointer.digest == content_digest(made.students / size) == content_digest(files)
        assert (record[size]["before"], record[size]["after"]) == (None, pointer.version)
        assert pointer.version == pointer.digest[:16]
    assert record["m"]["pushed"] is False
    assert record["m"]["why"] == "not blessed: worse than s"
    assert record["m"].keys() == record["s"].keys()
    assert storage.list("m") == []
    assert "[push] m: not pushed, not blessed: worse than s" in capsys.readouterr().out


def test_a_pushed_version_knows_its_size_and_where_it_comes_from(made, push_to, queried, tmp_path):
    record = record_of(push_to(tmp_path / "pushed", made, tmp_path / "record"))
    pushed = open_artifact(record["s"]["path"], "PushedModel")
    assert pushed.metadata == {"size": "s"}
    assert pushed.inputs == {
        "decision": open_artifact(made.decision, "GateDecision").digest,
        "students": open_artifact(made.students, "StudentFamily").digest,
        "evaluation": open_artifact(made.evaluation, "EvaluationReport").digest,
    }


def test_pushing_again_changes_nothing_and_gives_the_same_record(target, made, push_to, queried, tmp_path):
    output = f"{tmp_path}/record-{{key}}"
    first = push_to(target, made, output)
    state = state_of(target)
    queried.clear()
    second = push_to(target, made, output)
    assert (second.path, second.digest) == (first.path, first.digest)
    assert state_of(target) == state
    assert queried == []


def test_an_earlier_record_does_not_hide_that_the_target_is_gone(made, push_to, queried, tmp_path):
    target, output = tmp_path / "pushed", tmp_path / "record"
    push_to(target, made, output)
    shutil.rmtree(target)
    record = record_of(push_to(target, made, output))
    open_artifact(record["s"]["path"], "PushedModel")
    assert queried == ["s", "xl"] * 2


def test_an_earlier_record_does_not_hide_that_the_pointer_was_moved(target, made, make, push_to, queried, tmp_path):
    output = tmp_path / "record"
    first = record_of(push_to(target, made, output))
    other = record_of(push_to(target, make("second"), tmp_path / "other"))
    assert other["s"]["before"] == first["s"]["version"]
    again = record_of(push_to(target, made, output))
    assert (again["s"]["before"], again["s"]["after"]) == (other["s"]["version"], first["s"]["version"])
    assert read_pointer(open_storage(target), "s").version == first["s"]["version"]


def test_a_missing_version_behind_a_pointer_is_put_back_and_tried_out(made, push_to, queried, tmp_path):
    target = tmp_path / "pushed"
    record = record_of(push_to(target, made, tmp_path / "record"))
    shutil.rmtree(record["s"]["path"])
    queried.clear()
    push_to(target, made, tmp_path / "record")
    assert queried == ["s"]
    open_artifact(record["s"]["path"], "PushedModel")


def test_a_damaged_version_is_named_by_push_and_by_fetch(target, made, make, push_to, queried, tmp_path):
    record = record_of(push_to(target, made, tmp_path / "record"))
    storage = open_storage(target)
    name = f"s/versions/{record['s']['version']}/model.safetensors"
    storage.write(name, b"FIRST weights of s", expected=storage.read(name)[1])
    with pytest.raises(UserError, match=r"s: pushed version .* is damaged .*model\.safetensors is missing or was alt"):
        push_to(target, made, tmp_path / "record")
    with pytest.raises(UserError, match=r"damaged .*model\.safetensors was altered"):
        fetch(storage, "s", record["s"]["version"], tmp_path / "fetched")


def test_a_student_that_fails_does_not_keep_the_others_from_being_pushed(
    target, made, push_to, monkeypatch, tmp_path, capsys
):
    def fail_for_s(queries, config, storage, size, version):
        if size == "s":
            raise UserError("it does not load")

    monkeypatch.setattr(step, "validate", fail_for_s)
    with pytest.raises(UserError, match=r"^s: it does not load \(pushed all the same: xl\)$"):
        push_to(target, made, tmp_path / "record")
    storage = open_storage(target)
    assert read_pointer(storage, "s") is None
    assert read_pointer(storage, "xl") is not None
    assert "[push] s: NOT pushed: it does not load" in capsys.readouterr().out
    assert not (tmp_path / "record" / "manifest.json").exists()


def test_a_decision_for_another_family_or_evaluation_pushes_nothing(made, make, push_to, queried, tmp_path):
    other = make("second", baseline="baseline-s")
    for wrong in (made._replace(students=other.students), made._replace(evaluation=other.evaluation)):
        with pytest.raises(UserError, match="nothing was pushed"):
            push_to(tmp_path / "pushed", wrong, tmp_path / "record")
    assert not (tmp_path / "pushed").exists()


def test_a_family_without_recorded_logits_is_refused(made, push_to, queried, tmp_path):
    family = json.loads((made.students / "family.json").read_text())
    for member in family["students"].values():
        del member["reference"]
    facts = step._Judged(*(open_artifact(path, kind) for path, kind in zip(made, step_kinds(), strict=True)))
    facts.members = family["students"]
    with pytest.raises(UserError, match=r"holds no recorded logits of s: run extract_students again"):
        step._push_one(PushConfig(target=str(tmp_path)), open_storage(str(tmp_path / "pushed")), "s", facts, None)


def step_kinds():
    return "GateDecision", "StudentFamily", "EvaluationReport"


@pytest.mark.parametrize("target", ["s3://bucket", "file:///models", "gs://"])
def test_a_target_of_another_kind_is_refused_when_the_recipe_is_read(target):
    with pytest.raises(UserError, match=r"push\.target must be a local directory or gs://bucket/prefix, got '.*:/"):
        PushConfig.from_dict({"target": target}, "push")


def test_a_target_that_cannot_be_written_is_named_with_the_setting(made, push_to, queried, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*file/pushed.*choose another push\.target"):
        push_to(tmp_path / "file" / "pushed", made, tmp_path / "record")


def test_a_push_that_fails_leaves_the_record_of_the_one_before(made, push_to, queried, tmp_path, monkeypatch):
    record = push_to(tmp_path / "pushed", made, tmp_path / "record")

    def fails(config, storage, size, facts, queries):
        raise UserError("the disk is full")

    monkeypatch.setattr(step, "_push_one", fails)
    with pytest.raises(UserError, match="s: the disk is full; xl: the disk is full"):
        push_to(tmp_path / "pushed", made, tmp_path / "record")
    assert open_artifact(tmp_path / "record", "PushRecord") == record
    assert record_of(record)["s"]["pushed"]


def test_the_record_holds_a_serving_manifest_and_a_card_of_each_pushed_student(
    target, make, push_to, queried, tmp_path
):
    artifact = push_to(target, make("first", baseline="baseline-s"), tmp_path / "record")
    record = record_of(artifact)
    files = ["cards/s.md", "cards/xl.md", "push.json", "serving/s.yaml", "serving/xl.yaml"]
    assert sorted(files_of(artifact.path)) == files
    for size in ("s", "xl"):
        service = yaml.safe_load((artifact.path / record[size]["manifest_path"]).read_text())
        uri = service["spec"]["predictor"]["model"]["storageUri"]
        assert uri.removeprefix("file://") == record[size]["path"]
        assert record[size]["digest"] in (artifact.path / record[size]["model_card"]).read_text()


def test_sizes_that_would_be_served_under_one_name_are_refused_before_anything_is_pushed(
    made, push_to, queried, tmp_path, monkeypatch
):
    monkeypatch.setattr(ServingConfig, "service_name", lambda config, size: "matta-same")
    with pytest.raises(UserError, match=r"sizes 's' and 'xl' would both be served as 'matta-same'"):
        push_to(tmp_path / "pushed", made, tmp_path / "record")
    assert not (tmp_path / "pushed").exists()


def test_a_broken_pointer_is_named(target, made, push_to, queried, tmp_path):
    storage = open_storage(target)
    storage.write("s/current.json", b'{"version": ', expected=None)
    with pytest.raises(UserError, match=r"s/current\.json is no pointer .*push again"):
        push_to(target, made, tmp_path / "record")
    assert storage.read("s/current.json")[0] == b'{"version": '


def test_the_content_digest_depends_on_names_and_bytes_and_on_nothing_else(tmp_path):
    for name, file, text in [("a", "x", "1"), ("b", "x", "1"), ("c", "y", "1"), ("d", "x", "2")]:
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text(text)
    os.utime(tmp_path / "b" / "x", (0, 0))
    (tmp_path / "b" / "manifest.json").write_text("{}")
    a, b, c, d = (content_digest(tmp_path / name) for name in "abcd")
    assert a == b
    assert len({a, c, d}) == 3


def test_a_version_of_other_content_under_the_same_name_is_an_error_that_names_both(
    target, made, push_to, queried, tmp_path
):
    record = record_of(push_to(target, made, tmp_path / "record"))
    digest, storage = record["s"]["digest"], open_storage(target)
    name = f"s/versions/{digest[:16]}/manifest.json"
    data, generation = storage.read(name)
    other = digest[:16] + "0" * 48
    manifest = json.loads(data) | {"key": other}
    body = {name: value for name, value in manifest.items() if name not in ("digest", "created_at", "seconds")}
    storage.write(name, json.dumps(manifest | {"digest": digest_of(body)}).encode(), expected=generation)
    with pytest.raises(UserError, match=rf"holds the content {other}, not {digest}"):
        push_to(target, made, tmp_path / "record")


def test_a_file_that_is_not_the_models_is_named(target, made, push_to, queried, tmp_path):
    storage, digest = open_storage(target), content_digest(made.students / "s")
    storage.write(f"s/versions/{digest[:16]}/model.py", b"import os", expected=None)
    with pytest.raises(UserError, match=r"model\.py is no file of this version: remove it"):
        push_to(target, made, tmp_path / "record")
    assert read_pointer(storage, "s") is None


def test_a_half_written_version_is_gone_on_with(target, made, push_to, queried, tmp_path):
    storage, digest = open_storage(target), content_digest(made.students / "s")
    folder = f"s/versions/{digest[:16]}"
    storage.upload(made.students / "s" / "model.safetensors", f"{folder}/model.safetensors")
    storage.write(f"{folder}/nested/tokenizer.json", b"half", expected=None)
    (kept,) = (entry for entry in storage.list(folder) if entry.name.endswith("model.safetensors"))
    with pytest.raises(UserError, match=r"manifest\.json is missing: \w+ is no whole version of size 's'"):
        version_digest(storage, "s", digest[:16])
    push_to(target, made, tmp_path / "record")
    assert kept in storage.list(folder)
    assert content_digest(fetch(storage, "s", digest[:16], tmp_path / "fetched")) == digest


def test_a_reference_that_is_missing_is_put_back(target, made, push_to, queried, tmp_path):
    record = record_of(push_to(target, made, tmp_path / "record"))
    storage, name = open_storage(target), f"s/references/{record['s']['version']}.safetensors"
    (entry,) = (entry for entry in storage.list("s") if entry.name == name)
    storage.delete(entry)
    push_to(target, made, tmp_path / "record")
    assert storage.read(name)[0] == b"first logits of s"


def test_a_version_that_is_fetched_again_downloads_only_what_is_missing(
    gcs_target, made, push_to, queried, tmp_path, monkeypatch
):
    record = record_of(push_to(gcs_target, made, tmp_path / "record"))
    storage, version = open_storage(gcs_target), record["s"]["version"]
    place = fetch(storage, "s", version, tmp_path / "fetched")
    (place / "nested" / "tokenizer.json").write_text("half")
    downloaded, real = [], storage.download
    monkeypatch.setattr(storage, "download", lambda name, file: downloaded.append(name) or real(name, file))
    assert fetch(storage, "s", version, tmp_path / "fetched") == place
    assert [Path(name).name for name in downloaded] == ["tokenizer.json", "manifest.json"]


def test_what_is_no_versions_name_is_refused(target):
    with pytest.raises(UserError, match=r"16 hexadecimal digits, got '\.\./\.\./etc'"):
        version_digest(open_storage(target), "s", "../../etc")


def test_a_missing_version_is_told_with_those_that_are_there(target, made, push_to, queried, tmp_path):
    record = record_of(push_to(target, made, tmp_path / "record"))
    with pytest.raises(UserError, match=rf"no whole version of size 's'. Versions there: {record['s']['version']}$"):
        fetch(open_storage(target), "s", "0" * 16, tmp_path)


def test_another_push_that_wins_is_named_and_nothing_is_lost(target, made, make, push_to, tmp_path, monkeypatch):
    other = make("second")

    def another_push_wins(*arguments):
        monkeypatch.setattr(step, "validate", lambda *arguments: None)
        push_to(target, other, tmp_path / "other")

    monkeypatch.setattr(step, "validate", another_push_wins)
    winner = content_digest(other.students / "s")[:16]
    message = rf"s/current\.json was moved .*no version was expected, {winner} \(moved at .* by .*process.*\) won"
    with pytest.raises(UserError, match=message):
        push_to(target, made, tmp_path / "record")
    storage = open_storage(target)
    assert read_pointer(storage, "s").version == winner
    assert len(versions_there(storage, "s")) == 2
    record = record_of(push_to(target, made, tmp_path / "record"))
    assert record["s"]["before"] == winner


def test_a_student_is_pushed_only_over_what_it_was_compared_with(target, make, push_to, queried, tmp_path):
    first, second = make("first"), make("second")  # both judged where nothing was served
    push_to(target, first, tmp_path / "first", stale=True)
    served = read_pointer(open_storage(target), "s")
    with pytest.raises(
        UserError, match=rf"^s: it was judged against nothing served, but {served.version} .* is served now"
    ):
        push_to(target, second, tmp_path / "second", stale=True)
    compared_with_another = make("third", baseline="baseline-s")
    with pytest.raises(UserError, match=r"^s: it was judged against 0123456789abcdef, but .*: run the pipeline again"):
        push_to(target, compared_with_another, tmp_path / "third", stale=True)
    assert read_pointer(open_storage(target), "s") == served
    push_to(target, first, tmp_path / "first", stale=True)  # what is served already is never stale
