"""What lies beside the versions and was not written by push is neither deleted, nor listed, nor believed."""

import json
from pathlib import Path

import pytest

from components.common.served.pointer import read_pointer
from components.common.served.versions import content_digest, fetch, versions_there
from components.common.storage.open_storage import open_storage
from components.push import operations, retention
from matta_core.artifacts import digest_of
from matta_core.errors import UserError
from matta_core.recipe import PushConfig

OTHERS = (
    "s/versions/notes/why.txt",
    "s/versions/0123456789abcdef.good/config.json",
    "s/versions/0123456789ABCDEF/config.json",
    "s/versions/0123456789abcdef",
    "s/versions/readme.md",
    "s/references/notes.txt",
    "s/notes.txt",
    "other/current.txt",
)


@pytest.fixture
def served(target, make, push_to, queried, tmp_path):
    """A storage to which three models were pushed, and the versions of s, oldest first."""
    versions = []
    for content in ("first", "second", "third"):
        made = make(content)
        push_to(target, made, tmp_path / f"record-{content}")
        versions.append(content_digest(made.students / "s")[:16])
    return open_storage(target), versions


def test_other_peoples_files_outlive_every_deletion(served, monkeypatch):
    storage, versions = served
    for name in OTHERS:
        storage.write(name, b"kept", expected=None)
    in_two_days = retention.time.time() + 48 * 3600
    monkeypatch.setattr(retention.time, "time", lambda: in_two_days)
    assert retention.retire(storage, "s", keep=1) == [versions[0]]
    assert {name: storage.read(name)[0] for name in OTHERS} == dict.fromkeys(OTHERS, b"kept")


def test_a_folder_that_is_only_named_as_a_version_is_not_deleted(served, monkeypatch):
    """16 digits: a moment to the hundredth of a second."""
    storage, versions = served
    storage.write("s/versions/2026112514302211/why.txt", b"kept", expected=None)
    in_two_days = retention.time.time() + 48 * 3600
    monkeypatch.setattr(retention.time, "time", lambda: in_two_days)
    assert retention.retire(storage, "s", keep=1) == [versions[0]]
    assert storage.read("s/versions/2026112514302211/why.txt")[0] == b"kept"


def test_other_peoples_names_are_not_told_as_versions(served):
    storage, versions = served
    for name in OTHERS:
        storage.write(name, b"kept", expected=None)
    assert sorted(versions_there(storage, "s")) == sorted(versions)
    assert len(list(operations.history(PushConfig(target=storage.url), "s"))) == 4
    with pytest.raises(UserError, match=rf"Versions there: {', '.join(sorted(versions))}$"):
        operations.pin(PushConfig(target=storage.url), "s", "0" * 16)
    with pytest.raises(UserError, match=r"sizes there: m?,? ?s, xl$"):
        list(operations.history(PushConfig(target=storage.url), "large"))


def test_a_version_in_which_somebody_left_a_file_is_not_deleted_and_the_others_are(served, capsys):
    storage, versions = served
    mine = f"s/versions/{versions[0]}/notes.txt"
    storage.write(mine, b"kept", expected=None)
    assert retention.retire(storage, "s", keep=1) == []
    assert storage.read(mine)[0] == b"kept"
    assert read_pointer(storage, "s").retired == ()
    told = f"{versions[0]} need not be kept, but is not deleted: {storage.location(mine)} is no file of this version"
    assert told in capsys.readouterr().out


def alter_manifest(storage, version, change):
    """As somebody would who can write to the target: the manifest's own digest fits again."""
    name = f"s/versions/{version}/manifest.json"
    data, generation = storage.read(name)
    manifest = json.loads(data)
    change(manifest)
    notes = {note: manifest.pop(note) for note in ("digest", "created_at", "seconds")}
    notes["digest"] = digest_of(manifest)
    storage.write(name, json.dumps(manifest | notes).encode(), expected=generation)


@pytest.mark.parametrize(
    "name",
    [
        "../../outside",
        "/tmp/outside",
        "nested/../../../../outside",
        "..\\outside",
        "C:/outside",
        "",
        ".",
        "a//b",
        "a\nb",
    ],
)
def test_a_manifest_that_names_a_file_elsewhere_is_refused_before_a_byte_is_fetched(
    served, tmp_path, monkeypatch, name
):
    storage, versions = served
    alter_manifest(storage, versions[0], lambda manifest: manifest["files"].update({name: {"bytes": 0, "sha256": "0"}}))
    monkeypatch.setattr(storage, "download", lambda *_: pytest.fail("something was fetched"))
    before = sorted(Path(tmp_path).rglob("*"))
    with pytest.raises(UserError, match=rf"{versions[0]} is damaged .*/manifest.json names the file .* plain relative"):
        fetch(storage, "s", versions[0], tmp_path / "deeply" / "below")
    assert sorted(Path(tmp_path).rglob("*")) == before


def test_a_manifest_whose_files_are_not_its_versions_content_is_refused_before_a_byte_is_fetched(
    served, tmp_path, monkeypatch
):
    storage, versions = served
    alter_manifest(
        storage, versions[0], lambda manifest: manifest["files"].update(extra={"bytes": 1, "sha256": "0" * 64})
    )
    monkeypatch.setattr(storage, "download", lambda *_: pytest.fail("something was fetched"))
    with pytest.raises(UserError, match=r"files that its manifest.json names are not the content"):
        fetch(storage, "s", versions[0], tmp_path / "fetched")


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{",
        b"[" * 100_000,
        b"\xff\xfe",
        b"[]",
        b'{"kind": "PushedModel"}',
        b'{"kind": "PushedModel", "key": 7, "files": {}}',
        b'{"kind": "PushedModel", "key": "x", "files": []}',
        b'{"kind": "PushedModel", "key": "x", "files": {"a": {"bytes": NaN, "sha256": "0"}}}',
        b'{"kind": "PushedModel", "key": "x", "files": {"a": 7}}',
    ],
    ids=lambda damage: damage[:40].decode(errors="replace"),
)
def test_a_manifest_with_other_contents_is_one_line(tmp_path, make, push_to, queried, damage):
    made, target = make("first"), str(tmp_path / "pushed")
    push_to(target, made, tmp_path / "record")
    storage, version = open_storage(target), content_digest(made.students / "s")[:16]
    (tmp_path / "pushed" / "s" / "versions" / version / "manifest.json").write_bytes(damage)
    reason = "is not to be believed: |has schema version None, this program reads 1"
    with pytest.raises(UserError, match=rf"{version} is damaged .*/manifest.json ({reason})") as error:
        fetch(storage, "s", version, tmp_path / "fetched")
    assert "\n" not in str(error.value)
