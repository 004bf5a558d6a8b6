"""Training metrics in JSON Lines and TensorBoard. A resumed run repeats none.

The first line after a resume averages over the steps since the checkpoint.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from matta_core.artifacts.kinds.checkpoint import METRICS


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
