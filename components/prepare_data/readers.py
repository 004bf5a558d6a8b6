"""Reads documents out of files: what each suffix holds, and what is reported where there is no text."""

import contextlib
import csv
import gzip
import io
import json
import re
import reprlib
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from google.api_core.exceptions import GoogleAPIError

from components.common.storage.listing import SourceFile, printable, suffix
from components.common.storage.remote import open_remote

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_CONTROLS = bytes(set(range(32)) - set(b"\t\n\v\f\r"))


class Problem(NamedTuple):
    """The reason why a document has no text: value and place, in one line."""

    message: str
    invalid_utf8: bool = False


Documents = Iterator[tuple[str, str | Problem]]


def read_documents(file: SourceFile, text_field: str) -> Documents:
    """Yield (place, text or its Problem) for every document of a file. The suffix, in any case, says what the file is.

    .jsonl, .ndjson and .json (a row per line, an array of rows, or one row), .csv and .tsv (with a header) and .parquet
    hold one document per row, in `text_field`; any other file is one document. `.gz` after the suffix is unpacked;
    byte offsets in messages count unpacked bytes.
    """
    read = _READERS.get(suffix(file.path), _read_text)
    try:
        yield from read(file, text_field)
    except (OSError, EOFError, zlib.error, pa.ArrowException, UnicodeDecodeError, GoogleAPIError) as error:
        yield file.name, Problem(f"{file.name} cannot be read: {_one_line(error)}")


def _read_text(file: SourceFile, text_field: str) -> Documents:
    with _open(file) as stream:
        data = stream.read()
    content = data.removeprefix(_BYTE_ORDER_MARK)
    text = _decode(content, file.name, len(data) - len(content))
    if isinstance(text, str) and _holds_rows(text, text_field):
        told = f"{file.name} holds rows of JSON, not a text: name it .jsonl, or leave it out of prepare_data.source"
        text = Problem(told)
    yield file.name, text


def _holds_rows(text: str, text_field: str) -> bool:
    """Whether a text's first line is a row. The parts that Spark and Hadoop write have names without a suffix."""
    line = text.lstrip().partition("\n")[0]
    if not line.startswith("{"):
        return False
    with contextlib.suppress(ValueError, RecursionError):
        return isinstance(json.loads(line).get(text_field), str)
    return False


def _read_lines(file: SourceFile, text_field: str) -> Documents:
    offset = 0
    with _open(file) as stream:
        for number, line in enumerate(stream, start=1):
            if content := line.removeprefix(_BYTE_ORDER_MARK).strip():
                place = f"{file.name}:{number}"
                text = _decode(content, place, offset + line.index(content))
                yield place, _text_of_json(text, text_field, place) if isinstance(text, str) else text
            offset += len(line)


def _read_json(file: SourceFile, text_field: str) -> Documents:
    """If the first line is a row, each line is one. Otherwise the whole file is an array of rows, or one row."""
    with _open(file) as stream:
        first = next((line for line in stream if line.strip()), b"").removeprefix(_BYTE_ORDER_MARK)
    with contextlib.suppress(ValueError, RecursionError):
        if isinstance(json.loads(first), dict):
            yield from _read_lines(file, text_field)
            return
    with _open(file) as stream:
        text = _decode(stream.read().removeprefix(_BYTE_ORDER_MARK), file.name)
    if isinstance(text, Problem):
        yield file.name, text
        return
    if not text.strip():
        return
    found = _parse(text, text_field, file.name)
    if isinstance(found, Problem):
        yield file.name, found
        return
    for number, row in enumerate(found if isinstance(found, list) else [found], start=1):
        place = f"{file.name}:{number}"
        yield place, _text_of_row(row, text_field, place)


def _read_table(file: SourceFile, text_field: str, delimiter: str) -> Documents:
    """Rows of a table. The number of a place is the line in which the row ends."""
    csv.field_size_limit(sys.maxsize)
    with _open(file) as stream:
        # Bytes that are not UTF-8 come through, so that the error names their row.
        lines = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")
        rows = csv.reader(lines, delimiter=delimiter, strict=True)
        try:
            header = next((row for row in rows if row), [])
            if isinstance(told := _decode(",".join(header).encode("utf-8", "surrogateescape"), file.name), Problem):
                yield file.name, told
                return
            if (problem := _column_problem(file, header, text_field)) is not None:
                yield file.name, problem
                return
            column = header.index(text_field)
            for row in rows:
                place = f"{file.name}:{rows.line_num}"
                if row and len(row) != len(header):
                    yield place, Problem(f"{place} has {len(row)} fields, its header {len(header)}: mend its quotes")
                elif row:
                    yield place, _decode(row[column].encode("utf-8", "surrogateescape"), place)
        except csv.Error as error:
            place = f"{file.name}:{rows.line_num}"
            yield place, Problem(f"{place} is not {suffix(file.path)[1:].upper()}: {_one_line(error)}")


