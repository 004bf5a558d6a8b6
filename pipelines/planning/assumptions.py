"""What a plan assumes where no shape tells it, and the same as a finished run measured it."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from matta_core.artifacts import is_finished, read_manifest
from matta_core.artifacts.json_files import read_json
from matta_core.artifacts.kinds.checkpoint import METRICS
from matta_core.artifacts.kinds.dataset import STATS, Stats
from matta_core.errors import UserError
from matta_core.machines import Machine
from matta_core.recipe import ScoreTeacherConfig
from pipelines.steps import STEPS

_TRAINING = ("train_teacher", "train")


@dataclass(frozen=True)
class Assumptions:
    """What is assumed. Shares of a machine's peak that products reach: in training, in passes forward alone, by step if
    they were measured. `fixed_seconds`: of a step, whatever its size. `other_seconds`: of steps not computed here."""

    training_mfu: float = 0.35
    forward_mfu: float = 0.35
    bytes_per_token: float = 4.0
    unpacked: float = 3.0  # bytes of text per byte of a .gz or .parquet file
    worker_bytes_per_second: float = 4e6  # Beam: 92 MB of English in 23 s with GPT-2's tokenizer, one worker
    cache_bytes_per_token: float | None = None  # None: as `cache_bytes` says
    mfu_of_step: Mapping[str, float] = field(default_factory=dict)
    fixed_seconds: Mapping[str, float] = field(default_factory=dict)
    other_seconds: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for spec in dataclasses.fields(self):
            value = getattr(self, spec.name)
            if isinstance(value, float) and not 0 < value < float("inf"):
                raise UserError(f"--{spec.name.replace('_', '-')} must be > 0, got {value:g}")
        for option, share in (("--training-mfu", self.training_mfu), ("--forward-mfu", self.forward_mfu)):
            if share > 1:
                raise UserError(f"{option} must be <= 1, as 0.35 is 35 %, got {share:g}")

    def cache_bytes(self, config: ScoreTeacherConfig) -> float:
        """Per token, by the table in docs/method.md."""
        return self.cache_bytes_per_token or 2.2 * config.top_k + 1.4 * config.tail_samples

    def mfu(self, step: str) -> float:
        usual = self.training_mfu if step in _TRAINING else self.forward_mfu
        return self.mfu_of_step.get(step, usual)


class _Made(NamedTuple):
    """An artifact, by its manifest alone: its files are not hashed."""

    path: Path
    metadata: Mapping[str, Any]
    seconds: float
    created_at: str


def calibrated(assumed: Assumptions, run: Path, machine: Machine, num_workers: int) -> Assumptions:
    """The assumptions as a finished run measured them, on this machine. `num_workers` is that of its recipe.

    Raises: UserError where the folder holds no finished training.
    """
    made = _newest_artifacts(run)
    mfu, fixed = {}, {}
    for step in _TRAINING:
        if (checkpoint := made.get(step)) is not None:
            per_rank, fixed[step] = _speed_of_training(checkpoint)
            mfu[step] = per_rank / machine.peak_flops
    measured: dict[str, float] = {}
    if (data := made.get("prepare_data")) is not None:
        stats = read_json(data.path / STATS, Stats, remedy="run prepare_data again")
        splits = (stats["train"], stats["validation"])
        measured["bytes_per_token"] = stats["train"]["bytes_per_token"]
        measured["worker_bytes_per_second"] = sum(split["bytes"] for split in splits) / (data.seconds * num_workers)
    if data is not None and (scores := made.get("score_teacher")) is not None:
        tokens = data.metadata["num_train_sequences"] * data.metadata["sequence_length"]
        size = sum(file.stat().st_size for file in (scores.path / "train").iterdir())
        measured["cache_bytes_per_token"] = size / tokens
        teacher = made.get("train_teacher")
        flops = teacher.metadata["flops_per_token"] if teacher else 2 * scores.metadata["teacher_parameters"]
        mfu["score_teacher"] = tokens * flops / (scores.seconds * machine.peak_flops)  # by one process
    others = {step: artifact.seconds for step, artifact in made.items() if step not in (*mfu, "prepare_data")}
    return dataclasses.replace(assumed, **measured, mfu_of_step=mfu, fixed_seconds=fixed, other_seconds=others)


def _newest_artifacts(run: Path) -> dict[str, _Made]:
    """The newest finished artifact of each step below a run's folder."""
    found: dict[str, list[_Made]] = {}
    for folder in run.glob("artifacts/*-*"):
        step = folder.name.rpartition("-")[0]
        if step in STEPS and is_finished(folder):
            manifest = read_manifest(folder)
            made = _Made(folder, manifest["metadata"], manifest["seconds"], manifest["created_at"])
            found.setdefault(step, []).append(made)
    if "train" not in found:
        raise UserError(
            f"--calibrate {run} holds no finished training in artifacts/train-*: give the --output of a run that has "
            f"ended"
        )
    return {step: max(made, key=lambda one: one.created_at) for step, made in found.items()}


def _speed_of_training(checkpoint: _Made) -> tuple[float, float]:
    """FLOP/s of a rank while it trains, and the seconds that the training took beyond that."""
    if "flops" not in checkpoint.metadata:
        raise UserError(f"--calibrate: {checkpoint.path} was made by a version that did not count FLOPs: run it again")
    seconds = flops = 0.0
    for metrics in sorted(checkpoint.path.rglob(METRICS)):
        for row in map(json.loads, metrics.read_text().splitlines()):
            if "perf/seconds" in row:
                seconds += row["perf/seconds"]
                flops += row["perf/seconds"] * row["perf/flops_per_second"]
    rate = flops / seconds
    return rate / checkpoint.metadata["ranks"], max(0.0, checkpoint.seconds - checkpoint.metadata["flops"] / rate)
