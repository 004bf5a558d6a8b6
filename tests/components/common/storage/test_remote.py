"""Documents on gs://, with the real client against a server on loopback."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage

from components.common.storage.listing import find_files
from components.prepare_data.fingerprint import fingerprint
from components.prepare_data.readers import Problem, read_documents
from components.prepare_data.step import prepare_data
from matta_core.errors import UserError
from matta_core.recipe import PrepareDataConfig

TEXTS = [f"document {i}: " + f"the number {i} and {i * i}, " * (i % 7 + 1) for i in range(80)]


@pytest.fixture
def bucket(gcs_target):
    return storage.Client(project="emulator", credentials=AnonymousCredentials()).bucket(gcs_target.split("/")[2])


def jsonl(texts):
    return "".join(json.dumps({"text": text}) + "\n" for text in texts)


def test_a_glob_matches_the_same_names_in_a_bucket_as_on_disk(bucket, tmp_path):
    names = ("a.txt", "b/c.txt", "b/d/e.txt", "b/d/f.md", "_SUCCESS", "b/_SUCCESS", "xa.txt", "b/[odd] name.txt")
    names += (".dot.txt", "b/.dots/e.txt", "_committed_7", "c [v2]/a.txt", "c v/a.txt", "c [v2]/[x].txt")
    for name in names:
        bucket.blob(f"docs/{name}").upload_from_string(name)
        (tmp_path / "docs" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "docs" / name).write_text(name)
    bucket.blob("docs/folder/").upload_from_string("")  # what a console makes of an empty folder
    for glob in (
        "docs/*",
        "docs/*.txt",
        "docs/**/*.txt",
        "docs/**/e.*",
        "docs/b/**/*",
        "do*/a.txt",
        "docs/?a.txt",
        "docs/c [v2]/*",
        "docs/c [v2]/[x].txt",
        "docs/.*",
    ):
        remote = [file.name.removeprefix(f"gs://{bucket.name}/") for file in find_files(f"gs://{bucket.name}/{glob}")]
        local = [file.name.removeprefix(f"{tmp_path}/") for file in find_files(f"{tmp_path}/{glob}")]
        assert remote == local, glob


def test_every_format_is_read_from_a_bucket(bucket, tmp_path):
    pq.write_table(pa.table({"text": TEXTS}), tmp_path / "a.parquet")
    bucket.blob("docs/a.jsonl").upload_from_string(jsonl(TEXTS))
    bucket.blob("docs/b.jsonl.gz").upload_from_string(gzip.compress(jsonl(TEXTS).encode()))
    bucket.blob("docs/c.parquet").upload_from_filename(str(tmp_path / "a.parquet"))
    for file in find_files(f"gs://{bucket.name}/docs/*"):
        assert [text for _, text in read_documents(file, "text")] == TEXTS
    bucket.blob("docs/d.txt").upload_from_string("one text")
    assert list(read_documents(find_files(f"gs://{bucket.name}/docs/d.txt")[0], "text")) == [
        (f"gs://{bucket.name}/docs/d.txt", "one text")
    ]


def test_the_fingerprint_follows_the_contents_and_needs_no_reading(bucket, monkeypatch):
    source = f"gs://{bucket.name}/docs/*"
    bucket.blob("docs/a.txt").upload_from_string("one")
    monkeypatch.setattr("components.prepare_data.readers.open_remote", None)
    first = fingerprint(find_files(source))
    bucket.blob("docs/a.txt").upload_from_string("one")  # another generation of the same content
    assert fingerprint(find_files(source)) == first
    bucket.blob("docs/a.txt").upload_from_string("two")
    assert fingerprint(find_files(source)) != first


def test_a_file_that_was_replaced_since_it_was_listed_is_not_read_as_if_it_were_the_same(bucket):
    bucket.blob("docs/a.txt").upload_from_string("one")
    (file,) = find_files(f"gs://{bucket.name}/docs/a.txt")
    bucket.blob("docs/a.txt").upload_from_string("two")
    ((place, problem),) = read_documents(file, "text")
    assert isinstance(problem, Problem)
    assert f"{place} cannot be read: 404" in problem.message


@pytest.mark.parametrize("num_workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_the_same_documents_give_the_same_sequences_from_a_bucket_as_from_disk(bucket, tmp_path, num_workers):
    (tmp_path / "docs").mkdir()
    for name, texts in (("a", TEXTS[:30]), ("b", TEXTS[30:])):
        bucket.blob(f"docs/{name}.jsonl").upload_from_string(jsonl(texts))
        (tmp_path / "docs" / f"{name}.jsonl").write_text(jsonl(texts))
    settings = {"sequence_length": 16, "vocab_size": 300, "validation_fraction": 0.25, "num_workers": num_workers}
    artifacts = [
        prepare_data(PrepareDataConfig(source=source, **settings), output=tmp_path / name)
        for name, source in (("remote", f"gs://{bucket.name}/docs/*"), ("local", f"{tmp_path}/docs/*"))
    ]
    files = [json.loads((artifact.path / "manifest.json").read_text())["files"] for artifact in artifacts]
    made = [{name: facts for name, facts in some.items() if "documents" not in name} for some in files]
    assert made[0] == made[1]
    assert len(made[0]) > 5


def test_a_missing_bucket_and_a_source_that_matches_nothing_are_told_apart(bucket):
    with pytest.raises(UserError, match=r"gs://no-such-bucket: there is no such bucket"):
        find_files("gs://no-such-bucket/*.txt")
    with pytest.raises(UserError, match=rf"source = 'gs://{bucket.name}/\*.txt' matches no file: correct it"):
        find_files(f"gs://{bucket.name}/*.txt")
