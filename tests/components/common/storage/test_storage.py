"""What push relies on in a storage, stated once for a directory and for Google Cloud Storage's client and a server."""

import os
import threading
import time

import pytest

from components.common.storage.open_storage import open_storage
from components.common.storage.storage import ConflictError
from matta_core.errors import UserError


@pytest.fixture
def storage(target):
    return open_storage(target)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "weights"
    path.write_bytes(b"weights")
    return path


def test_what_was_written_is_read_with_its_generation(storage):
    assert storage.read("s/current.json") is None
    generation = storage.write("s/current.json", b"one", expected=None)
    assert storage.read("s/current.json") == (b"one", generation)


def test_folders_are_those_right_below_the_target(storage):
    assert storage.folders() == []
    for name in ("s/versions/a", "m/current.json", "spans.json"):
        storage.write(name, b"{}", expected=None)
    assert storage.folders() == ["m", "s"]


def test_everything_is_listed_without_a_folder_and_what_is_listed_can_be_opened(storage):
    for name in ("s/versions/a", "spans.json"):
        storage.write(name, name.encode(), expected=None)
    entries = storage.list("")
    assert [entry.name for entry in entries] == ["s/versions/a", "spans.json"]
    with storage.open(entries[0]) as stream:
        assert stream.read() == b"s/versions/a"
        stream.seek(2)
        assert stream.read(3) == b"ver"


def test_a_write_replaces_only_the_generation_that_it_expects(storage):
    first = storage.write("s/p", b"one", expected=None)
    with pytest.raises(ConflictError):
        storage.write("s/p", b"two", expected=None)
    second = storage.write("s/p", b"two", expected=first)
    with pytest.raises(ConflictError):
        storage.write("s/p", b"three", expected=first)
    assert storage.read("s/p") == (b"two", second)


def test_a_write_that_expects_what_is_gone_conflicts(storage):
    generation = storage.write("s/p", b"one", expected=None)
    storage.delete(storage.list("s")[0])
    with pytest.raises(ConflictError):
        storage.write("s/p", b"two", expected=generation)
    assert storage.read("s/p") is None


def test_generations_do_not_come_back_with_the_content(storage):
    generations = [storage.write("s/p", b"one", expected=None)]
    for content in (b"two", b"one", b"two", b"one"):
        generations.append(storage.write("s/p", content, expected=generations[-1]))
    assert len(set(generations)) == 5


