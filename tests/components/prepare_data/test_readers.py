import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from components.common.storage.listing import SourceFile
from components.prepare_data.readers import Problem, read_documents

TEXTS = ["one\n", "zwei ümläut", "三", ""]


def read(path: Path, text_field="text"):
    return [text for _, text in read_documents(SourceFile(str(path), path.name), text_field)]


def only_problem(path: Path, text_field="text") -> Problem:
    (problem,) = [text for text in read(path, text_field) if isinstance(text, Problem)]
    return problem


def test_every_format_yields_the_same_texts(tmp_path):
    lines = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS)
    (tmp_path / "a.jsonl").write_text(lines)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    pq.write_table(pa.table({"text": TEXTS, "other": [1, 2, 3, 4]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"text": pa.array(TEXTS).dictionary_encode()}), tmp_path / "b.parquet")
    for name in ("a.jsonl", "a.jsonl.gz", "a.parquet", "b.parquet"):
        assert read(tmp_path / name) == TEXTS
    whole = "".join(TEXTS)
    (tmp_path / "a.txt").write_bytes(whole.encode())
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(whole.encode()))
    assert read(tmp_path / "a.txt") == read(tmp_path / "a.txt.gz") == [whole]


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
        ("a.jsonl.gz", gzip.compress(b'{"text": "x"}\n' * 1000, mtime=0)[:-9], "a.jsonl.gz cannot be read"),
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


def test_rows_are_rows_whatever_the_suffix_and_its_case(tmp_path):
    rows = [{"id": number, "text": text} for number, text in enumerate(TEXTS)]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    table = "id{0}text\r\n" + "".join(f'{number}{{0}}"{text}"\r\n' for number, text in enumerate(TEXTS))
    for name, content in {
        "a.JSONL": lines,
        "a.ndjson": lines,
        "lines.json": lines,
        "array.json": json.dumps(rows, indent=1),
        "line.Json": json.dumps(rows),
        "a.csv": table.format(","),
        "a.TSV": table.format("\t"),
    }.items():
        for mark in ("", "\ufeff"):
            (tmp_path / name).write_text(mark + content, newline="")
            assert read(tmp_path / name) == TEXTS, (name, mark)
        (tmp_path / f"{name}.GZ").write_bytes(gzip.compress(content.encode()))
        assert read(tmp_path / f"{name}.GZ") == TEXTS
    pq.write_table(pa.table({"text": TEXTS}), tmp_path / "A.PARQUET")
    assert read(tmp_path / "A.PARQUET") == TEXTS
    (tmp_path / "one.json").write_text('{\n "text": "x"\n}\n')
    assert read(tmp_path / "one.json") == ["x"]
    (tmp_path / "empty.json").write_text("\n")
    assert read(tmp_path / "empty.json") == []


def test_quotes_delimiters_and_long_fields_of_a_table_are_text(tmp_path):
    long = "x" * 200_000
    (tmp_path / "a.csv").write_text(f'text,id\n"a, ""b""\nc",1\n\n{long},2\n')
    assert read(tmp_path / "a.csv") == ['a, "b"\nc', long]


