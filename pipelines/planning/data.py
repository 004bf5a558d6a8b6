"""How large a recipe's data is."""

from pathlib import Path

from components.common.storage.listing import find_files, suffix
from matta_core.errors import UserError
from matta_core.recipe import Recipe
from pipelines.planning.assumptions import Assumptions

_ROWS = {".jsonl", ".ndjson", ".jsonlines", ".ldjson", ".json", ".csv", ".tsv", ".tab", ".parquet", ".pq"}
_PACKED = (".gz", ".parquet", ".pq")


def text_bytes(recipe: Recipe, assumed: Assumptions, tokens: int | None) -> float:
    """Bytes of the documents that are kept: by their files' sizes, or by the training tokens that are given.

    Raises: UserError where the files are not on this disk and no tokens are given.
    """
    config = recipe.prepare_data
    if tokens is not None:
        return tokens * assumed.bytes_per_token / (1 - config.validation_fraction)
    remedy = "give --tokens, the training tokens that it holds"
    if recipe.retrain is not None or config.source.startswith("gs://"):
        where = "found by retrain" if recipe.retrain is not None else config.source
        raise UserError(f"prepare_data.source is {where}, whose size is not known here: {remedy}")
    try:
        files = find_files(config.source)
    except UserError as error:
        raise UserError(f"{error}; or {remedy}") from None
    sizes = [Path(file.path).stat().st_size * _unpacked(file.path, assumed) for file in files]
    documents_alone = not any(suffix(file.path) in _ROWS for file in files)
    if documents_alone and config.max_documents is not None and config.max_documents < len(files):
        return sum(sizes) * config.max_documents / len(files)
    return sum(sizes)


def training_tokens(recipe: Recipe, assumed: Assumptions, tokens: int | None) -> int:
    """Tokens of the train split."""
    kept = text_bytes(recipe, assumed, tokens) * (1 - recipe.prepare_data.validation_fraction)
    return round(kept / assumed.bytes_per_token)


def _unpacked(path: str, assumed: Assumptions) -> float:
    return assumed.unpacked if path.lower().endswith(_PACKED) else 1.0
