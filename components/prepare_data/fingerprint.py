"""What stands for a corpus and a tokenizer in the step's key."""

from pathlib import Path

from components.common.storage.listing import SourceFile
from matta_core.artifacts import digest_of, file_digest
from matta_core.errors import UserError


def fingerprint(files: list[SourceFile]) -> str:
    """The sha256 of all names and contents. Local files are read once more for it; for an object store its checksums
    are used.

    Raises: UserError where a file cannot be read.
    """
    try:
        return digest_of([[file.name, _content_digest(file)] for file in files])
    except OSError as error:
        raise UserError(
            f"cannot read {error.filename}: {error.strerror}; mend it, or leave it out of prepare_data.source"
        ) from None


def tokenizer_files(name: str | None) -> list[SourceFile]:
    """The files that make up a tokenizer in a local folder; none for a name on a hub."""
    folder = Path(name) if name else None
    if folder is None or not folder.is_dir():
        return []
    paths = [path for path in folder.iterdir() if path.suffix in {".json", ".txt", ".model", ".jinja"}]
    return sorted(SourceFile(str(path), path.name) for path in paths)


def _content_digest(file: SourceFile) -> str:
    if file.remote is None:
        return file_digest(Path(file.path))
    checksum = file.remote.entry.checksum
    assert checksum is not None, "a bucket keeps them"
    return checksum
