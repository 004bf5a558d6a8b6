"""What is trained once, and measured: Teachers, scores, runs, and losses on sequences that tuning never saw."""

import dataclasses
import fcntl
import math
import os
import sysconfig
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from benchmarks.quality.arms import Run
from components.common.command_line import DEFAULT_RECIPE, load_recipe
from components.score_teacher.step import score_teacher
from components.train.step import train, train_teacher
from matta_core.artifacts import Artifact, digest_of, open_artifact
from matta_core.artifacts.kinds.checkpoint import CONSOLIDATED, read_nesting
from matta_core.distributed import pick_device
from matta_core.errors import TrainingDivergedError
from matta_core.nesting.live import live_student
from matta_core.nesting.size import Granularity
from matta_core.objectives import OBJECTIVE
from matta_core.pretrained import load_model, load_tokenizer, moved
from matta_core.recipe import PrepareDataConfig, Recipe
from matta_core.training.data import Sequences
from matta_core.training.passes import PassSettings, error_sum

TUNING = 128  # the first held-out sequences: training itself looks at them, and rates are tuned on them
PROSE = Path("../shared/data/corpus/english.jsonl.gz")
# By regime: the domain that is learnt, and the text that its Teacher was trained on.
REGIMES = {"in_domain": ("stdlib", "stdlib"), "general_teacher": ("stdlib", "packages"), "prose": ("prose", "prose")}
# Texts, as what differs from the recipe's. "packages": the sources of this environment's packages.
TEXTS: dict[str, dict[str, Any]] = {
    "stdlib": {},
    "packages": {
        "source": f"{sysconfig.get_path('purelib')}/**/*.py",
        "on_invalid_utf8": "skip",
        "max_documents": 500,
    },
    "prose": {"source": str(PROSE), "max_documents": 600},
}
_GENERAL_STEPS = 1000
_BATCH = 32  # sequences of a pass without gradients


