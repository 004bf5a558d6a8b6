"""Immutable versions of pushed models, named by their content, and the reading side of push.

<target>/<size>/versions/<version>/            a Hugging Face checkpoint with a manifest (kind PushedModel), written
                                               last; <version> is the first 16 digits of the content digest
<target>/<size>/references/<version>.safetensors  recorded input_ids and logits, against which a load is checked
<target>/<size>/current.json                   the pointer (see `pointer.py`)

A version without a manifest is not whole: its push or its deletion was cut short. The next push of the same version
completes it.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.common.served.moves import is_version
from components.common.served.pointer import Pointer, read_pointer
from components.common.storage.storage import ConflictError, Storage
from matta_core.artifacts import MANIFEST, digest_of, file_digest, finish_artifact, open_artifact
from matta_core.artifacts.manifest import Manifest, parse_manifest
from matta_core.errors import UserError
from matta_core.progress import progress

__all__ = ["Pointer", "content_digest", "fetch", "install", "read_pointer", "version_digest"]

KIND = "PushedModel"


def content_digest(model: Path) -> str:
    """sha256 over the names and sha256 of a model's files, without manifest.json. The same files have the same digest
    everywhere."""
    return digest_of({name: file_digest(file) for name, file in _files(model).items()})


def version_name(size: str, version: str) -> str:
    """The name of the version's folder in the storage."""
    return f"{size}/versions/{version}"


def reference_name(size: str, version: str) -> str:
    return f"{size}/references/{version}.safetensors"


def version_digest(storage: Storage, size: str, version: str) -> str:
    """The content digest of a version. Raises: UserError where there is no such version, or it is not whole."""
    return _read_manifest(storage, size, version)["key"]


def fetch(storage: Storage, size: str, version: str, folder: Path) -> Path:
    """A version's files, checked against its manifest, as a local folder that stock transformers loads.

    A directory gives its own folder. The files of a bucket are downloaded to `folder`/<size>/<version>, where whole
    files of an earlier attempt are kept.

    Raises: UserError where there is no such version, or a file of it is missing or altered.
    """
    manifest = _read_manifest(storage, size, version)
    if digest_of({file: told["sha256"] for file, told in manifest["files"].items()}) != manifest["key"]:
        raise UserError(
            f"{_damaged(storage, size, version)}: the files that its {MANIFEST} names are not the content that the "
            f"version is named by"
        )
    name = version_name(size, version)
    place = storage.local_path(name)
    if place is None:
        place = folder / size / version
        with progress(len(manifest["files"]), f"download {size}", "files") as bar:
            for file, expected in manifest["files"].items():
                copy = place / file
                if not copy.is_file() or file_digest(copy) != expected["sha256"]:
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    storage.download(f"{name}/{file}", copy)
                bar.update()
        storage.download(f"{name}/{MANIFEST}", place / MANIFEST)
    try:
        return open_artifact(place, KIND).path
    except UserError as error:
        raise UserError(f"{_damaged(storage, size, version)}: {error}") from None


def install(
    storage: Storage,
    size: str,
    model: Path,
    digest: str,
    *,
    reference: Path,
    inputs: Mapping[str, str],
    metadata: Mapping[str, Any],
) -> bool:
    """Put a model's files into their version. Returns False where the whole version is there already.

    Files with the right checksum are kept, so that a killed push goes on; the manifest comes last. Two processes may
    install the same version at once: they write the same bytes.

    Raises: UserError that names the file, where the version has other content, or is damaged.
    """
    version = digest[:16]
    name = version_name(size, version)
    files = _files(model)
    if not storage.holds(reference, reference_name(size, version)):
        storage.upload(reference, reference_name(size, version))
    if storage.read(f"{name}/{MANIFEST}") is not None:
        _check(storage, size, digest, files)
        return False
    with progress(len(files), f"push {size}", "files") as bar:
        for file, source in files.items():
            if not storage.holds(source, f"{name}/{file}"):
                storage.upload(source, f"{name}/{file}")
            bar.update()
    _refuse_strangers(storage, size, version, files)
    try:
        storage.write(f"{name}/{MANIFEST}", _manifest_of(files, digest, inputs, metadata), expected=None)
    except ConflictError:  # another push of the same model was faster
        _check(storage, size, digest, files)
    return True


