"""A TokenizedDataset: train/ and validation/ (shards of sequences), validation_documents/, tokenizer/, stats.json."""

from typing import TypedDict

STATS = "stats.json"


class SplitStats(TypedDict):
    """Figures of a split. Bytes are of UTF-8 text. Tokens include each document's BOS, if any, and its EOS. Dropped
    tokens did not fill a sequence."""

    documents: int
    bytes: int
    tokens: int
    sequences: int
    dropped_tokens: int
    bytes_per_token: float


class Stats(TypedDict):
    """`bos_token` stands before every document; it is None where nothing does."""

    files: int
    documents_read: int
    documents_empty: int
    documents_invalid_utf8: int
    documents_duplicate: int
    documents_beyond_maximum: int
    vocab_size: int
    bos_token: str | None
    train: SplitStats
    validation: SplitStats