@dataclass(frozen=True)
class Place:
    """Where artifacts lie. They are made once, by key: a benchmark that was killed goes on. `prepared` has datasets by
    text, where Beam is not installed."""

    folder: Path
    prepared: Mapping[str, Path] = field(default_factory=dict)

    def output(self, step: str) -> str:
        return f"{self.folder}/{step}-{{key}}"

    def recipe(self) -> Recipe:
        return load_recipe(DEFAULT_RECIPE, [f"train.eval_sequences={TUNING}", "train.eval_every_steps=100000"])

    def dataset(self, regime: str) -> Path:
        """The domain's."""
        return self.text(REGIMES[regime][0])

    def text(self, name: str, tokenizer: Path | None = None) -> Path:
        if name in self.prepared:
            return self.prepared[name]
        from components.prepare_data.step import prepare_data

        config: PrepareDataConfig = dataclasses.replace(self.recipe().prepare_data, **TEXTS[name])
        if tokenizer is not None:
            config = dataclasses.replace(config, tokenizer=str(tokenizer))
        return prepare_data(config, output=self.output("prepare_data")).path

    def with_texts(self, regimes: Collection[str]) -> "Place":
        """The place with all datasets prepared: to look again whether their sources changed takes seconds."""
        prepared = dict(self.prepared)
        for domain, learnt in (REGIMES[regime] for regime in regimes):
            prepared[domain] = self.text(domain)
            prepared[learnt] = self.text(learnt, prepared[domain] / "tokenizer" if learnt != domain else None)
        return dataclasses.replace(self, prepared=prepared)

    def teacher(self, regime: str) -> Artifact:
        """A Teacher with the tokens of the domain, whatever it reads."""
        config, (domain, learnt) = self.recipe().train_teacher, REGIMES[regime]
        assert config is not None, "the demo trains its Teacher"
        dataset = self.text(domain)
        if learnt != domain:
            dataset = self.text(learnt, dataset / "tokenizer")
            config = dataclasses.replace(config, steps=_GENERAL_STEPS)
        return train_teacher(config, dataset, output=self.output("train_teacher"))

    def scores(self, regime: str, teacher: Path) -> Path:
        config = self.recipe().score_teacher
        with self.alone(f"scores-{digest_of([regime, str(teacher)])}"):
            return score_teacher(config, self.dataset(regime), teacher, output=self.output("score_teacher")).path

    def trained(self, regime: str, run: Run, ta: Run | None = None) -> Artifact:
        """The run's checkpoint. `ta` is the run whose result teaches it, if it is taught by its arm's own TA. Arms
        share runs: whoever comes second waits."""
        scores = None
        if run.taught == "teacher":
            scores = self.scores(regime, self.teacher(regime).path)
        elif run.taught == "ta":
            assert ta is not None, "the TA is trained first"
            scores = self.scores(regime, self.trained(regime, ta).path)
        with self.alone(f"train-{digest_of([regime, run.config.to_dict(), str(scores)])}"):
            return train(run.config, self.dataset(regime), scores, output=self.output("train"))

    @contextmanager
    def alone(self, name: str) -> Iterator[None]:
        """Within it, no other process of the benchmark is at work on what is named so."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / f".{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @torch.no_grad()
    def losses(self, regime: str, checkpoint: Artifact) -> dict[str, np.ndarray]:
        """By size what `losses_of` gives, of the model that went on alone, or else of the slice."""
        path, ta, found = checkpoint.path, load_on_device(checkpoint.path / "ta"), {}
        for name, size in sizes_of(checkpoint).items():
            alone = path / CONSOLIDATED / name
            model = load_on_device(alone) if alone.exists() else live_student(ta, size).eval()
            found[name] = self.losses_of(regime, model)
        return found

    @torch.no_grad()
    def slices(self, regime: str, checkpoint: Artifact) -> dict[str, np.ndarray]:
        """The same of each size's slice of the TA, and of widths halfway between two, called "s-m", that were never
        trained."""
        ta, sizes = load_on_device(checkpoint.path / "ta"), sizes_of(checkpoint)
        taken: dict[str, Granularity] = {}
        for (name, small), (other, large) in pairwise(sizes.items()):
            widths = {
                axis: tuple((a + b) // 2 for a, b in zip(small.by_layer[axis], counts, strict=True))
                for axis, counts in large.by_layer.items()
            }
            taken |= {name: small, f"{name}-{other}": dataclasses.replace(large, kept={**large.kept, **widths})}
            taken[other] = large
        return {name: self.losses_of(regime, live_student(ta, size).eval()) for name, size in taken.items()}

    def losses_of(self, regime: str, model: PreTrainedModel) -> np.ndarray:
        """For each held-out document, without the sequences of TUNING: the sum of its sequences' mean losses, and their
        number."""
        dataset = self.dataset(regime)
        data = Sequences(OBJECTIVE, open_artifact(dataset, "TokenizedDataset"), "validation", self.folder / "arrow")
        ids = data.batch(np.arange(len(data)), torch.device("cpu"))["input_ids"].numpy()
        document = documents_of(ids, load_tokenizer(dataset / "tokenizer").eos_token_id)[TUNING:]
        found = []
        for number in np.unique(document):
            rows = TUNING + np.flatnonzero(document == number)
            total = sum(
                error_sum(OBJECTIVE, model, data.batch(some, pick_device()), PassSettings()).item()
                for some in np.array_split(rows, -(-len(rows) // _BATCH))
            )
            found.append((total / OBJECTIVE.num_targets(1, data.sequence_length), len(rows)))
        return np.array(found)


@dataclass(frozen=True)
class Task:
    """The runs of one arm with one seed. `budget` is equal_steps, or equal_compute with its share."""

    regime: str
    shape: str
    budget: str
    arm: str
    seed: int
    runs: tuple[Run, ...]
    flops: int


def rows_of(place: Place, task: Task) -> list[dict[str, Any]]:
    """A row for each size of an arm, and for each slice of a TA (`slice`). `flops` is the family's. `documents` has
    the sum of losses and the number of sequences of each held-out document."""
    rows: list[dict[str, Any]] = []
    facts = {name: value for name, value in asdict(task).items() if name != "runs"}
    facts["device"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    for run in task.runs:
        trained = place.trained(task.regime, run, task.runs[0])
        own = facts | {"steps": run.config.steps, "learning_rate": run.config.learning_rate}
        own["seconds"] = round(trained.seconds, 1)
        for size, losses in place.losses(task.regime, trained).items():
            documents = [[round(total, 3), int(number)] for total, number in losses.tolist()]
            rows.append({**own, "size": size, "loss": _mean(losses), "documents": documents})
        if len(run.config.sizes) > 1 and task.budget == "equal_steps":
            for size, losses in place.slices(task.regime, trained).items():
                rows.append({**own, "size": size, "loss": _mean(losses), "slice": True})
    return rows


def documents_of(input_ids: np.ndarray, eos_token_id: int) -> np.ndarray:
    """For each sequence of one stream the number of the document in which it begins: so many ended before it."""
    ends = (input_ids == eos_token_id).sum(axis=1)
    return np.cumsum(ends) - ends


def _mean(losses: np.ndarray) -> float:
    total, number = losses.sum(axis=0).tolist()
    return round(total / number, 5)


def sizes_of(checkpoint: Artifact) -> dict[str, Granularity]:
    return {name: Granularity.from_dict(name, size) for name, size in read_nesting(checkpoint.path)["sizes"].items()}


def load_on_device(folder: Path) -> PreTrainedModel:
    return moved(load_model(folder, OBJECTIVE.model_class, torch.float32), pick_device()).eval()


def tuning_loss(place: Place, regime: str, run: Run, ta: Run | None) -> float:
    """The mean over the run's sizes of the loss on the sequences for tuning; infinite where training diverges."""
    try:
        trained = place.trained(regime, run, ta)
    except TrainingDivergedError:
        return math.inf
    final, figure = trained.metadata["final"], trained.metadata["figure"]
    return float(np.mean([final[f"eval/{figure}/{size}"] for size in run.config.sizes]))


def use_threads(number: int) -> None:
    os.environ["TQDM_MININTERVAL"] = "1000000"
    torch.set_num_threads(number)
