"""Reads sequences, and the Teacher's scores beside them, memory-mapped and in a reproducible order."""

from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset, concatenate_datasets, disable_progress_bars

from matta_core import distributed
from matta_core.artifacts import Artifact
from matta_core.errors import UserError
from matta_core.objectives import Objective
from matta_core.objectives.objective import Batch
from matta_core.recipe import TrainConfig


class Sequences:
    """The objective's columns of one split of a TokenizedDataset, with a Teacher's beside them, if wanted: those of
    TeacherScores, or those that `teacher` gives for a batch, in training (`Teacher.columns`).

    `datasets` memory-maps Arrow files, which lie in `cache` while the step runs.
    """

    def __init__(
        self,
        objective: Objective,
        dataset: Artifact,
        split: str,
        cache: Path,
        scores: Artifact | None = None,
        teacher: Callable[[Batch], Batch] | None = None,
    ) -> None:
        disable_progress_bars()
        columns = [_parquet(dataset.path / split, cache).select_columns(list(objective.columns))]
        if scores is not None:
            if scores.inputs.get("dataset") != dataset.digest:
                raise UserError(
                    f"{scores.path} holds scores of another dataset than {dataset.path}: run score_teacher on this one"
                )
            columns.append(_parquet(scores.path / split, cache))
            if missing := set(objective.teacher_columns) - set(columns[-1].column_names):
                raise UserError(
                    f"{scores.path} has no columns {', '.join(sorted(missing))}: it was made by another version of "
                    f"score_teacher. Run it again"
                )
        self._objective, self._teacher = objective, teacher
        self._rows = concatenate_datasets(columns, axis=1).with_format("numpy")
        self.sequence_length: int = dataset.metadata["sequence_length"]

    def __len__(self) -> int:
        return len(self._rows)

    def batch(self, rows: np.ndarray, device: torch.device) -> Batch:
        """The sequences of the given row numbers, in their order."""
        batch = as_batch(self._objective.unpack(self._rows[rows]), device)
        return batch if self._teacher is None else {**batch, **self._teacher(batch)}


def as_batch(columns: Mapping[str, np.ndarray], device: torch.device) -> Batch:
    """Columns (sequences, ...) as tensors of int64 or float32. The copy to a GPU does not block."""

    def tensor(values: np.ndarray) -> torch.Tensor:
        kind = np.int64 if np.issubdtype(values.dtype, np.integer) else np.float32
        found = torch.from_numpy(values.astype(kind))
        return found.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else found.to(device)

    return {name: tensor(values) for name, values in columns.items()}


def arrays(rows: pa.RecordBatch | pa.Table) -> dict[str, np.ndarray]:
    """Columns of lists of fixed length as arrays (rows, length)."""
    columns = zip(rows.schema.names, rows.columns, strict=True)
    chunks = {
        name: column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column for name, column in columns
    }
    return {name: column.flatten().to_numpy().reshape(len(column), -1) for name, column in chunks.items()}


def batches_of_step(config: TrainConfig, data: Sequences, step: int, device: torch.device) -> Iterator[Batch]:
    """This rank's share of a step's sequences, in passes of at most micro_batch_size, each read when it is needed.
    Steps are counted from the first of the joint run."""
    rows = rows_of_step(len(data), config.batch_size, step, config.seed)
    mine = rows[distributed.rank() :: distributed.world_size()]
    size = config.micro_batch_size or len(mine)
    for start in range(0, len(mine), size):
        yield data.batch(mine[start : start + size], device)


def rows_of_step(num_rows: int, batch_size: int, step: int, seed: int) -> np.ndarray:
    """The rows of optimizer step `step` (from 0). Each epoch is a new permutation, which depends on seed and epoch.

    Nothing is remembered from step to step, so a resumed run reads what an uninterrupted one would have read.
    """
    positions = np.arange(step * batch_size, (step + 1) * batch_size)
    epochs, offsets = np.divmod(positions, num_rows)
    return np.array(
        [_permutation(num_rows, seed, int(epoch))[offset] for epoch, offset in zip(epochs, offsets, strict=True)]
    )


@lru_cache(maxsize=2)
def _permutation(num_rows: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(num_rows)


def _parquet(folder: Path, cache: Path) -> Dataset:
    files = sorted(str(file) for file in folder.glob("*.parquet"))
    if not files:
        raise UserError(f"there are no parquet files in {folder}: make the artifact again")
    return Dataset.from_parquet(files, cache_dir=str(cache))
