"""prepare_data: documents to packed, fixed-length sequences of token ids, and the tokenizer that made them."""

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

from components.prepare_data.documents import (
    SourceFile,
    find_files,
    fingerprint,
    shard_counts,
    shard_names,
    tokenizer_files,
)
from components.step import run_step, say
from matta_core.artifacts import IN_PROGRESS, Artifact, write_json_atomically
from matta_core.config import PrepareDataConfig
from matta_core.errors import UserError
from matta_core.progress import progress

SPLITS = ("train", "validation")


def prepare_data(config: PrepareDataConfig, *, output: str | Path) -> Artifact:
    """Make a TokenizedDataset: the same documents and settings give the same digest, with any number of workers.

    Files: train/ and validation/ (parquet shards, one column `input_ids` of fixed length), validation_documents/
    (`source`, `text`: what was held out), tokenizer/, stats.json.

    Raises: UserError where the source is empty, unreadable, not UTF-8 or too small, or the tokenizer unusable.
    """
    files = find_files(config.source)
    contents = {"documents": fingerprint(files), "tokenizer": fingerprint(tokenizer_files(config.tokenizer))}
    work = partial(_work, config, files)
    return run_step("prepare_data", "TokenizedDataset", output, config, {}, work, extra_key=contents)


def _work(config: PrepareDataConfig, files: list[SourceFile], path: Path) -> dict[str, Any]:
    """Documents, tokenizer, sequences: a killed run goes on with the first of the three that is not finished."""
    from components.prepare_data import pipeline  # Beam takes seconds to import

    unfinished = path / IN_PROGRESS
    documents = unfinished / "documents"
    names = shard_names(shard_counts(config.num_shards, config.validation_fraction))

    collected = unfinished / "documents.json"
    if not collected.exists():
        _empty(documents)
        megabytes = sum(Path(file.path).stat().st_size for file in files) / 1e6
        say("prepare_data", f"reading {len(files):,} files ({megabytes:.1f} MB) of {config.source}")
        pipeline.run(
            partial(pipeline.collect_documents, files=files, config=config, folder=documents, report=collected),
            config.num_workers,
        )
    stats = _check_documents(json.loads(collected.read_text()), config)

    ...
