from pathlib import Path

import pytest

from components.common.storage.listing import find_files
from components.prepare_data.fingerprint import fingerprint, tokenizer_files
from matta_core.errors import UserError


def names(folder, pattern):
    return [file.name.removeprefix(f"{folder}/") for file in find_files(f"{folder}/{pattern}")]


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


def test_a_folder_or_file_that_is_there_as_it_is_written_is_meant(tmp_path):
    for folder, file in (("data [v2]", "a.txt"), ("data [v2]", "[x].txt"), ("data v", "a.txt"), ("b*", "a.txt")):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / file).write_text(file)
    (tmp_path / "bc").mkdir()
    (tmp_path / "bc" / "a.txt").write_text("")
    assert names(tmp_path, "data [v2]/*") == ["data [v2]/[x].txt", "data [v2]/a.txt"]
    assert names(tmp_path, "data [v2]/[x].txt") == ["data [v2]/[x].txt"]
    assert names(tmp_path, "data [v]/*.txt") == ["data v/a.txt"]  # no such folder: any of these letters
    assert names(tmp_path, "b*/a.txt") == ["b*/a.txt"]


def test_what_spark_leaves_beside_the_data_is_no_document(tmp_path):
    (tmp_path / "_delta_log").mkdir()
    for name in ("_SUCCESS", "_committed_1234", "_started_1234", ".part-0.crc", "_metadata", "_delta_log/0.json"):
        (tmp_path / name).write_text("{}")
    for name in ("part-0.json", "_readme.txt", "committed_1"):
        (tmp_path / name).write_text("{}")
    for pattern in ("*", "**/*"):
        assert names(tmp_path, pattern) == ["_readme.txt", "committed_1", "part-0.json"]


def test_known_kinds_that_are_not_read_are_refused(tmp_path):
    for name in ("a.txt", "b.XLSX", "c.avro", "d.jsonl.bz2", "e.tar.gz", "f.ipynb", "g.zstd"):
        (tmp_path / name).write_text("x")
    with pytest.raises(UserError, match=r"cannot read .xlsx: .*b.XLSX and 5 more; convert to .jsonl, .csv or .parquet"):
        find_files(f"{tmp_path}/*")
    for name, kind in (("c.avro", ".avro"), ("d.jsonl.bz2", ".bz2"), ("e.tar.gz", ".tar")):
        with pytest.raises(UserError, match=rf"cannot read {kind}: .*{name}; convert"):
            find_files(f"{tmp_path}/{name}")
    assert names(tmp_path, "*.txt") == ["a.txt"]


def test_a_name_that_would_break_a_line_is_spelled_out(tmp_path):
    (tmp_path / "a\nb.txt").write_text("x")
    assert names(tmp_path, "*") == ["a\\nb.txt"]
