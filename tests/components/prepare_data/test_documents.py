import gzip
import json
import unicodedata
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.prepare_data.documents import (
    Problem,
    SourceFile,
    content_hash,
    find_files,
    fingerprint,
    normalise,
    read_documents,
    shard_counts,
    shard_names,
    shard_of,
    split_of,
    tokenizer_files,
)
from matta_core.errors import UserError

TEXTS = ["one\n", "zwei ümläut", "三", ""]
any_text = st.text(st.characters(exclude_categories=["Cs"]))


def read(path: Path, text_field="text"):
    return [text for _, text in read_documents(SourceFile(str(path), path.name), text_field)]


def only_problem(path: Path, text_field="text") -> Problem:
    (problem,) = [text for text in read(path, text_field) if isinstance(text, Problem)]
    return problem


def test_the_standard_library_comes_without_tests_and_other_peoples_packages():
    files = find_files("stdlib")
    assert len(files) > 300
    assert {"argparse.py", "asyncio/base_events.py"} <= {file.name for file in files}
    for file in files:
        assert not {"test", "tests", "idle_test", "site-packages", "_bundled"} & set(Path(file.name).parts)


def test_a_glob_crosses_folders_and_sorts_by_name(tmp_path):
    (tmp_path / "b").mkdir()
    for name in ("c.txt", "b/a.txt", "a.md"):
        (tmp_path / name).write_text(name)
    assert [file.name for file in find_files(f"{tmp_path}/**/*.txt")] == [f"{tmp_path}/b/a.txt", f"{tmp_path}/c.txt"]


def test_a_source_that_matches_nothing_is_named(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=r"source = '.*/folder' matches no file .*FOLDER/\*\*/\*\.txt"):
        find_files(str(tmp_path / "folder"))


def test_every_format_yields_the_same_texts(tmp_path):
    lines = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS)
    (tmp_path / "a.jsonl").write_text(lines)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    pq.write_table(pa.table({"text": TEXTS, "other": [1, 2, 3, 4]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"text": pa.array(TEXTS).dictionary_encode()}), tmp_path / "b.parquet")
    for name in ("a.jsonl", "a.jsonl.gz", "a.parquet", "b.parquet"):
        assert read(tmp_path / name) == TEXTS
    (tmp_path / "a.txt").write_bytes(lines.encode())
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(lines.encode()))
    assert read(tmp_path / "a.txt") == read(tmp_path / "a.txt.gz") == [lines]


def test_another_field_can_hold_the_text(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"content": "x"}\n\n{"content": "y"}\n')
    pq.write_table(pa.table({"content": ["x", "y"]}), tmp_path / "a.parquet")
    assert read(tmp_path / "a.jsonl", "content") == read(tmp_path / "a.parquet", "content") == ["x", "y"]


def test_invalid_utf8_is_told_with_its_byte_and_offset(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"abc\xff")
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "fine"}\n{"text": "\xfe"}\n')
    binary = pa.array([b"fine", b"ab\xc3"], type=pa.binary())
    pq.write_table(pa.table({"text": binary}), tmp_path / "a.parquet")
    for name, message in {
        "a.txt": "a.txt is not UTF-8: byte 0xff at offset 3",
        "a.jsonl": "a.jsonl:2 is not UTF-8: byte 0xfe at offset 27",
        "a.parquet": "a.parquet:2 is not UTF-8: byte 0xc3 at offset 2",
    }.items():
        assert only_problem(tmp_path / name) == Problem(message, invalid_utf8=True)