def test_a_row_has_its_text_once(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a", "\\u0074ext": "b"}\n{"id": 1, "id": 2, "text": "c"}\n')
    assert read(tmp_path / "a.jsonl") == [Problem("a.jsonl:1 is not JSON: the key 'text' stands twice in a row"), "c"]
    (tmp_path / "a.csv").write_text("text,text\na,b\n")
    assert only_problem(tmp_path / "a.csv").message == "a.csv has 2 columns 'text': rename one, or set text_field"


@pytest.mark.parametrize("depth", [1_500, 200_000])
@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_a_row_that_is_nested_too_deep_is_a_problem_of_its_own(tmp_path, name, depth):
    deep = '{"text": "x", "meta": ' + "[" * depth + "]" * depth + "}\n"
    (tmp_path / name).write_text('{"text": "fine"}\n' + deep)
    message = f"{name}:2 is not read: its JSON is nested too deep"
    assert read(tmp_path / name) == ["fine", Problem(message)]
    (tmp_path / name).write_text(deep)
    assert "nested too deep" in only_problem(tmp_path / name).message


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le"])
@pytest.mark.parametrize(
    "text",
    [
        "Plain English text, twice.\n",
        "Привет всем людям",
        "भारत एक विशाल देश है। यहाँ अनेक भाषाएँ बोली जाती हैं",
        "తెలుగు భాష దక్షిణ భారతదేశంలో మాట్లాడే భాష",
    ],
)
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.json"])
def test_utf_16_without_a_mark_is_no_utf_8(tmp_path, name, text, encoding):
    content = text if name == "a.txt" else json.dumps({"text": text}, ensure_ascii=False)
    (tmp_path / name).write_bytes(content.encode(encoding))
    problems = read(tmp_path / name)
    assert problems
    assert all(isinstance(problem, Problem) and problem.invalid_utf8 for problem in problems)


def test_a_table_in_utf_16_is_no_utf_8_by_its_header(tmp_path):
    for encoding in ("utf-16", "utf-16-le"):
        (tmp_path / "a.csv").write_bytes("id,text\n1,one\n".encode(encoding))
        assert only_problem(tmp_path / "a.csv").invalid_utf8


def test_a_byte_order_mark_is_no_part_of_a_text(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone")
    assert read(tmp_path / "a.txt") == ["one"]
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\xff")
    assert only_problem(tmp_path / "a.txt").message == "a.txt is not UTF-8: byte 0xff at offset 6"


@pytest.mark.parametrize("name", ["part-00000", "a.jsonl.bak", "a.json.1", "a.txt"])
def test_rows_of_json_under_another_suffix_are_no_text(tmp_path, name):
    (tmp_path / name).write_text('{"id": 1, "text": "one"}\n{"id": 2, "text": "two"}\n')
    assert only_problem(tmp_path / name).message.startswith(f"{name} holds rows of JSON, not a text: name it .jsonl")
    for content in ('{"name": "a setting of a program"}\n', '{\n"text": "a"}', '{"text": }', "{text}", "[" * 200_000):
        (tmp_path / name).write_text(content)
        assert read(tmp_path / name) == [content]


def test_a_nul_among_letters_is_text(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "some\\u0000thing"}\n')
    assert read(tmp_path / "a.jsonl") == ["some\0thing"]


TABLES = [
    b"text,id\n",
    b"id,text\n",
    b'"a',
    b'b"',
    b",",
    b"\t",
    b"\n",
    b"\r\n",
    b'""',
    b"text",
    b"\xff",
    b"\0",
    b"\xc3\xbc",
]
JSON = [
    b'{"text": "x"}',
    b'{"text":',
    b'"x"',
    b"}",
    b"[",
    b"[" * 3000,
    b"]",
    b",",
    b"\n",
    b"{",
    b"null",
    b"9" * 5000,
    b"NaN",
    b"\\ud800",
    b"\xef\xbb\xbf",
    b"\xff",
    b"\0\0\0",
    b" ",
    b'"text"',
    b"\xe2\x80\xa8",
]


def pieces(of):
    return st.lists(st.one_of(st.sampled_from(of), st.binary(max_size=6)), max_size=12).map(b"".join)


@st.composite
def data_files(draw):
    """A name and contents: pieces of what such a file holds, or such a file with a few bytes changed."""
    kind = draw(st.sampled_from(["jsonl", "json", "csv", "tsv", "txt", "parquet"]))
    content = draw(pieces(JSON if "json" in kind else TABLES))
    if kind == "parquet":
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table({"text": ["one", "two"] * 20, "id": list(range(40))}), sink)
        content = sink.getvalue().to_pybytes()
    packed = draw(st.booleans()) and kind != "parquet"
    content = bytearray(gzip.compress(content) if packed else content)
    if kind == "parquet" or draw(st.booleans()):
        for _ in range(draw(st.integers(0, 4)) if content else 0):
            content[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
        content = content[: draw(st.integers(0, len(content)))] if draw(st.booleans()) else content
    return f"a.{kind}" + ".gz" * packed, bytes(content)


@given(data_files())
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_give_texts_or_problems_of_one_line(tmp_path, file):
    name, content = file
    (tmp_path / name).write_bytes(content)
    for place, text in read_documents(SourceFile(str(tmp_path / name), name), "text"):
        assert place.startswith(name)
        if isinstance(text, Problem):
            assert text.message.startswith(place)
            assert len(text.message.splitlines()) == 1
            assert len(text.message) < 500
        else:
            text.encode()
