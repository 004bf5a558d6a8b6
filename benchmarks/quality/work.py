"""What is trained once, and measured: Teachers, scores, runs, and losses on sequences that tuning never saw."""

import dataclasses
import fcntl
import os
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.quality.arms import Run
from components.common.command_line import DEFAULT_RECIPE, load_recipe
from components.score_teacher.step import score_teacher
from components.train.step import train, train_teacher
from matta_core.artifacts import Artifact, digest_of, open_artifact
from matta_core.artifacts.kinds.checkpoint import CONSOLIDATED, read_nesting
from matta_core.distributed import pick_device
from matta_core.nesting.live import live_student
from matta_core.nesting.size import Granularity
from matta_core.objectives import OBJECTIVE
from matta_core.pretrained import load_model, moved
from matta_core.recipe import PrepareDataConfig, Recipe
from matta_core.training.data import Sequences
from matta_core.training.passes import PassSettings, error_sum

TUNING = 128  # the first held-out sequences: training itself looks at them, and rates are tuned on them
REGIMES = ("in_domain", "general_teacher")
# General text: the sources of this environment's packages. The domain is the standard library's.
_GENERAL = {"source": f"{sysconfig.get_path('purelib')}/**/*.py", "on_invalid_utf8": "skip", "max_documents": 500}
_GENERAL_STEPS = 1000


@dataclass(frozen=True)
class Place:
    """Where artifacts lie. They are made once, by key: a benchmark that was killed goes on."""

    folder: Path
    domain: Path | None = None  # prepared datasets, where Beam is not installed
    general: Path | None = None

    def output(self, step: str) -> str:
        return f"{self.folder}/{step}-{{key}}"

    def recipe(self) -> Recipe:
        return load_recipe(DEFAULT_RECIPE, [f"train.eval_sequences={TUNING}", "train.eval_every_steps=100000"])

    def dataset(self) -> Path:
        if self.domain is not None:
            return self.domain
        return self.prepared(self.recipe().prepare_data)

    def prepared(self, config: PrepareDataConfig) -> Path:
        from components.prepare_data.step import prepare_data

        return prepare_data(config, output=self.output("prepare_data")).path

    def teacher(self, regime: str) -> Path:
        recipe, dataset = self.recipe(), self.dataset()
        assert recipe.train_teacher is not None, "the demo trains its Teacher"
        config = recipe.train_teacher
        if regime == "general_teacher":
            settings = dataclasses.replace(recipe.prepare_data, tokenizer=str(dataset / "tokenizer"), **_GENERAL)
            dataset = self.general or self.prepared(settings)
            config = dataclasses.replace(config, steps=_GENERAL_STEPS)
        return train_teacher(config, dataset, output=self.output("train_teacher")).path

    def scores(self, teacher: Path) -> Path:
        config = self.recipe().score_teacher
        with self.alone(f"scores-{digest_of(str(teacher))}"):
            return score_teacher(config, self.dataset(), teacher, output=self.output("score_teacher")).path

    def trained(self, regime: str, run: Run, ta: Run | None = None) -> Artifact:
        """The run's checkpoint. `ta` is the run whose result teaches it, if it is taught by its arm's own TA. Arms
        share runs: whoever comes second waits."""
        scores = None
        if run.taught == "teacher":
            scores = self.scores(self.teacher(regime))
        elif run.taught == "ta":
            assert ta is not None, "the TA is trained first"
            scores = self.scores(self.trained(regime, ta).path)
        with self.alone(f"train-{digest_of([run.config.to_dict(), str(scores)])}"):
            return train(run.config, self.dataset(), scores, output=self.output("train"))

    @contextmanager
    def alone(self, name: str) -> Iterator[None]:
        """Within it, no other process of the benchmark is at work on what is named so."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / f".{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @torch.no_grad()
    def losses(self, checkpoint: Artifact) -> dict[str, np.ndarray]:
        """By size the mean loss of each held-out sequence beyond those of TUNING."""
        device, path = pick_device(), checkpoint.path
        dataset = open_artifact(self.dataset(), "TokenizedDataset")
        data = Sequences(OBJECTIVE, dataset, "validation", self.folder / "arrow")
        nesting, ta = read_nesting(path), load_model(path / "ta", OBJECTIVE.model_class, torch.float32)
        found = {}
        for name, size in nesting["sizes"].items():
            if (path / CONSOLIDATED / name).exists():
                model = load_model(path / CONSOLIDATED / name, OBJECTIVE.model_class, torch.float32)
                moved(model, device).eval()
            else:
                model = live_student(moved(ta, device), Granularity.from_dict(name, size)).eval()
            per = OBJECTIVE.num_targets(1, data.sequence_length)
            each = [
                error_sum(OBJECTIVE, model, data.batch(np.array([row]), device), PassSettings()).item() / per
                for row in range(TUNING, len(data))
            ]
            found[name] = np.array(each)
        return found


@dataclass(frozen=True)
class Task:
    """The runs of one arm with one seed. `budget` is equal_steps, or equal_compute with its share."""

    regime: str
    shape: str
    budget: str
    arm: str
    seed: int
    runs: tuple[Run, ...]
    flops: float


def rows_of(place: Place, task: Task) -> list[dict[str, object]]:
    """A row for each size of an arm."""
    rows = []
    ta = task.runs[0]
    for run in task.runs:
        trained = place.trained(task.regime, run, ta)
        for size, losses in place.losses(trained).items():
            row = {name: value for name, value in asdict(task).items() if name != "runs"}
            row |= {"size": size, "loss": round(float(losses.mean()), 5), "steps": run.config.steps}
            row |= {"learning_rate": run.config.learning_rate, "seconds": round(trained.seconds, 1)}
            row |= {"device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"}
            rows.append(row)
    return rows


def tuning_loss(place: Place, regime: str, run: Run, ta: Run | None, student: str) -> float:
    trained = place.trained(regime, run, ta)
    return float(trained.metadata["final"][f"eval/{trained.metadata['figure']}/{student}"])


def one_thread() -> None:
    os.environ["TQDM_MININTERVAL"] = "1000000"
    torch.set_num_threads(1)
