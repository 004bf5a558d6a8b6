"""The figures of steps, and the log that they go to: JSON Lines and TensorBoard. A resumed run repeats none.

The first line after a resume averages over the steps since the checkpoint.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from matta_core.artifacts.kinds.checkpoint import METRICS
from matta_core.errors import TrainingDivergedError
from matta_core.objectives.objective import Sums


class Figures:
    """The figures of the steps since the last `take`. They stay on the device, because reading them waits for it."""

    def __init__(self) -> None:
        self._unread: list[tuple[int, tuple[str, ...], Tensor]] = []
        self._read: list[dict[str, float]] = []
        self._grad_norm = math.nan

    def add(self, step: int, sums: Sums, grad_norm: Tensor) -> None:
        self._unread.append((step, tuple(sums), torch.stack([*sums.values(), grad_norm])))

    def check(self) -> None:
        """Check all steps so far. Raises: TrainingDivergedError that names the first whose loss or gradient was not
        finite. All ranks have the same figures, so all of them raise it."""
        unread, self._unread = self._unread, []
        values = iter(torch.cat([figures for *_, figures in unread]).tolist() if unread else ())
        for step, names, _ in unread:
            sums, self._grad_norm = {name: next(values) for name in names}, next(values)
            broken = [f"{name} = {total}" for name, total in sums.items() if not math.isfinite(total)]
            if not math.isfinite(self._grad_norm):
                broken = broken or [f"the gradient norm is {self._grad_norm}"]
            if broken:
                raise TrainingDivergedError(f"training diverged in step {step + 1}: {', '.join(broken)}")
            self._read.append(sums)

    def take(self, targets_of: Mapping[str, int]) -> dict[str, float]:
        """The means per target and the last step's gradient norm, then start anew. `targets_of` tells how many targets
        each size has in a step that trains it; only such steps count.

        Raises: as `check` does.
        """
        self.check()
        steps, self._read = self._read, []
        names = {name: None for sums in steps for name in sums}
        of = {name: [sums[name] for sums in steps if name in sums] for name in names}
        means = {
            f"train/{name}": sum(totals) / (len(totals) * targets_of[name.rpartition("/")[2]])
            for name, totals in of.items()
        }
        return means | {"train/grad_norm": self._grad_norm}


class MetricsLog:
    """Writes `metrics.jsonl` (one object per line: step and values) and `tensorboard/` below a folder."""

    def __init__(self, folder: Path, steps_done: int) -> None:
        path = folder / METRICS
        self._evaluated: set[int] = set()
        if path.exists():
            # Lines after the resumed checkpoint will be written again.
            lines = path.read_text().splitlines(keepends=True) if steps_done else []
            whole = [line for line in lines if line.endswith("\n")]
            kept = [line for line in whole if json.loads(line)["step"] <= steps_done]
            path.write_text("".join(kept))
            rows = map(json.loads, kept)
            self._evaluated = {row["step"] for row in rows if any(name.startswith("eval/") for name in row)}
        self._file = path.open("a")
        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=steps_done + 1 if steps_done else 0)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def write_evaluation(self, step: int, values: Mapping[str, float]) -> None:
        """Write an evaluation's figures, unless the resumed run has written them already."""
        if step not in self._evaluated:
            self.write(step, values)

    def close(self) -> None:
        self._file.close()
        self._writer.close()
