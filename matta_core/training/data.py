"""Reading packed sequences, and the Teacher's scores beside them, memory-mapped, in a reproducible order."""

from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset, concatenate_datasets, disable_progress_bars

from matta_core.artifacts import Artifact
from matta_core.errors import UserError
from matta_core.training.passes import Batch, TeacherTargets


class Sequences:
    """One split of a TokenizedDataset, with TeacherScores beside it or not.

    Arrow files are memory-mapped through `datasets`: `cache` holds them while the step runs.
    """

    def __init__(self, dataset: Artifact, split: str, cache: Path, scores: Artifact | None = None) -> None:
        disable_progress_bars()
        columns = [_parquet(dataset.path / split, cache)]
        if scores is not None:
            if scores.inputs.get("dataset") != dataset.digest:
                raise UserError(
                    f"{scores.path} holds scores of another dataset than {dataset.path}: run score_teacher on this one"
                )
            columns.append(_parquet(scores.path / split, cache))
        self._rows = concatenate_datasets(columns, axis=1).with_format("numpy")
        self._has_scores = scores is not None
        self.sequence_length: int = dataset.metadata["sequence_length"]

    def __len__(self) -> int:
        return len(self._rows)

    def batch(self, rows: np.ndarray, device: torch.device) -> Batch:
        """The sequences of the given row numbers, in their order."""
        columns = self._rows[rows]
        input_ids = torch.from_numpy(columns["input_ids"].astype(np.int64)).to(device)
        if not self._has_scores:
            return Batch(input_ids, None)
        tokens = input_ids.shape[0] * (input_ids.shape[1] - 1)
        ids = torch.from_numpy(columns["top_k_ids"].astype(np.int64)).to(device)
        log_probs = torch.from_numpy(columns["top_k_log_probs"].astype(np.float32)).to(device)
        tail_mass = torch.from_numpy(columns["tail_mass"].astype(np.float32)).to(device)
        return Batch(
            input_ids,
            TeacherTargets(ids.reshape(tokens, -1), log_probs.reshape(tokens, -1), tail_mass.reshape(tokens)),
        )


def rows_of_step(num_rows: int, batch_size: int, step: int, seed: int) -> np.ndarray:
    """The rows of optimizer step `step` (from 0): each epoch is a new permutation, a function of seed and epoch.

    Nothing is remembered from step to step, so a resumed run reads what the uninterrupted one would have read.
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