def test_of_racing_writers_exactly_one_wins(storage):
    generation = storage.write("s/p", b"start", expected=None)
    outcomes = []

    def race(number):
        try:
            storage.write("s/p", b"%d" % number, expected=generation)
            outcomes.append("won")
        except ConflictError:
            outcomes.append("lost")

    threads = [threading.Thread(target=race, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["lost"] * 7 + ["won"]


def test_files_are_uploaded_compared_and_downloaded(storage, file, tmp_path):
    assert not storage.holds(file, "s/v/weights")
    storage.upload(file, "s/v/weights")
    assert storage.holds(file, "s/v/weights")
    storage.download("s/v/weights", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == b"weights"
    file.write_bytes(b"WEIGHTS")
    assert not storage.holds(file, "s/v/weights")
    storage.upload(file, "s/v/weights")
    assert storage.read("s/v/weights")[0] == b"WEIGHTS"


def test_downloading_what_is_not_there_names_it_and_leaves_no_file(storage, tmp_path):
    storage.write("s/p", b"one", expected=None)
    with pytest.raises(UserError, match=r"s/v/weights is not there"):
        storage.download("s/v/weights", tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_a_list_has_every_file_below_a_folder_and_no_other(storage, file):
    for name in ("s/versions/b/x", "s/versions/a/nested/y", "s/versions-of-another/z", "s/current.json"):
        storage.upload(file, name)
    entries = storage.list("s/versions")
    assert [entry.name for entry in entries] == ["s/versions/a/nested/y", "s/versions/b/x"]
    assert [entry.bytes for entry in entries] == [7, 7]
    assert all(abs(entry.updated - time.time()) < 60 for entry in entries)
    assert storage.list("nothing") == []


def test_what_is_deleted_is_gone_and_deleting_it_again_does_nothing(storage, file):
    storage.upload(file, "s/versions/a/x")
    (entry,) = storage.list("s")
    storage.delete(entry)
    storage.delete(entry)
    assert storage.list("s") == []
    storage.upload(file, "s/versions/a/x")
    assert storage.holds(file, "s/versions/a/x")


def test_deleting_an_older_generation_leaves_the_newer(tmp_path, file):
    """Of a directory only: fake-gcs-server ignores the generation when it deletes; the real service does not."""
    storage = open_storage(str(tmp_path / "pushed"))
    storage.upload(file, "s/x")
    (old,) = storage.list("s")
    storage.delete(old)
    storage.upload(file, "s/x")
    storage.delete(old)
    assert storage.holds(file, "s/x")


def test_a_deletion_in_gcs_carries_the_generation(gcs_target, file, monkeypatch):
    from google.cloud import storage as google_storage

    storage = open_storage(gcs_target)
    storage.upload(file, "s/x")
    (entry,) = storage.list("s")
    seen = []
    monkeypatch.setattr(google_storage.Blob, "delete", lambda blob, **conditions: seen.append(conditions))
    storage.delete(entry)
    assert seen[0]["if_generation_match"] == int(entry.generation)


def test_a_write_whose_answer_was_lost_is_no_conflict(gcs_target, monkeypatch):
    """The client repeats the request, and the server, which has the first one, refuses the second."""
    from google.cloud import storage as google_storage

    storage = open_storage(gcs_target)
    real = google_storage.Blob.upload_from_string

    def twice(blob, data, **options):
        real(blob, data, **options)
        return real(blob, data, **options)

    monkeypatch.setattr(google_storage.Blob, "upload_from_string", twice)
    generation = storage.write("s/p", b"ours", expected=None)
    assert storage.read("s/p") == (b"ours", generation)


def test_an_upload_in_several_requests_arrives_whole(gcs_target, tmp_path, monkeypatch):
    from components.common.storage import gcs

    monkeypatch.setattr(gcs, "_CHUNK_BYTES", 2**18)
    file = tmp_path / "large"
    file.write_bytes(os.urandom(2**20 + 17))
    storage = open_storage(gcs_target)
    storage.upload(file, "s/large")
    assert storage.holds(file, "s/large")


def test_a_file_that_arrives_altered_is_told(gcs_target, file, monkeypatch):
    from google.cloud import storage as google_storage

    storage = open_storage(gcs_target)

    def alter(blob, filename, **options):
        blob.upload_from_string(b"weightz", if_generation_match=0)

    monkeypatch.setattr(google_storage.Blob, "upload_from_filename", alter)
    with pytest.raises(UserError, match=r"s/x differs from .*weights after its upload"):
        storage.upload(file, "s/x")


@pytest.mark.parametrize("use", ["read", "list", "write", "upload", "download"])
def test_a_missing_bucket_is_named(gcs_server, file, tmp_path, use):
    storage = open_storage("gs://no-such-bucket/models")
    arguments = {
        "read": ("s/p",),
        "list": ("s",),
        "write": ("s/p", b"x"),
        "upload": (file, "s/p"),
        "download": ("s/p", tmp_path / "back"),
    }
    options = {"expected": None} if use == "write" else {}
    with pytest.raises(UserError, match=r"no-such-bucket/models: there is no such bucket|s/p is not there"):
        getattr(storage, use)(*arguments[use], **options)


def test_a_server_that_does_not_answer_is_told_in_one_line(monkeypatch):
    from google.api_core.retry import Retry

    from components.common.storage import gcs

    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9")
    monkeypatch.setattr(gcs, "DEFAULT_RETRY", Retry(predicate=lambda error: False))
    with pytest.raises(UserError, match=r"cannot read s/p in gs://bucket-x/models: .*Check the network"):
        open_storage("gs://bucket-x/models").read("s/p")


def test_no_credentials_are_told_with_the_way_to_get_some(monkeypatch, tmp_path):
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
    with pytest.raises(UserError, match=r"cannot connect to gs://bucket-x/models: .*gcloud auth application-default"):
        open_storage("gs://bucket-x/models")


def test_other_kinds_of_url_are_refused():
    with pytest.raises(UserError, match=r"must be a local directory or gs://bucket/prefix, got 's3://bucket'"):
        open_storage("s3://bucket")


def test_files_that_a_killed_process_left_half_written_go_after_a_day(tmp_path, file):
    storage = open_storage(str(tmp_path / "pushed"))
    storage.upload(file, "s/x")
    folder = tmp_path / "pushed" / ".tmp"
    with storage._temporary() as temporary:  # its name, as a process that is killed leaves it
        left, somebodys = folder / temporary.name, folder / "notes.txt"
    for path in (left, somebodys):
        path.write_text("half")
    storage.upload(file, "s/x")
    assert left.exists()
    for path in (left, somebodys):
        os.utime(path, (time.time() - 25 * 3600,) * 2)
    storage.upload(file, "s/x")
    assert not left.exists()
    assert somebodys.exists()
    assert [entry.name for entry in storage.list("s")] == ["s/x"]


def test_a_pushed_file_can_be_read_by_others(tmp_path, file):
    storage = open_storage(str(tmp_path / "pushed"))
    storage.upload(file, "s/x")
    assert (tmp_path / "pushed/s/x").stat().st_mode & 0o777 == file.stat().st_mode & 0o777
