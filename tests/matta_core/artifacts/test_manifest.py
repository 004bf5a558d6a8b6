import json
import ntpath
import posixpath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from matta_core.artifacts import (
    IN_PROGRESS,
    MANIFEST,
    REFERENCE,
    canonical_json,
    check_relative_name,
    digest_of,
    open_artifact,
    parse_manifest,
    read_manifest,
)
from matta_core.errors import UserError


def sealed(path, **changes):
    """A manifest with other values, whose digest is right."""
    values = json.loads((path / MANIFEST).read_text()) | changes
    body = {name: value for name, value in values.items() if name not in ("digest", "created_at", "seconds")}
    return json.dumps(values | {"digest": digest_of(body)}).encode()


FILE = {"bytes": 3, "sha256": "a" * 64}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"files": {"../../x": FILE}}, r"names the file ../../x, which is no plain relative name"),
        ({"files": {"/etc/x": FILE}}, r"names the file /etc/x, which is no plain relative name"),
        ({"files": {"a\\b": FILE}}, r"names the file a\\b, which is no plain relative name"),
        ({"files": {"": FILE}}, r"names the file '', which is no plain relative name"),
        ({"files": {"x" * 256: FILE}}, r"names the file x+\.\.\., which is no plain relative name"),
        ({"files": {MANIFEST: FILE}}, r"lists manifest.json, which no artifact can hold as a file"),
        ({"files": {REFERENCE: FILE}}, r"lists stored_at.json, which no artifact can hold as a file"),
        ({"files": {f"{IN_PROGRESS}/x": FILE}}, r"lists .in_progress/x, which no artifact can hold as a file"),
        ({"files": {"a": FILE, "a/b": FILE}}, r"lists a/b, which no artifact can hold as a file"),
        ({"files": {"a": 3}}, r"manifest.json is not to be believed: files.a must be an object, got 3"),
        ({"files": {"a": {"bytes": True, "sha256": "a" * 64}}}, r"files.a.bytes must be a whole number, got true"),
        ({"files": {"a": {"bytes": -1, "sha256": "a" * 64}}}, r"a must have its bytes and its sha256"),
        ({"files": {"a": {"bytes": 1, "sha256": "A" * 64}}}, r"a must have its bytes and its sha256"),
        ({"files": []}, r"files must be an object, got \[\]"),
        ({"kind": None}, r"kind must be a text, got null"),
        ({"key": 3}, r"key must be a text, got 3"),
        ({"inputs": {"dataset": None}}, r"inputs.dataset must be a text, got null"),
        ({"metadata": "x"}, r"metadata must be an object, got .x"),
        ({"seconds": True}, r"seconds must be a number, got true"),
        ({"seconds": "fast"}, r"seconds must be a number, got .fast"),
        ({"schema_version": True}, r"has schema version True, this program reads 1"),
    ],
)
def test_a_manifest_is_not_believed_because_its_digest_is_right(artifact, changes, message):
    data = sealed(artifact.path, **changes)
    (artifact.path / MANIFEST).write_bytes(data)
    for read in (
        lambda: open_artifact(artifact.path, "Thing"),
        lambda: read_manifest(artifact.path),
        lambda: parse_manifest(data, "gs://b/manifest.json"),
    ):
        with pytest.raises(UserError, match=message) as told:
            read()
        assert len(str(told.value).splitlines()) == 1


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


MANIFEST_FIELDS = {
    "kind": "Thing",
    "schema_version": 1,
    "key": "k",
    "files": {"a.txt": {"bytes": 3, "sha256": "a" * 64}},
    "inputs": {"from": "d" * 64},
    "metadata": {"rows": 3},
    "digest": "e" * 64,
    "created_at": "2026-01-01T00:00:00Z",
    "seconds": 1.5,
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(JSON, st.sampled_from([None, *MANIFEST_FIELDS]), st.booleans())
@settings(max_examples=200)
def test_whatever_a_manifest_holds_the_answer_is_its_values_or_one_line(value, field, seal):
    """Any JSON in place of all of it, or of one field, with a digest that is right or wrong."""
    if field is None:
        manifest = value
    else:
        manifest = {**MANIFEST_FIELDS, field: value}
        if seal:
            body = {name: each for name, each in manifest.items() if name not in ("digest", "created_at", "seconds")}
            manifest["digest"] = digest_of(body)
    try:
        assert parse_manifest(json.dumps(manifest).encode(), "here") == manifest
    except UserError as error:
        assert len(str(error).splitlines()) == 1
        assert str(error).startswith("here")


@given(JSON)
@settings(max_examples=60)
def test_canonical_json_keeps_the_value_and_does_not_depend_on_key_order(value):
    assert json.loads(canonical_json(value)) == value
    if isinstance(value, dict):
        assert digest_of(dict(reversed(value.items()))) == digest_of(value)


def test_canonical_json_refuses_nan():
    with pytest.raises(ValueError, match="JSON compliant"):
        canonical_json({"loss": float("nan")})
