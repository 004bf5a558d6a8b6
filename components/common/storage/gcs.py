"""A bucket of Google Cloud Storage as a storage, through google-cloud-storage.

A file's generation is the object's. Every write carries `if_generation_match`, so that the client may repeat it without
harm after a lost answer; a read then tells whether the first write arrived. The service writes objects whole or not at
all. With STORAGE_EMULATOR_HOST set, the storage talks to an emulator, anonymously.

The service honours `if_generation_match` for deletions; fake-gcs-server 1.x does not, and deletes whatever is there.
"""

import base64
import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import google_crc32c
import requests
from google.api_core import exceptions
from google.auth.credentials import AnonymousCredentials
from google.auth.exceptions import GoogleAuthError
from google.cloud.storage import Blob, Client
from google.cloud.storage.retry import DEFAULT_RETRY

from components.common.storage.storage import ConflictError, StoredFile
from matta_core.errors import UserError

_CHUNK_BYTES = 32 * 2**20  # of a resumable upload; a broken connection sends one again; a multiple of 256 KiB


class GcsStorage:
    """The storage below gs://bucket/prefix. The bucket must exist."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        bucket, _, self._prefix = self.url.removeprefix("gs://").partition("/")
        with self._explained("connect to"):
            emulated = {"project": "emulator", "credentials": AnonymousCredentials()}
            client = Client(**(emulated if os.environ.get("STORAGE_EMULATOR_HOST") else {}))
        self._bucket = client.bucket(bucket)

    def location(self, name: str) -> str:
        return f"{self.url}/{name}"

    def local_path(self, name: str) -> Path | None:
        return None

    def read(self, name: str) -> tuple[bytes, str] | None:
        blob = self._blob(name)
        with self._explained(f"read {name} in"):
            try:
                # The generation comes with the content, so it is that of the object that was read.
                data = blob.download_as_bytes(retry=DEFAULT_RETRY)
            except exceptions.NotFound:
                self._bucket_is_there()
                return None
        return data, str(blob.generation)

    def write(self, name: str, data: bytes, *, expected: str | None) -> str:
        blob = self._blob(name)
        with self._explained(f"write {name} in"):
            try:
                blob.upload_from_string(
                    data,
                    content_type="application/json",
                    if_generation_match=int(expected or 0),
                    checksum="crc32c",
                    retry=DEFAULT_RETRY,
                )
            except exceptions.PreconditionFailed:
                # Our write may have arrived and its answer been lost: then the object there is ours.
                found = self.read(name)
                if found is None or found[0] != data:
                    raise ConflictError(name) from None
                return found[1]
        return str(blob.generation)

    def folders(self) -> list[str]:
        start = self._key("")
        with self._explained("list the folders of"):
            listing = self._bucket.list_blobs(prefix=start, delimiter="/", retry=DEFAULT_RETRY)
            for _ in listing:  # the prefixes are known once all objects were listed
                pass
        return sorted(prefix.removeprefix(start).rstrip("/") for prefix in listing.prefixes)

    def list(self, prefix: str) -> list[StoredFile]:
        with self._explained(f"list {prefix or 'all'} in"):
            folder = self._key(f"{prefix}/" if prefix else "")
            blobs = list(self._bucket.list_blobs(prefix=folder, retry=DEFAULT_RETRY))
        start = len(self._key(""))
        return [
            StoredFile(blob.name[start:], blob.size, str(blob.generation), blob.updated.timestamp(), blob.crc32c)
            for blob in sorted(blobs, key=lambda blob: blob.name)
        ]

    def open(self, entry: StoredFile) -> IO[bytes]:
        blob = self._bucket.blob(self._key(entry.name), generation=int(entry.generation))
        return blob.open("rb", retry=DEFAULT_RETRY)

    def holds(self, file: Path, name: str) -> bool:
        with self._explained(f"look up {name} in"):
            blob = self._bucket.get_blob(self._key(name), retry=DEFAULT_RETRY)
        return blob is not None and blob.size == file.stat().st_size and blob.crc32c == _crc32c(file)

    def upload(self, file: Path, name: str) -> None:
        with self._explained(f"upload {name} to"):
            there = self._bucket.get_blob(self._key(name), retry=DEFAULT_RETRY)
            blob = self._blob(name)
            large = file.stat().st_size > _CHUNK_BYTES
            blob.chunk_size = _CHUNK_BYTES if large else None
            with contextlib.suppress(exceptions.PreconditionFailed):  # another push of the same file: compared below
                blob.upload_from_filename(
                    str(file),
                    content_type="application/octet-stream",
                    if_generation_match=0 if there is None else there.generation,
                    checksum="crc32c",
                    retry=DEFAULT_RETRY,
                )
        if not self.holds(file, name):
            raise UserError(f"{self.location(name)} differs from {file} after its upload: push again")

    def download(self, name: str, file: Path) -> None:
        part = file.with_name(f".{file.name}.part")
        with self._explained(f"download {name} from"):
            try:
                self._blob(name).download_to_filename(str(part), checksum="crc32c", retry=DEFAULT_RETRY)
            except exceptions.NotFound:
                raise UserError(f"{self.location(name)} is not there") from None
        part.replace(file)

    def delete(self, entry: StoredFile) -> None:
        blob = self._blob(entry.name)
        with (
            self._explained(f"delete {entry.name} in"),
            contextlib.suppress(exceptions.NotFound, exceptions.PreconditionFailed),
        ):
            blob.delete(if_generation_match=int(entry.generation), retry=DEFAULT_RETRY)

    def _key(self, name: str) -> str:
        return f"{self._prefix}/{name}" if self._prefix else name

    def _blob(self, name: str) -> Blob:
        return self._bucket.blob(self._key(name))

    def _bucket_is_there(self) -> None:
        """Raise NotFound if the bucket is missing. A missing object is a 404, too: a wrong bucket would look empty."""
        next(iter(self._bucket.list_blobs(prefix=self._key(""), max_results=1, retry=DEFAULT_RETRY)), None)

    @contextlib.contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        """Turn errors of the service, of credentials and of the network into one line."""
        again = "the same command goes on from what is there"
        try:
            yield
        except exceptions.NotFound:
            raise UserError(f"cannot {what} {self.url}: there is no such bucket. Make it, or correct the URL") from None
        except (exceptions.Forbidden, exceptions.Unauthorized) as error:
            raise UserError(
                f"cannot {what} {self.url}: {error.message}. Give this account roles/storage.objectUser on the bucket"
            ) from None
        except GoogleAuthError as error:
            raise UserError(
                f"cannot {what} {self.url}: {error}. Log in with `gcloud auth application-default login`, or give the "
                f"pod a service account"
            ) from None
        except (exceptions.GoogleAPIError, requests.RequestException) as error:
            raise UserError(f"cannot {what} {self.url}: {error}. Check the network, then {again}") from None


def _crc32c(file: Path) -> str:
    """The checksum as the service writes it: base64 of the big-endian value."""
    checksum = google_crc32c.Checksum()
    with file.open("rb") as stream:
        while chunk := stream.read(2**20):
            checksum.update(chunk)
    return base64.b64encode(checksum.digest()).decode()
