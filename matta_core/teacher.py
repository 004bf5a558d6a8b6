"""The Teacher's scores: of every target of the train split, computed once, or of a batch in training."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor
from transformers import PreTrainedModel

from matta_core import distributed
from matta_core.artifacts import Artifact
from matta_core.checkpoints import non_finite
from matta_core.errors import UserError, some_of
from matta_core.objectives import OBJECTIVE, Objective
from matta_core.objectives.objective import Batch, num_sequences
from matta_core.pretrained import load_model, load_tokenizer, moved
from matta_core.progress import progress
from matta_core.recipe import ScoreTeacherConfig
from matta_core.tokens import num_token_ids
from matta_core.training.data import arrays, as_batch
from matta_core.training.passes import PassSettings, teacher_scores
from matta_core.training.precision import autocast_dtype

# The first bytes of a column's numbers lie together, and so on, where zstd finds more (benchmarks/teacher_cache.py).
PARQUET_OPTIONS: Mapping[str, Any] = {"compression": "zstd", "use_dictionary": False, "use_byte_stream_split": True}


class OnlineTeacher(NamedTuple):
    """A Teacher that scores in training: how, and its checkpoint."""

    config: ScoreTeacherConfig
    checkpoint: str | Path


@dataclass(frozen=True)
class Teacher:
    """A Teacher that fits a dataset, on its device."""

    objective: Objective
    name: str | Path
    model: PreTrainedModel
    config: ScoreTeacherConfig
    num_ids: int
    settings: PassSettings
    device: torch.device

    def scores(self, batch: Batch) -> dict[str, Tensor]:
        """The scores of a batch's targets, by column: (targets, ...)."""
        return teacher_scores(self.objective, self.model, batch, self.config, self.num_ids, self.settings)

    def columns(self, batch: Batch) -> dict[str, Tensor]:
        """The same as columns of the batch: (sequences, ...)."""
        sequences = num_sequences(batch)
        return {name: values.reshape(sequences, -1) for name, values in self.scores(batch).items()}


def load_teacher(
    config: ScoreTeacherConfig, teacher: str | Path, dataset: Artifact, objective: Objective, device: torch.device
) -> Teacher:
    """Raises: UserError where the Teacher does not fit the dataset, as `Objective.check_teacher` says."""
    dtype = torch.float32 if config.precision == "fp32" else None
    model = moved(load_model(teacher, objective.model_class, dtype), device).eval().requires_grad_(False)
    tokenizer = load_tokenizer(dataset.path / "tokenizer")
    objective.check_teacher(model, teacher, config, tokenizer, dataset.metadata["sequence_length"])
    settings = PassSettings(autocast_dtype=autocast_dtype(config.precision, model, device))
    return Teacher(objective, teacher, model, config, num_token_ids(tokenizer), settings, device)


def score_teacher(
    config: ScoreTeacherConfig,
    teacher: str | Path,
    dataset: Artifact,
    output: Path,
    objective: Objective = OBJECTIVE,
) -> dict[str, Any]:
    """Write `train/part-*.parquet`, one to one with the dataset's shards and rows. Finished shards are kept.

    The columns are the objective's (for next tokens, `objectives.packed_scores`). Probabilities are over the token ids
    of the dataset's tokenizer alone, even if the Teacher's output has more. Only the train split is scored: validation
    needs no Teacher. Under torchrun each rank takes every so manieth shard, and all wait for one another at the end.

    Raises: UserError where the Teacher does not fit the dataset, as `Objective.check_teacher` says, or gives a score
    that is no finite number.
    """
    rank, ranks = distributed.rank(), distributed.world_size()
    device = distributed.pick_device()
    distributed.start(device)
    loaded = load_teacher(config, teacher, dataset, objective, device)
    schema = objective.score_schema(config, dataset.metadata["sequence_length"])
    mine = sorted((dataset.path / "train").glob("*.parquet"))[rank::ranks]
    (output / "train").mkdir(exist_ok=True)
    what = "score_teacher" if ranks == 1 else f"score_teacher, of {ranks} ranks the first"
    with progress(sum(pq.ParquetFile(shard).metadata.num_rows for shard in mine), what, "sequences") as bar:
        for shard in mine:
            target = output / "train" / shard.name
            if target.exists():
                bar.update(pq.ParquetFile(target).metadata.num_rows)
                continue
            temporary = target.with_name(f".{target.name}.tmp")
            try:
                _score_shard(loaded, schema, shard, temporary, bar.update)
            except _NotFiniteError as error:
                why = _why_not_finite(loaded.model, loaded.settings, str(error))
                raise UserError(f"teacher {teacher} {why}") from None
            temporary.rename(target)
    distributed.wait_for_all()
    distributed.stop()
    parameters = sum(p.numel() for p in loaded.model.parameters())
    return {"top_k": config.top_k, "teacher_parameters": parameters}


class _NotFiniteError(Exception):
    """A score is no finite number. The error says where the first one lies."""


def _why_not_finite(model: PreTrainedModel, settings: PassSettings, where: str) -> str:
    computed_in = str(settings.autocast_dtype or model.dtype).removeprefix("torch.")
    if names := non_finite(model.named_parameters()):
        remedy = f"its weights {some_of(names)} hold NaN or infinity. Take another checkpoint"
    elif computed_in == "float32":
        remedy = "though its weights are finite and it was computed in float32. Take another checkpoint"
    else:
        remedy = f"as it overflows in {computed_in}, in which it was computed. Set score_teacher.precision to fp32"
    return f"gives log-probabilities that are no finite numbers ({where}), {remedy}"


def _score_shard(teacher: Teacher, schema: pa.Schema, shard: Path, target: Path, advance: Any) -> None:
    objective, done = teacher.objective, 0
    with pq.ParquetWriter(target, schema, **PARQUET_OPTIONS) as writer:
        for rows in pq.ParquetFile(shard).iter_batches(teacher.config.batch_size, columns=list(objective.columns)):
            if len(rows) == 0:
                continue
            scores = teacher.scores(as_batch(arrays(rows), teacher.device))
            _check_finite(scores, len(rows), done, shard)
            writer.write_batch(_record_batch(objective.pack(scores), len(rows), schema))
            done += len(rows)
            advance(len(rows))


def _check_finite(scores: Mapping[str, Tensor], num_rows: int, rows_before: int, shard: Path) -> None:
    for values in scores.values():
        broken = (~values.isfinite()).view(num_rows, -1).any(1).nonzero()
        if len(broken):
            raise _NotFiniteError(f"first in sequence {rows_before + broken[0].item()} of {shard.name}")


def _record_batch(columns: Mapping[str, np.ndarray], num_rows: int, schema: pa.Schema) -> pa.RecordBatch:
    lists = [
        pa.FixedSizeListArray.from_arrays(pa.array(columns[field.name].reshape(-1)), type=field.type)
        for field in schema
    ]
    assert all(len(column) == num_rows for column in lists)
    return pa.record_batch(lists, schema=schema)
