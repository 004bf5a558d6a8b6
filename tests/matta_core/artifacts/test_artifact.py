import json
import os
import shutil

import pytest

from matta_core.artifacts import (
    IN_PROGRESS,
    LOCK,
    MANIFEST,
    REFERENCE,
    finish_artifact,
    open_artifact,
    point_to,
)
from matta_core.errors import UserError


def test_what_was_written_is_read_back(artifact):
    assert open_artifact(artifact.path, "Thing") == artifact
    assert artifact.inputs == {"from": "d" * 64}
    assert artifact.metadata == {"rows": 3}


def test_the_digest_is_of_the_content_and_not_of_the_time_it_took(artifact):
    again = finish_artifact(
        artifact.path, "Thing", key="k", inputs={"from": "d" * 64}, metadata={"rows": 3}, seconds=99.0
    )
    assert again.digest == artifact.digest
    (artifact.path / "a.txt").write_text("uno")
    changed = finish_artifact(artifact.path, "Thing", key="k", inputs={"from": "d" * 64}, metadata={"rows": 3})
    assert changed.digest != artifact.digest


def test_unfinished_work_and_the_empty_lock_are_no_part_of_it(artifact):
    (artifact.path / LOCK).touch()
    (artifact.path / IN_PROGRESS).mkdir()
    (artifact.path / IN_PROGRESS / "state").write_text("x")
    assert open_artifact(artifact.path, "Thing") == artifact


def flip_a_letter(path):
    (path / "a.txt").write_text("onf")


def cut_short(path):
    (path / "deep" / "b.txt").write_text("tw")


def take_away(path):
    (path / "a.txt").unlink()


def add_a_file(path):
    (path / "deep" / "new.txt").write_text("")


def no_manifest(path):
    (path / MANIFEST).unlink()


def half_a_manifest(path):
    (path / MANIFEST).write_text((path / MANIFEST).read_text()[:-30])


def change_lineage(path):
    (path / MANIFEST).write_text((path / MANIFEST).read_text().replace("d" * 64, "e" * 64))


def change_schema(path):
    (path / MANIFEST).write_text((path / MANIFEST).read_text().replace('"schema_version": 1', '"schema_version": 2'))


def link_a_folder(path):
    (path.parent / "elsewhere").mkdir()
    (path.parent / "elsewhere" / "code.py").write_text("evil")
    (path / "linked").symlink_to(path.parent / "elsewhere")


def link_unfinished_work(path):
    (path.parent / "elsewhere").mkdir()
    (path / IN_PROGRESS).symlink_to(path.parent / "elsewhere")


def nest_unfinished_work(path):
    (path / "deep" / IN_PROGRESS).mkdir()
    (path / "deep" / IN_PROGRESS / "x").write_text("")


def add_beside_the_manifest(path):
    (path / f".{MANIFEST}.tmp").write_text("{}")


def add_another_manifest(path):
    (path / f".{MANIFEST}-old").write_text("{}")


def add_a_reference(path):
    other = path.parent / "other"
    other.mkdir()
    point_to(finish_artifact(other, "Thing", key="k"), path)


def fill_the_lock(path):
    (path / LOCK).write_text("hidden")


def nest_a_lock(path):
    (path / "deep" / LOCK).touch()


def add_a_pipe(path):
    os.mkfifo(path / "pipe")


def replace_by_a_pipe(path):
    (path / "a.txt").unlink()
    os.mkfifo(path / "a.txt")


def replace_by_a_folder(path):
    (path / "a.txt").unlink()
    (path / "a.txt").mkdir()


def link_to_nothing(path):
    (path / "dangling").symlink_to("nowhere")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (link_a_folder, r"thing/linked is a link to a folder, which no manifest covers: put the folder there"),
        (link_unfinished_work, r"thing/.in_progress is a link to a folder"),
        (nest_unfinished_work, r"thing/deep/.in_progress/x is not in the manifest: remove it"),
        (add_beside_the_manifest, r"thing/.manifest.json.tmp is not in the manifest: remove it"),
        (add_another_manifest, r"thing/.manifest.json-old is not in the manifest: remove it"),
        (add_a_reference, r"thing/stored_at.json is not in the manifest: remove it"),
        (fill_the_lock, r"thing/.lock is not in the manifest: remove it"),
        (nest_a_lock, r"thing/deep/.lock is not in the manifest: remove it"),
        (add_a_pipe, r"thing/pipe is neither a file nor a folder: remove it"),
        (replace_by_a_pipe, r"thing/a.txt is neither a file nor a folder: remove it"),
        (replace_by_a_folder, r"thing/a.txt is missing: delete .*thing"),
        (link_to_nothing, r"thing/dangling is neither a file nor a folder: remove it"),
        (flip_a_letter, r"thing/a.txt was altered \(its sha256 does not match the manifest\): delete .*thing"),
        (cut_short, r"thing/deep/b.txt has 2 bytes, its manifest says 3"),
        (take_away, r"thing/a.txt is missing: delete .*thing and run the step"),
        (add_a_file, r"thing/deep/new.txt is not in the manifest: remove it"),
        (no_manifest, r"thing/manifest.json is missing, so .*thing is no finished artifact: run the step"),
        (half_a_manifest, r"thing/manifest.json is not to be believed"),
        (change_lineage, r"thing/manifest.json was altered \(its digest does not match\)"),
        (change_schema, r"thing/manifest.json has schema version 2, this program reads 1"),
    ],
)
def test_a_damaged_artifact_is_refused_and_the_file_named(artifact, damage, message):
    damage(artifact.path)
    with pytest.raises(UserError, match=message):
        open_artifact(artifact.path, "Thing")


