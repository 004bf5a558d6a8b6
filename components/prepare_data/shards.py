"""Parquet shards: written whole or not at all, and read in order."""

import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

DOCUMENTS = pa.schema([("source", pa.string()), ("text", pa.string())])
# They bound the memory of writers and readers.
_DOCUMENTS_PER_BATCH = 256
_SEQUENCES_PER_BATCH = 8192


def write_shard(path: Path, schema: pa.Schema, batches: Iterable[pa.Table], temporary: Path) -> int:
    """Write a row group per batch below `temporary`, then rename to `path`; return the number of rows.

    An attempt that dies leaves no part of a shard. A repeated one writes the same bytes again.
    """
    unfinished = temporary / f"{uuid.uuid4().hex}.parquet"
    rows = 0
    with pq.ParquetWriter(unfinished, schema, compression="zstd") as writer:
        for batch in batches:
            writer.write_table(batch)
            rows += batch.num_rows
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished.replace(path)
    return rows


def document_batches(documents: list[tuple[str, str]]) -> Iterator[pa.Table]:
    """Tables of the schema DOCUMENTS from (source, text)."""
    for start in range(0, len(documents), _DOCUMENTS_PER_BATCH):
        sources, texts = zip(*documents[start : start + _DOCUMENTS_PER_BATCH], strict=True)
        yield pa.table([sources, texts], schema=DOCUMENTS)


def read_texts(path: Path) -> Iterator[list[str]]:
    """The texts of a shard of documents, in order, a few hundred at a time."""
    with pq.ParquetFile(path) as parquet:
        for batch in parquet.iter_batches(batch_size=_DOCUMENTS_PER_BATCH, columns=["text"]):
            yield batch.column(0).to_pylist()


def sequences_schema(sequence_length: int) -> pa.Schema:
    return pa.schema([("input_ids", pa.list_(pa.int32(), sequence_length))])


def pack(streams: Iterable[np.ndarray], sequence_length: int) -> Iterator[pa.Table]:
    """Cut one long stream of token ids, given in pieces, into rows of `sequence_length`. The rest is dropped.

    Shapes: pieces (tokens,) of any length; every table but the last has as many rows as a row group holds.
    """
    schema = sequences_schema(sequence_length)
    batch_tokens = _SEQUENCES_PER_BATCH * sequence_length
    waiting: list[np.ndarray] = []
    num_waiting = 0
    for piece in streams:
        waiting.append(piece)
        num_waiting += len(piece)
        if num_waiting >= batch_tokens:
            tokens = np.concatenate(waiting)
            whole = num_waiting - num_waiting % batch_tokens
            for start in range(0, whole, batch_tokens):
                yield _rows(tokens[start : start + batch_tokens], schema)
            waiting, num_waiting = [tokens[whole:]], num_waiting - whole
    if num_waiting >= sequence_length:
        tokens = np.concatenate(waiting)
        yield _rows(tokens[: num_waiting - num_waiting % sequence_length], schema)


def _rows(tokens: np.ndarray, schema: pa.Schema) -> pa.Table:
    values = pa.array(tokens, type=pa.int32())
    return pa.table([pa.FixedSizeListArray.from_arrays(values, type=schema.field(0).type)], schema=schema)