def test_half_a_surrogate_pair_in_json_counts_as_invalid_utf8(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "ab\\ud800"}\n')
    problem = only_problem(tmp_path / "a.jsonl")
    assert problem == Problem("a.jsonl:1 is not Unicode: lone surrogate \\ud800 at character 2", invalid_utf8=True)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"text": "x"\n', "a.jsonl:1 is not JSON"),
        ("a.jsonl", b'{"body": "x"}\n', "a.jsonl:1 has no string 'text', got {'body': 'x'}"),
        ("a.jsonl", b'{"text": null}\n', "a.jsonl:1 has no string 'text'"),
        ("a.jsonl", b"[1]\n", "a.jsonl:1 has no string 'text'"),
        ("a.jsonl.gz", gzip.compress(b'{"text": "x"}\n' * 1000)[:-9], "a.jsonl.gz cannot be read"),
        ("a.txt.gz", b"not gzip", "a.txt.gz cannot be read: Not a gzipped file"),
        ("a.parquet", b"PAR1 not parquet", "a.parquet cannot be read"),
    ],
)
def test_what_cannot_be_read_is_told_with_its_place(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    problem = only_problem(tmp_path / name)
    assert message in problem.message
    assert not problem.invalid_utf8


def test_a_parquet_column_must_exist_and_hold_text(tmp_path):
    pq.write_table(
        pa.table({"id": [1], "text": [None]}, schema=pa.schema({"id": pa.int64(), "text": pa.string()})),
        tmp_path / "a.parquet",
    )
    assert only_problem(tmp_path / "a.parquet", "body").message == (
        "a.parquet has no column 'body', only id, text: set text_field"
    )
    assert "a.parquet cannot be read" in only_problem(tmp_path / "a.parquet", "id").message
    assert only_problem(tmp_path / "a.parquet").message == "a.parquet:1 has no text: null"


@given(any_text)
def test_normalising_twice_changes_nothing_more(text):
    once = normalise(text)
    assert normalise(once) == once
    assert "\r" not in once
    assert once == once.rstrip()
    assert unicodedata.is_normalized("NFC", once)


def test_spellings_of_one_text_have_one_hash():
    spellings = ["é\n\n  x", "e\u0301\r\n\r\n  x\r\n", "\ufeffé\r\r  x \n\t"]
    assert {normalise(text) for text in spellings} == {"é\n\n  x"}


def test_leading_indentation_is_kept():
    assert normalise("    x") == "    x"


def test_the_splits_take_their_share_of_all_hashes():
    digests = [content_hash(str(i)) for i in range(4000)]
    held_out = sum(split_of(digest, 0.25) == "validation" for digest in digests)
    assert abs(held_out / 4000 - 0.25) < 4 * (0.25 * 0.75 / 4000) ** 0.5  # four standard deviations
    # More is held out by a larger fraction, nothing moves back.
    assert all(split_of(d, 0.4) == "validation" for d in digests if split_of(d, 0.25) == "validation")


def test_validation_shards_are_about_as_large_as_those_of_train():
    assert shard_counts(4, 0.05) == {"train": 4, "validation": 1}
    assert shard_counts(100, 0.05) == {"train": 100, "validation": 5}
    assert shard_counts(10, 0.5) == {"train": 10, "validation": 10}


@given(any_text, st.integers(1, 20), st.floats(0.01, 0.5))
def test_every_document_has_a_shard_of_its_split(text, num_shards, fraction):
    counts = shard_counts(num_shards, fraction)
    digest = content_hash(text)
    name = shard_of(digest, fraction, counts)
    assert name in shard_names(counts)
    assert name.startswith(split_of(digest, fraction))


def test_the_fingerprint_follows_contents_and_names(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    first = fingerprint(find_files(f"{tmp_path}/*.txt"))
    (tmp_path / "a.txt").touch()
    assert fingerprint(find_files(f"{tmp_path}/*.txt")) == first
    (tmp_path / "a.txt").write_text("y")
    assert fingerprint(find_files(f"{tmp_path}/*.txt")) != first


def test_a_tokenizer_in_a_folder_is_known_by_its_files(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "model.safetensors").write_text("large")
    assert [file.name for file in tokenizer_files(str(tmp_path))] == ["tokenizer.json"]
    assert tokenizer_files("gpt2") == tokenizer_files(None) == []