def _read_parquet(file: SourceFile, text_field: str) -> Documents:
    with _open_raw(file) as stream, pq.ParquetFile(stream) as parquet:
        if (problem := _column_problem(file, parquet.schema_arrow.names, text_field)) is not None:
            yield file.name, problem
            return
        number = 0
        for batch in parquet.iter_batches(batch_size=256, columns=[text_field]):
            # They are read as bytes, because Arrow does not check that its strings are UTF-8.
            for data in batch.column(0).cast(pa.large_binary()).to_pylist():
                number += 1
                place = f"{file.name}:{number}"
                yield place, Problem(f"{place} has no text: null") if data is None else _decode(data, place)


_READERS: dict[str, Callable[[SourceFile, str], Documents]] = {
    **dict.fromkeys((".jsonl", ".ndjson", ".jsonlines", ".ldjson"), _read_lines),
    ".json": _read_json,
    ".csv": partial(_read_table, delimiter=","),
    **dict.fromkeys((".tsv", ".tab"), partial(_read_table, delimiter="\t")),
    ".parquet": _read_parquet,
    ".pq": _read_parquet,
}


@contextlib.contextmanager
def _open(file: SourceFile) -> Iterator[IO[bytes] | gzip.GzipFile]:
    with _open_raw(file) as stream:
        yield gzip.GzipFile(fileobj=stream) if file.path.lower().endswith(".gz") else stream


def _open_raw(file: SourceFile) -> IO[bytes]:
    return Path(file.path).open("rb") if file.remote is None else open_remote(file.remote)


def _decode(data: bytes, place: str, offset: int = 0) -> str | Problem:
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        where = offset + error.start
        return Problem(f"{place} is not UTF-8: byte 0x{data[error.start]:02x} at offset {where}", invalid_utf8=True)
    return _control_problem(data, place) or text


def _control_problem(data: bytes, place: str) -> Problem | None:
    """UTF-16 without a mark may be valid as UTF-8. Then many of its bytes are control characters: half in most
    scripts, a tenth in Indian ones, whose first bytes are tabs and ends of lines. A text has few."""
    controls = len(data) - len(data.translate(None, _CONTROLS))
    if controls * (20 if controls >= 5 else 4) < max(len(data), 1):
        return None
    return Problem(
        f"{place} is not text in UTF-8: {controls:,} of its {len(data):,} bytes are control characters, as in UTF-16",
        invalid_utf8=True,
    )


def _column_problem(file: SourceFile, columns: list[str], text_field: str) -> Problem | None:
    times = columns.count(text_field)
    if times == 1:
        return None
    told = printable(", ".join(columns))[:200]
    if times:
        return Problem(f"{file.name} has {times} columns {text_field!r}: rename one, or set text_field")
    return Problem(f"{file.name} has no column {text_field!r}, only {told}: set text_field")


def _text_of_json(line: str, text_field: str, place: str) -> str | Problem:
    row = _parse(line, text_field, place)
    return row if isinstance(row, Problem) else _text_of_row(row, text_field, place)


def _parse(text: str, text_field: str, place: str) -> Any:
    """The value that a JSON text holds, or the Problem with it."""

    def one_of_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        row = dict(pairs)
        if len(row) < len(pairs) and Counter(key for key, _ in pairs)[text_field] > 1:
            raise ValueError(f"the key {text_field!r} stands twice in a row")
        return row

    try:
        return json.loads(text, object_pairs_hook=one_of_each)
    except ValueError as error:
        return Problem(f"{place} is not JSON: {_one_line(error)}")
    except RecursionError:
        return Problem(f"{place} is not read: its JSON is nested too deep")


def _text_of_row(row: Any, text_field: str, place: str) -> str | Problem:
    text = row.get(text_field) if isinstance(row, dict) else None
    if not isinstance(text, str):
        got = printable(reprlib.repr(row))[:80]
        return Problem(f"{place} has no string {text_field!r}, got {got}: mend it, or set text_field")
    try:
        data = text.encode()  # JSON can escape half of a surrogate pair, which no text may hold
    except UnicodeEncodeError as error:
        problem = f"{place} is not Unicode: lone surrogate \\u{ord(text[error.start]):04x} at character {error.start}"
        return Problem(problem, invalid_utf8=True)
    return _control_problem(data, place) or text


def _one_line(error: Exception) -> str:
    return printable(re.sub(r"\s+", " ", str(error)))[:300]
