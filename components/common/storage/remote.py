"""Documents on Google Cloud Storage: they are listed with their checksums in one go, and read as a stream.

A listing gives every file's checksum, which tells one corpus from another without reading it, and its generation, so
that exactly the listed content is read. The client is the one that push uses. Beam's own would go on anonymously where
it finds no credentials, and needs the clients of some twenty other services.
"""

import re
from functools import lru_cache
from glob import escape
from typing import IO, NamedTuple

from fsspec.utils import glob_translate

from components.common.storage.open_storage import open_storage
from components.common.storage.storage import Storage, StoredFile

SCHEME = "gs://"


class RemoteFile(NamedTuple):
    """A file of a bucket, as it was listed."""

    url: str
    entry: StoredFile


def is_remote(source: str) -> bool:
    return source.startswith(SCHEME)


def match(pattern: str) -> list[RemoteFile]:
    """The files that gs://bucket/glob matches, by the rules of a local glob. `*` stays within a folder, `**/` is any
    number of folders, also none, and neither matches a leading dot. Leading folders that exist as written are meant.

    Raises: UserError where there is no such bucket, or it cannot be listed.
    """
    bucket, name = _split(pattern)
    folder = re.split(r"[*?\[]", name)[0].rpartition("/")[0]  # the deepest folder above the first wildcard
    entries = _bucket(bucket).list(folder)
    lead, rest = _as_written(name, [entry.name for entry in entries])
    matches = re.compile(glob_translate(f"{escape(lead)}{rest}")).match
    asks_for_dots = re.search(r"(^|/)\.", rest)
    return [
        RemoteFile(f"{SCHEME}{bucket}/{entry.name}", entry)
        for entry in entries
        if matches(entry.name) and (asks_for_dots or not re.search(r"(^|/)\.", entry.name[len(lead) :]))
    ]


def open_remote(file: RemoteFile) -> IO[bytes]:
    """Open a file for reading. It can seek, and packed files stay packed. Raises where it reads: OSError,
    GoogleAPIError."""
    return _bucket(_split(file.url)[0]).open(file.entry)


def _as_written(pattern: str, names: list[str]) -> tuple[str, str]:
    """A pattern's longest beginning that exists as written, as a folder or a file, and the rest."""
    ends = [place for place, letter in enumerate(pattern) if letter == "/"]
    for end in sorted([*ends, len(pattern)], reverse=True):
        if any(name == pattern[:end] or name.startswith(f"{pattern[:end]}/") for name in names):
            return pattern[:end], pattern[end:]
    return "", pattern


def _split(url: str) -> tuple[str, str]:
    bucket, _, name = url.removeprefix(SCHEME).partition("/")
    return bucket, name


@lru_cache
def _bucket(bucket: str) -> Storage:
    """The bucket's storage. A process has one client, because each client has connections of its own."""
    return open_storage(f"{SCHEME}{bucket}")
