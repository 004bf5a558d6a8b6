"""Scoring: the Teacher's top-k log-probabilities and tail mass at every predicted token, computed once."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from matta_core import distributed
from matta_core.artifacts import Artifact
from matta_core.checkpoints import check_plain_head, non_finite
from matta_core.errors import UserError, some_of
from matta_core.pretrained import load_model, load_tokenizer
from matta_core.progress import progress
from matta_core.recipe import ScoreTeacherConfig
from matta_core.tokens import num_token_ids
from matta_core.training.passes import PassSettings, TeacherTargets, top_k_scores
from matta_core.training.precision import autocast_dtype

_HEAD_CHUNK_TOKENS = 4096


def score_teacher(config: ScoreTeacherConfig, teacher: str | Path, dataset: Artifact, output: Path) -> dict[str, Any]:
    """Write `train/part-*.parquet`, one to one with the dataset's shards and rows. Finished shards are kept.

    Columns, per row of length T: top_k_ids (T-1)*k int32, top_k_log_probs (T-1)*k float16, tail_mass T-1 float16.
    Probabilities are over the token ids of the dataset's tokenizer alone, whatever the Teacher's output adds to them.
    Only the train split is scored: validation compares the sizes by their cross-entropy.

    Raises: UserError where the Teacher means other tokens by the dataset's ids, changes its logits after the output
    head, or gives one that is no finite number, or k exceeds the number of tokens.
    """
    device = distributed.pick_device()
    model = load_model(teacher, torch.float32 if config.precision == "fp32" else None).to(device).eval()
    tokenizer = load_tokenizer(dataset.path / "tokenizer")
    _check_vocabulary(model, teacher, tokenizer)
    _check_length(model, teacher, dataset.metadata["sequence_length"])
    check_plain_head(model, teacher)
    vocab_size = num_token_ids(tokenizer)
    if config.top_k > vocab_size:
        raise UserError(f"score_teacher.top_k must be at most the vocabulary's {vocab_size}, got {config.top_k}")
    settings = PassSettings(_HEAD_CHUNK_TOKENS, autocast_dtype(config.precision, model, device))
    shards = sorted((dataset.path / "train").glob("*.parquet"))
    (output / "train").mkdir(exist_ok=True)
    with progress(dataset.metadata["num_train_sequences"], "score_teacher", "sequences") as bar:
        for shard in shards:
            target = output / "train" / shard.name
            if target.exists():
                bar.update(pq.ParquetFile(target).metadata.num_rows)
                continue
            temporary = target.with_name(f".{target.name}.tmp")
            try:
                _score_shard(model, shard, temporary, config, vocab_size, settings, device, bar.update)
            except _NotFiniteError as error:
                raise UserError(f"teacher {teacher} {_why_not_finite(model, settings, str(error))}") from None
            temporary.rename(target)
    return {"top_k": config.top_k, "teacher_parameters": sum(p.numel() for p in model.parameters())}


class _NotFiniteError(Exception):
    """Where the first log-probability lies that is NaN, or beyond what float16 holds."""


def _why_not_finite(model: PreTrainedModel, settings: PassSettings, where: str) -> str:
    computed_in = str(settings.autocast_dtype or model.dtype).removeprefix("torch.")
    if names := non_finite(model.named_parameters()):
        remedy = f"its weights {some_of(names)} hold NaN or infinity. Take another checkpoint"
    elif computed_in == "float32":
        remedy = "though its weights are finite and it was computed in float32. Take another checkpoint"
    else:
        remedy = f"as it overflows in {computed_in}, in which it was computed. Set score_teacher.precision to fp32"
    return f"gives log-probabilities that are no finite numbers ({where}), {remedy}"


def _score_shard(
    model: PreTrainedModel,
    shard: Path,
    target: Path,
    config: ScoreTeacherConfig,
    vocab_size: int,
    settings: PassSettings,
    device: torch.device,
    advance: Any,
) -> None:
    rows, done = pq.ParquetFile(shard), 0
    with pq.ParquetWriter(target, _schema(rows, config.top_k), compression="zstd") as writer:
        for batch in rows.iter_batches(batch_size=config.batch_size):
            column = batch.column("input_ids")
            if len(column) == 0:
                continue
            input_ids = column.flatten().to_numpy().reshape(len(column), -1)
            scores = top_k_scores(
                model,
                torch.from_numpy(input_ids.astype(np.int64)).to(device),
                config.top_k,
                vocab_size,
                settings,
            )
            record = _record_batch(scores, len(column), writer.schema)
            _check_finite(record, done, shard)
            writer.write_batch(record)
            done += len(column)
            advance(len(column))


def _check_finite(record: pa.RecordBatch, rows_before: int, shard: Path) -> None:
    for column in ("top_k_log_probs", "tail_mass"):
        values = record.column(column).flatten().to_numpy().reshape(record.num_rows, -1)
        if len(broken := np.flatnonzero(~np.isfinite(values).all(axis=1))):
            raise _NotFiniteError(f"first in sequence {rows_before + broken[0]} of {shard.name}")


def _schema(rows: pq.ParquetFile, top_k: int) -> pa.Schema:
    predicted = rows.schema_arrow.field("input_ids").type.list_size - 1
    return pa.schema(
        {
            "top_k_ids": pa.list_(pa.int32(), predicted * top_k),
            "top_k_log_probs": pa.list_(pa.float16(), predicted * top_k),
            "tail_mass": pa.list_(pa.float16(), predicted),
        }
    )


def _record_batch(scores: TeacherTargets, num_rows: int, schema: pa.Schema) -> pa.RecordBatch:
    with np.errstate(over="ignore"):  # infinity is refused afterwards, with its place
        columns = (
            scores.top_k_ids.cpu().numpy().astype(np.int32),
            scores.top_k_log_probs.cpu().numpy().astype(np.float16),
            scores.tail_mass.cpu().numpy().astype(np.float16),
        )
    arrays = [
        pa.FixedSizeListArray.from_arrays(pa.array(column.reshape(-1)), type=field.type)
        for column, field in zip(columns, schema, strict=True)
    ]
    assert all(len(array) == num_rows for array in arrays)
    return pa.record_batch(arrays, schema=schema)


def _check_vocabulary(model: PreTrainedModel, teacher: str | Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """The Teacher must mean the same by each of the dataset's token ids; ids above them, tokens or padding, are cut.

    Raises: UserError where a token has another id or none, or the Teacher's output is too narrow.
    """
    theirs, ours = load_tokenizer(teacher).get_vocab(), tokenizer.get_vocab()
    different = sorted(ours.items() - theirs.items(), key=lambda item: item[1])
    if different:
        token, number = different[0]
        there = f"id {theirs[token]}" if token in theirs else "no id"
        raise UserError(
            f"the vocabulary of teacher {teacher} ({len(theirs)} tokens) is not the dataset's ({len(ours)} tokens): "
            f"{len(different)} of the dataset's tokens have another id or none; {token!r} has id {number} in the "
            f"dataset and {there} in the teacher. Set prepare_data.tokenizer to the teacher's tokenizer, or choose a "
            f"teacher with the dataset's"
        )
    predicted = model.get_output_embeddings().weight.shape[0]
    if predicted < (needed := num_token_ids(tokenizer)):
        raise UserError(
            f"teacher {teacher} predicts {predicted} tokens, the dataset's tokenizer has ids up to "
            f"{needed - 1}: choose a teacher whose config.vocab_size is at least {needed}"
        )


def _check_length(model: PreTrainedModel, teacher: str | Path, sequence_length: int) -> None:
    longest = getattr(model.config.get_text_config(), "max_position_embeddings", sequence_length)
    if longest < sequence_length:
        raise UserError(
            f"teacher {teacher} reads at most {longest} tokens: set prepare_data.sequence_length to that or less, "
            f"got {sequence_length}"
        )
