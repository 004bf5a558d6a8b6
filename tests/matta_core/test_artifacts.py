import json
import ntpath
import posixpath
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from matta_core.artifacts import (
    IN_PROGRESS,
    MANIFEST,
    canonical_json,
    check_relative_name,
    digest_of,
    finish_artifact,
    open_artifact,
    point_to,
)
from matta_core.errors import UserError


@pytest.fixture
def artifact(tmp_path):
    path = tmp_path / "thing"
    (path / "deep").mkdir(parents=True)
    (path / "a.txt").write_text("one")
    (path / "deep" / "b.txt").write_text("two")
    return finish_artifact(path, "Thing", key="k", inputs={"from": "d" * 64}, metadata={"rows": 3}, seconds=1.5)


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


def test_unfinished_work_is_no_part_of_it(artifact):
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


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (flip_a_letter, r"thing/a.txt was altered \(its sha256 does not match the manifest\): delete .*thing"),
        (cut_short, r"thing/deep/b.txt has 2 bytes, its manifest says 3"),
        (take_away, r"thing/a.txt is missing: delete .*thing and run the step"),
        (add_a_file, r"thing/deep/new.txt is not in the manifest: remove it"),
        (no_manifest, r"thing/manifest.json is missing, so .*thing is no finished artifact: run the step"),
        (half_a_manifest, r"thing/manifest.json is not JSON"),
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


def test_another_kind_and_a_path_with_nothing_are_refused(artifact, tmp_path):
    with pytest.raises(UserError, match=r"is a Thing, not a Dataset: give the path of a Dataset"):
        open_artifact(artifact.path, "Dataset")
    with pytest.raises(UserError, match=r"there is no artifact at .*nowhere"):
        open_artifact(tmp_path / "nowhere", "Thing")


@pytest.mark.parametrize(
    "name",
    [
        "../x", "a/../../x", "..", ".", "./a", "a/.", "/etc/passwd", "", "a//b", "a/", "//host/x", "..\\x", "a\\b",
        "C:\\x", "C:/x", "c:x", "a\0b", "a\nb", "\x1b[2J", "\ud800", "x" * 5000 + "\0", None, 3, ["a"], b"a",
    ],
)  # fmt: skip
def test_a_name_that_is_not_plain_and_relative_is_refused(name):
    with pytest.raises(UserError, match=r"^the manifest of here names the file .*no plain relative name") as error:
        check_relative_name(name, "the manifest of here")
    assert len(str(error.value).splitlines()) == 1
    assert len(str(error.value)) < 300


@pytest.mark.parametrize("name", ["a.txt", "deep/b.txt", "..a", "a..", "a b/ü", ".hidden", "part-00000-of-00002:x"])
def test_a_plain_relative_name_is_taken(name):
    check_relative_name(name, "the manifest of here")


@given(st.text())
def test_a_name_that_is_taken_stays_below_the_folder_on_any_system(name):
    try:
        check_relative_name(name, "here")
    except UserError:
        return
    for system in (posixpath, ntpath):
        joined = system.normpath(system.join("/folder", name))
        assert joined.startswith(system.normpath("/folder") + system.sep)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(JSON)
@settings(max_examples=60)
def test_canonical_json_keeps_the_value_and_does_not_depend_on_key_order(value):
    assert json.loads(canonical_json(value)) == value
    if isinstance(value, dict):
        assert digest_of(dict(reversed(value.items()))) == digest_of(value)


def test_canonical_json_refuses_nan():
    with pytest.raises(ValueError, match="JSON compliant"):
        canonical_json({"loss": float("nan")})
