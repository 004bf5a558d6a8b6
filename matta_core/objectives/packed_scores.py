"""The form in which a Teacher's scores lie in parquet files. `benchmarks/teacher_cache.py` measures it beside others.

Probabilities p are whole numbers, round(-log(p) x 64). The top k descend, so that the differences of their numbers are
small and never negative; so are those of the sampled ids, which ascend. Parquet puts the first bytes of a column's
numbers together, then the second ones and so on, and zstd finds what each needs: packed bits would hide it.
"""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
from torch import Tensor

from matta_core.recipe import ScoreTeacherConfig

STEPS_PER_NAT = 64  # p is exact to 0.8 %
TAIL_STEPS_PER_NAT = 2048  # there are two numbers of the rest, which weigh more than one of many
_LARGEST = np.iinfo(np.uint16).max  # 1,024 nats, and 32 of the rest: a mass of 1e-14 counts for nothing

COLUMNS = ("top_k_ids", "top_k_steps", "tail_mass_steps")
TAIL_COLUMNS = ("tail_id_gaps", "tail_log_prob_steps")


def schema(config: ScoreTeacherConfig, predicted: int) -> pa.Schema:
    """The columns of sequences that predict `predicted` tokens each."""
    types = [
        pa.list_(pa.int32(), predicted * config.top_k),
        pa.list_(pa.uint16(), predicted * config.top_k),
        pa.list_(pa.uint16(), predicted),
    ]
    if not config.tail_samples:
        return pa.schema(zip(COLUMNS, types, strict=True))
    types += [pa.list_(pa.int32(), predicted * config.tail_samples), pa.list_(pa.uint16(), predicted)]
    return pa.schema(zip(COLUMNS + TAIL_COLUMNS, types, strict=True))


def pack(scores: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """Columns of the schema, from those of TeacherTargets, (tokens, ...)."""
    given = {name: values.cpu().numpy() for name, values in scores.items()}
    log_mass = np.log(np.maximum(given["tail_mass"], np.finfo(np.float32).tiny))
    packed: dict[str, np.ndarray] = {
        "top_k_ids": given["top_k_ids"].astype(np.int32),
        "top_k_steps": _differences(_steps(given["top_k_log_probs"])).astype(np.uint16),
        "tail_mass_steps": _steps(log_mass, TAIL_STEPS_PER_NAT).astype(np.uint16),
    }
    if "tail_ids" in given:
        packed["tail_id_gaps"] = _differences(given["tail_ids"]).astype(np.int32)
        packed["tail_log_prob_steps"] = _steps(given["tail_log_prob"], TAIL_STEPS_PER_NAT).astype(np.uint16)
    return packed


def unpack(columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Columns of TeacherTargets (sequences, ...), from those of the schema. Others stay as they are."""
    found = {name: values for name, values in columns.items() if name not in COLUMNS + TAIL_COLUMNS}
    if COLUMNS[0] not in columns:
        return found
    sequences, predicted = columns["tail_mass_steps"].shape

    def summed(name: str) -> np.ndarray:
        return np.cumsum(columns[name].reshape(sequences, predicted, -1), axis=-1, dtype=np.int64)

    log_probs = _log_probs(summed("top_k_steps"))
    tail_mass = np.exp(_log_probs(columns["tail_mass_steps"], TAIL_STEPS_PER_NAT))
    # Rounded, they no longer add up to 1, by which a small divergence would be off.
    total = np.exp(log_probs).sum(-1) + tail_mass
    log_probs -= np.log(total)[..., None]
    found |= {
        "top_k_ids": columns["top_k_ids"],
        "top_k_log_probs": log_probs.reshape(sequences, -1),
        "tail_mass": tail_mass / total,
    }
    if TAIL_COLUMNS[0] in columns:
        found["tail_ids"] = summed("tail_id_gaps").reshape(sequences, -1)
        found["tail_log_prob"] = _log_probs(columns["tail_log_prob_steps"], TAIL_STEPS_PER_NAT)
    return found


def _steps(log_probs: np.ndarray, per_nat: int = STEPS_PER_NAT) -> np.ndarray:
    return np.rint(log_probs * -per_nat).clip(0, _LARGEST).astype(np.int32)


def _log_probs(steps: np.ndarray, per_nat: int = STEPS_PER_NAT) -> np.ndarray:
    return steps.astype(np.float32) / np.float32(-per_nat)


def _differences(values: np.ndarray) -> np.ndarray:
    return np.diff(values, axis=-1, prepend=0)
