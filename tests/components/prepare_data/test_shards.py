import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.prepare_data import shards
from components.prepare_data.shards import DOCUMENTS, document_batches, pack, read_texts, sequences_schema, write_shard

pieces = st.lists(st.lists(st.integers(0, 2**31 - 1), max_size=40), max_size=10)


@given(pieces, st.integers(2, 9), st.integers(1, 4))
def test_packing_cuts_the_stream_and_drops_the_remainder(pieces, sequence_length, rows_per_batch):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "_SEQUENCES_PER_BATCH", rows_per_batch)
        tables = list(pack((np.array(piece, dtype=np.int32) for piece in pieces), sequence_length))
    stream = [token for piece in pieces for token in piece]
    rows = [row for table in tables for row in table["input_ids"].to_pylist()]
    assert [token for row in rows for token in row] == stream[: len(stream) // sequence_length * sequence_length]
    assert all(len(row) == sequence_length for row in rows)
    assert all(table.num_rows == rows_per_batch for table in tables[:-1])


def test_a_shard_keeps_its_fixed_length_type_even_when_empty(tmp_path):
    schema = sequences_schema(8)
    assert write_shard(tmp_path / "a" / "empty.parquet", schema, [], tmp_path) == 0
    table = pq.read_table(tmp_path / "a" / "empty.parquet")
    assert table.num_rows == 0
    assert table.schema.field("input_ids").type == pa.list_(pa.int32(), 8)


def test_an_attempt_that_fails_leaves_no_shard(tmp_path):
    def batches():
        yield next(document_batches([("a", "x")]))
        raise RuntimeError("a worker died")

    with pytest.raises(RuntimeError, match="a worker died"):
        write_shard(tmp_path / "shard.parquet", DOCUMENTS, batches(), tmp_path)
    assert not (tmp_path / "shard.parquet").exists()


def test_the_same_rows_give_the_same_bytes(tmp_path):
    documents = [(f"s{i}", f"text {i}") for i in range(1000)]
    for name in ("a", "b"):
        assert write_shard(tmp_path / name, DOCUMENTS, document_batches(documents), tmp_path) == 1000
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert [text for texts in read_texts(tmp_path / "a") for text in texts] == [text for _, text in documents]