def test_a_part_of_an_artifact_is_refused_with_the_whole_named(artifact):
    with pytest.raises(UserError, match=r"so .*thing/deep is no finished artifact: give .*/thing, whose part it is"):
        open_artifact(artifact.path / "deep", "Thing")


def test_a_reference_is_followed_to_the_artifact_that_it_was_made_for(artifact, tmp_path):
    point_to(artifact, tmp_path / "elsewhere")
    assert open_artifact(tmp_path / "elsewhere", "Thing") == artifact
    with pytest.raises(UserError, match=r"is a Thing, not a Dataset"):
        open_artifact(tmp_path / "elsewhere", "Dataset")


def test_a_reference_to_what_has_become_another_artifact_or_none_is_refused(artifact, tmp_path):
    point_to(artifact, tmp_path / "elsewhere")
    (artifact.path / MANIFEST).unlink()
    (artifact.path / "a.txt").write_text("of another run")
    finish_artifact(artifact.path, "Thing", key="0" * 64)
    with pytest.raises(UserError, match=r"elsewhere/stored_at.json points to .*thing with digest .*, which now has"):
        open_artifact(tmp_path / "elsewhere", "Thing")
    shutil.rmtree(artifact.path)
    with pytest.raises(UserError, match=r"there is no artifact at .*thing"):
        open_artifact(tmp_path / "elsewhere", "Thing")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], r"stored_at.json is not to be believed: it must be an object"),
        ({}, r"stored_at.json: digest must be a sha256, got None"),
        ({"digest": "d" * 64}, r"stored_at.json: path must be an absolute path, got None"),
        ({"digest": "d" * 64, "path": 7}, r"stored_at.json: path must be an absolute path, got 7"),
        ({"digest": "d" * 64, "path": "../thing"}, r"path must be an absolute path, got ../thing: run the step that"),
        ({"digest": "d" * 64, "path": "/a\0b"}, r"path must be an absolute path, got '/a.x00b'"),
        ({"digest": ["d"], "path": "/x"}, r"stored_at.json: digest must be a sha256, got \['d'\]"),
        ({"digest": "d" * 64, "path": "/" + "x" * 5000}, r"cannot read /xx.*: File name too long"),
    ],
)
def test_a_reference_that_is_none_is_refused_in_one_line(tmp_path, values, message):
    (tmp_path / REFERENCE).write_text(json.dumps(values))
    with pytest.raises(UserError, match=message) as told:
        open_artifact(tmp_path, "Thing")
    assert len(str(told.value).splitlines()) == 1


@pytest.mark.parametrize("text", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 100_000, b"NaN", b"[1e999]"])
def test_what_is_not_our_json_is_refused_in_one_line(artifact, tmp_path, text):
    (artifact.path / MANIFEST).write_bytes(text)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / REFERENCE).write_bytes(text)
    for path in (artifact.path, tmp_path / "elsewhere"):
        with pytest.raises(UserError, match=r"(manifest|stored_at).json is not to be believed") as told:
            open_artifact(path, "Thing")
        assert len(str(told.value).splitlines()) == 1


def test_references_in_a_circle_are_refused(tmp_path):
    (tmp_path / REFERENCE).write_text(json.dumps({"digest": "d" * 64, "path": str(tmp_path)}))
    with pytest.raises(UserError, match=r"manifest.json is missing, so .* is no finished artifact"):
        open_artifact(tmp_path, "Thing")


def test_a_manifest_without_end_is_not_read_to_its_end(artifact, monkeypatch):
    monkeypatch.setattr("matta_core.artifacts.artifact._LARGEST_BYTES", 100)
    with pytest.raises(UserError, match=r"manifest.json has more than 100 bytes, which we never wrote"):
        open_artifact(artifact.path, "Thing")


def test_what_no_manifest_can_cover_is_not_sealed(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "thing").mkdir()
    (tmp_path / "thing" / "linked").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"thing/linked is a link to a folder"):
        finish_artifact(tmp_path / "thing", "Thing", key="k")


def test_sealing_forgets_the_half_manifest_of_one_who_was_killed(artifact):
    (artifact.path / f".{MANIFEST}.tmp").write_text("{")
    assert finish_artifact(artifact.path, "Thing", key="k", inputs={"from": "d" * 64}, metadata={"rows": 3}).digest == (
        artifact.digest
    )
    open_artifact(artifact.path, "Thing")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_told_in_one_line(artifact):
    (artifact.path / "a.txt").chmod(0)
    with pytest.raises(UserError, match=r"cannot read .*a.txt: Permission denied. Correct the path, or its rights"):
        open_artifact(artifact.path, "Thing")


def test_another_kind_and_a_path_with_nothing_are_refused(artifact, tmp_path):
    with pytest.raises(UserError, match=r"is a Thing, not a Dataset: give the path of a Dataset"):
        open_artifact(artifact.path, "Dataset")
    with pytest.raises(UserError, match=r"there is no artifact at .*nowhere"):
        open_artifact(tmp_path / "nowhere", "Thing")
