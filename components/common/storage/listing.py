"""Finds the files with documents: those of a glob, here or in a bucket, without other programs' marker files."""

import os
import re
import sysconfig
from glob import escape, glob
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from components.common.storage.remote import RemoteFile, is_remote, match
from matta_core.errors import UserError

SUCCESS_FILE = "_SUCCESS"  # a folder with it is complete
# Folders of tests, other people's code, and generated character tables: the rest was written by hand.
_NOT_STDLIB_TEXT = {"test", "tests", "idle_test", "site-packages", "dist-packages", "_bundled", "encodings"}
# Files that Spark, Hadoop, Databricks and Delta write beside the data.
_MARKER = re.compile(rf"{SUCCESS_FILE}|_(committed|started)_.*|_(common_)?metadata|.*\.crc")
_MARKER_FOLDERS = {"_temporary", "_delta_log", "_spark_metadata"}
# Each of these would be read as one document of text, or be refused as not UTF-8, which is not what they are.
_KINDS_NOT_READ = """
    .arrow .feather .orc .avro .parq .xls .xlsx .xlsm .xlsb .ods .json5 .jsonc .hjson .jsonld .geojson .ipynb
    .bson .jsons .njson .psv .msgpack .tfrecord .tfrecords .recordio .lance .h5 .hdf5 .npy .npz .mat
    .sas7bdat .dta .sav .rds .pkl .pickle .joblib .pt .pth .safetensors .db .sqlite .sqlite3 .duckdb .mdb .pdf
    .doc .docx .odt .rtf .ppt .pptx .epub .zip .tar .tgz .7z .rar .bz2 .xz .lzma .lz .zst .zstd .lz4 .lzo
    .snappy .deflate .gzip .br .z
"""
_NOT_READ = frozenset(_KINDS_NOT_READ.split())


class SourceFile(NamedTuple):
    """A file, the name by which its documents are known, and its entry in the listing if it lies in an object store."""

    path: str
    name: str
    remote: RemoteFile | None = None


def find_files(source: str) -> list[SourceFile]:
    """The files of 'stdlib', or those that a glob matches (`**` crosses folders), here or on gs://, sorted by name.

    Leading folders, or a file, that exist as they are written are taken as they are, even with brackets in their names.
    What other programs leave beside data (`_SUCCESS`, `_committed_1`, names that begin with a dot) is left out.

    Raises: UserError where there is no file, one is of a known kind that is not read, or the bucket cannot be listed.
    """
    if source == "stdlib":
        root = Path(sysconfig.get_path("stdlib"))
        modules = [path.relative_to(root) for path in root.rglob("*.py")]
        kept = [path for path in modules if not _NOT_STDLIB_TEXT.intersection(path.parts)]
        files = [SourceFile(str(root / path), path.as_posix()) for path in kept]
    elif is_remote(source):
        files = [SourceFile(file.url, printable(file.url), file) for file in match(source)]
    else:
        paths = glob(_as_written(source), recursive=True)  # noqa: PTH207 - Path.glob takes no absolute pattern
        files = [SourceFile(path, printable(path)) for path in paths if Path(path).is_file()]
    files = [file for file in files if not _is_marker(file.path, source)]
    if not files:
        where = "" if is_remote(source) else f" (from {Path.cwd()})"
        raise UserError(
            f"prepare_data.source = {source!r} matches no file{where}: correct it; "
            f"for all files below a folder write FOLDER/**/*.txt"
        )
    files = sorted(files, key=lambda file: file.name)
    if refused := [file.name for file in files if suffix(file.path) in _NOT_READ]:
        more = f" and {len(refused) - 1:,} more" if len(refused) > 1 else ""
        raise UserError(
            f"prepare_data cannot read {suffix(refused[0])}: {refused[0]}{more}; convert to .jsonl, .csv or .parquet "
            f"with a document per row, or to text, or leave them out of prepare_data.source"
        )
    return files


def suffix(path: str) -> str:
    """The suffix in lower case, without `.gz`."""
    return PurePosixPath(path.lower().removesuffix(".gz")).suffix


def printable(text: str) -> str:
    """The text with line ends, control characters and halves of surrogate pairs (bytes that are not UTF-8) spelled out.
    A message has one line, and a parquet string cannot hold such a half."""
    return re.sub(
        r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]",
        lambda found: found[0].encode("unicode_escape").decode(),
        text,
    )


def _as_written(source: str) -> str:
    """The glob, with its longest beginning that exists as it is written escaped."""
    parts = source.split("/")
    for number in range(len(parts), 0, -1):
        if os.path.exists(lead := "/".join(parts[:number])):  # noqa: PTH110 - Path.exists raises for a long name
            return "/".join([escape(lead), *parts[number:]])
    return source


def _is_marker(path: str, source: str) -> bool:
    *folders, name = path.split("/")
    return bool(_MARKER.fullmatch(name) or _MARKER_FOLDERS.intersection(folders).difference(source.split("/")))
