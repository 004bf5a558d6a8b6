"""Documents: when two of them are the same, and what their hash decides.

One sha256 of the normalised text decides everything. Its digits are as good as random and independent of one another:
the lowest hashes are a fair sample, the last digits choose the split, and those in the middle the shard. Equal texts
have equal hashes, so a duplicate can neither survive nor stand in both splits.
"""

import hashlib
import unicodedata


def normalise(text: str) -> str:
    """The text in Unicode NFC, with newlines as \\n, no byte order mark, and no white space at the end. Idempotent."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").lstrip("\ufeff")
    return unicodedata.normalize("NFC", text).rstrip()


def content_hash(text: str) -> str:
    """sha256 of a normalised text: 64 hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()


def split_of(digest: str, validation_fraction: float) -> str:
    """The split of a hash: 'validation' for that fraction of all hashes, 'train' for the others."""
    return "validation" if int(digest[-16:], 16) < validation_fraction * 2**64 else "train"


def shard_counts(num_shards: int, validation_fraction: float) -> dict[str, int]:
    """How many shards each split has. Validation shards are about as large as training shards."""
    share = validation_fraction / (1 - validation_fraction)
    return {"train": num_shards, "validation": max(1, round(num_shards * share))}


def shard_names(counts: dict[str, int]) -> list[str]:
    """All shards' files, relative to the dataset's directory."""
    return [_shard_name(split, shard, count) for split, count in counts.items() for shard in range(count)]


def shard_of(digest: str, validation_fraction: float, counts: dict[str, int]) -> str:
    """The file of the shard that a document belongs to."""
    split = split_of(digest, validation_fraction)
    return _shard_name(split, int(digest[16:32], 16) % counts[split], counts[split])


def _shard_name(split: str, shard: int, count: int) -> str:
    return f"{split}/part-{shard:05d}-of-{count:05d}.parquet"