def versions_there(storage: Storage, size: str) -> dict[str, float]:
    """The versions with any file in the storage, whole or not, and when its last file was written (seconds since 1970).
    Files with other names belong to other people."""
    found: dict[str, float] = {}
    folder = f"{size}/versions/"
    for entry in storage.list(folder.rstrip("/")):
        version, is_folder, _ = entry.name.removeprefix(folder).partition("/")
        if is_folder and is_version(version):
            found[version] = max(entry.updated, found.get(version, 0.0))
    return found


def stranger(storage: Storage, size: str, version: str) -> str | None:
    """Why not all files in a version's folder are its own: the manifest does not name one, or cannot be trusted. None
    where all are, or where there is no manifest, as after a push or a deletion that was cut short."""
    if storage.read(f"{version_name(size, version)}/{MANIFEST}") is None:
        return None
    try:
        _refuse_strangers(storage, size, version, _read_manifest(storage, size, version)["files"])
    except UserError as error:
        return str(error)
    return None


def _read_manifest(storage: Storage, size: str, version: str) -> Manifest:
    """A version's manifest. Raises: UserError where there is none, or it is not to be believed."""
    if not is_version(version):
        raise UserError(f"a version is named by 16 hexadecimal digits, got {version!r}")
    name = f"{version_name(size, version)}/{MANIFEST}"
    found = storage.read(name)
    if found is None:
        there = ", ".join(versions_there(storage, size)) or "none"
        raise UserError(
            f"{storage.location(name)} is missing: {version} is no whole version of size {size!r}. Versions there: "
            f"{there}"
        )
    try:
        manifest = parse_manifest(found[0], storage.location(name))
    except UserError as error:
        raise UserError(f"{_damaged(storage, size, version)}: {error}") from None
    if (manifest["kind"], manifest["key"][:16]) != (KIND, version):
        raise UserError(
            f"{_damaged(storage, size, version)}: its {MANIFEST} is not to be believed: it is of {manifest['kind']} "
            f"{manifest['key'][:16]}"
        )
    return manifest


def _check(storage: Storage, size: str, digest: str, files: Mapping[str, Path]) -> None:
    """Compare a version that has a manifest with the files that it should hold."""
    version = digest[:16]
    manifest = _read_manifest(storage, size, version)
    name = version_name(size, version)
    if manifest["key"] != digest:
        raise UserError(
            f"{storage.location(name)} holds the content {manifest['key']}, not {digest}, whose first 16 digits are "
            f"the same: versions are never changed, so this model cannot be pushed beside that one"
        )
    for file, source in files.items():
        if not storage.holds(source, f"{name}/{file}"):
            raise UserError(f"{_damaged(storage, size, version)}: {file} is missing or was altered")
    _refuse_strangers(storage, size, version, files)


def _refuse_strangers(storage: Storage, size: str, version: str, files: Mapping[str, Any]) -> None:
    name = version_name(size, version)
    for entry in storage.list(name):
        if entry.name.removeprefix(f"{name}/") not in (*files, MANIFEST):
            raise UserError(f"{storage.location(entry.name)} is no file of this version: remove it, and push again")


def _damaged(storage: Storage, size: str, version: str) -> str:
    return (
        f"pushed version {storage.location(version_name(size, version))} is damaged (roll back to another one, delete "
        f"it, and push again)"
    )


def _manifest_of(
    files: Mapping[str, Path], digest: str, inputs: Mapping[str, str], metadata: Mapping[str, Any]
) -> bytes:
    """The manifest of a model's files. It is made in a folder of links to them, like every other manifest."""
    with tempfile.TemporaryDirectory() as folder:
        for name, file in files.items():
            link = Path(folder, name)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(file.resolve())
        finish_artifact(Path(folder), KIND, key=digest, inputs=inputs, metadata=metadata)
        return Path(folder, MANIFEST).read_bytes()


def _files(model: Path) -> dict[str, Path]:
    """A model's files by their names relative to it."""
    files = {file.relative_to(model).as_posix(): file for file in sorted(model.rglob("*")) if file.is_file()}
    files.pop(MANIFEST, None)
    return files
