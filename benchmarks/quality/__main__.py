"""What MatTA gives, against training each size alone and against other ways to a family: `make bench-quality`.

A regime is a domain and a Teacher: in_domain (Python's standard library, and a Teacher of it), general_teacher (the
same, and a Teacher of other Python only) or prose (English, from ../shared, and a Teacher of it). For each regime,
shape and seed, every arm sees the same sequences in the same order:

- conventional: each size alone, on labels. teacher_only: on labels and Teacher. separate_ta: the TA so, then the
  others on labels and the trained TA (Mirzadeh et al. 2020).
- matformer: nested from the start, without distillation (Devvrit et al. 2023). matta_nested_from_start,
  matta_joint_only and matta_no_teacher: MatTA without late nesting and last stage, without the last stage, and without
  a Teacher.
- matta: as recipes have it by default. matta_shampoo and teacher_only_shampoo: with that optimizer.
- For 1.0 of what teacher_only's family costs in FLOPs: conventional, matformer, matta_no_teacher, separate_ta and
  matta; matta for 0.6 and 0.45 of it, too.

The learning rate of each arm, of each size where sizes are trained apart, is the best of four, by the mean loss of what
is trained. It is tuned on held-out sequences and a seed that count nowhere else, at a third of the steps. Losses are
means over all other held-out sequences, in nats per token. Rows go to benchmarks/results/quality.json as they come,
the most telling first, with a table and a plot beside it; rows of regimes and shapes that are not asked for stay. Every
training is a step with a key: what is killed goes on.
"""

import argparse
import concurrent.futures
import json
import math
import multiprocessing
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.quality.arms import ARMS, SHAPES, Costs, Run, arms, at_compute, costs_of, with_rates
from benchmarks.quality.table import table, write_plot
from benchmarks.quality.work import PROSE, REGIMES, TEXTS, TUNING, Place, Task, rows_of, tuning_loss, use_threads
from components.common.command_line import path_option, run_command
from components.common.parser import CommandParser
from matta_core.artifacts import open_artifact
from matta_core.errors import UserError
from matta_core.recipe import TrainConfig

RESULTS = Path(__file__).parent.parent / "results"
_SHARES = {"matta": (1.0, 0.6, 0.45)} | dict.fromkeys(
    ("conventional", "matformer", "matta_no_teacher", "separate_ta"), (1.0,)
)
_RATES = (0.25, 0.5, 1.0, 2.0)  # of the shape's
_TUNING_SEED = 100


def main() -> None:
    parser = CommandParser(
        prog="python -m benchmarks.quality", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--regimes", nargs="+", choices=REGIMES, default=["in_domain", "general_teacher"])
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["demo"])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=ARMS)
    parser.add_argument("--seeds", type=int, default=3, help="(default: 3)")
    parser.add_argument("--steps", type=int, default=500, help="of the joint run and of each size alone (default: 500)")
    parser.add_argument("--no-tuning", action="store_true", help="all arms with the shape's own learning rate")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time (default: 1)")
    parser.add_argument("--threads", type=int, default=1, help="of each training (default: 1)")
    parser.add_argument("--time-limit", type=float, default=math.inf, help="seconds after which nothing is begun")
    parser.add_argument("--output", type=path_option, default=Path("runs/bench-quality"), help="artifacts")
    parser.add_argument("--results", type=path_option, default=RESULTS, help="quality.json, quality.md, quality.svg")
    for text in TEXTS:
        parser.add_argument(f"--{text}", type=path_option, help=f"the dataset of {text}, prepared where Beam is")
    args = parser.parse_args()
    for name in ("seeds", "steps", "jobs", "threads"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name} must be >= 1, got {getattr(args, name)}")
    if "prose" in args.regimes and args.prose is None and not PROSE.exists():
        raise UserError(f"--regimes prose needs {PROSE}, which is not there: give --prose, a dataset made elsewhere")
    prepared = {text: getattr(args, text) for text in TEXTS if getattr(args, text) is not None}
    left_out = Benchmark(Place(args.output / "artifacts", prepared).with_texts(args.regimes), args).run()
    if (told := args.results / "quality.md").exists():
        print(told.read_text())
    if left_out:
        print(f"{left_out} of the arms' runs were left out: --time-limit was over")


@dataclass(frozen=True)
class Benchmark:
    """One invocation."""

    place: Place
    args: argparse.Namespace

    def run(self) -> int:
        """Returns how many tasks were not begun for want of time."""
        args, started = self.args, time.monotonic()
        bases = {shape: base_of(self.place, shape, args.steps) for shape in args.shapes}
        costs = {(regime, shape): self.costs(regime, base) for shape, base in bases.items() for regime in args.regimes}
        for regime in args.regimes:
            self.place.scores(regime, self.place.teacher(regime).path)
        spawn = multiprocessing.get_context("spawn")
        with concurrent.futures.ProcessPoolExecutor(args.jobs, spawn, use_threads, (args.threads,)) as pool:
            rates = {} if args.no_tuning else self.tuned(pool, bases)
            tasks = tasks_of(args.regimes, args.arms, args.seeds, bases, costs, rates)
            rows: list[dict[str, Any]] = []
            waiting: set[concurrent.futures.Future[list[dict[str, Any]]]] = set()
            while True:
                while tasks and len(waiting) < args.jobs and time.monotonic() - started < args.time_limit:
                    waiting.add(pool.submit(rows_of, self.place, tasks.pop(0)))
                if not waiting:
                    return len(tasks)
                done, waiting = concurrent.futures.wait(waiting, return_when=concurrent.futures.FIRST_COMPLETED)
                rows += [row for one in done for row in one.result()]
                write(args.results, rows, rates)

    def costs(self, regime: str, base: TrainConfig) -> Costs:
        teacher, data = self.place.recipe().train_teacher, open_artifact(self.place.dataset(regime), "TokenizedDataset")
        assert teacher is not None, "the demo trains its Teacher"
        vocabulary, length = data.metadata["vocab_size"], data.metadata["sequence_length"]
        return replace(
            costs_of(base, vocabulary, length),
            scored_tokens=data.metadata["num_train_sequences"] * length,
            teacher=costs_of(teacher, vocabulary, length).forward(teacher.ta),
        )

    def tuned(self, pool: concurrent.futures.Executor, bases: Mapping[str, TrainConfig]) -> dict[str, float]:
        """By "regime/shape/arm/run" the learning rate of the least loss. A TA that teaches is tuned first."""
        best: dict[str, float] = {}
        for taught_by_ta in (False, True):
            losses: dict[str, dict[float, concurrent.futures.Future[float]]] = {}
            for shape, base in bases.items():
                short = replace(base, steps=-(-base.steps // 3), warmup_steps=base.warmup_steps // 3, seed=_TUNING_SEED)
                for regime in self.args.regimes:
                    for arm in self.args.arms:
                        place, runs = f"{regime}/{shape}/{arm}", arms(short)[arm]
                        ta = _at(runs[0], best.get(f"{place}/{runs[0].name}"))
                        for run in runs:
                            if (run.taught == "ta") == taught_by_ta:
                                losses[f"{place}/{run.name}"] = {
                                    rate: pool.submit(tuning_loss, self.place, regime, _at(run, rate), ta)
                                    for rate in (factor * base.learning_rate for factor in _RATES)
                                }
            best |= {key: min(of_rates, key=lambda rate: of_rates[rate].result()) for key, of_rates in losses.items()}
        return best


def base_of(place: Place, shape: str, steps: int) -> TrainConfig:
    """MatTA as the demo's recipe has it, in a shape."""
    train = place.recipe().train
    own = {
        "steps": steps,
        "precision": "fp32",
        "checkpoint_every_steps": steps,
        "warmup_steps": min(train.warmup_steps, steps // 5),
    }
    return TrainConfig.from_dict({**train.to_dict(), **SHAPES[shape], **own})


def tasks_of(
    regimes: Sequence[str],
    wanted: Sequence[str],
    seeds: int,
    bases: Mapping[str, TrainConfig],
    costs: Mapping[tuple[str, str], Costs],
    rates: Mapping[str, float],
) -> list[Task]:
    """All tasks: first those of the arms that come first in ARMS, with all seeds; then those at equal compute, and
    what comes after."""
    found = []
    for shape, base in bases.items():
        for regime in regimes:
            cost, whole = costs[regime, shape], costs[regime, shape].of_family(arms(base)["teacher_only"])
            for seed in range(seeds):
                for arm, runs in arms(replace(base, seed=seed)).items():
                    if arm not in wanted:
                        continue
                    own = {run.name: rates.get(f"{regime}/{shape}/{arm}/{run.name}") for run in runs}
                    runs = with_rates(runs, {name: rate for name, rate in own.items() if rate is not None})
                    ways = {"equal_steps": runs}
                    for share in _SHARES.get(arm, ()):
                        changed = at_compute(runs, cost, share * whole)
                        if cost.of_family(changed) < 1.05 * share * whole:  # else scoring alone costs as much
                            ways[f"equal_compute {share:g}"] = changed
                    found += [
                        Task(regime, shape, budget, arm, seed, tuple(those), cost.of_family(those))
                        for budget, those in ways.items()
                    ]
    return sorted(found, key=lambda task: (_rank(task), task.seed))


def _rank(task: Task) -> int:
    """What is told without a task is less, the higher its rank."""
    main = task.arm in ARMS[:3]
    if task.budget == "equal_steps":
        return 0 if main else 3
    return 1 if task.budget == "equal_compute 1" and main else 2


def _at(run: Run, rate: float | None) -> Run:
    return run if rate is None else run.changed(learning_rate=rate)


def write(folder: Path, rows: Sequence[dict[str, Any]], rates: Mapping[str, float]) -> None:
    """Write rows, table and plot. Rows of other regimes and shapes, written before, stay."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "quality.json"
    before = json.loads(path.read_text()) if path.exists() else {"rows": [], "learning_rates": {}}
    made = {(row["regime"], row["shape"]) for row in rows}

    def is_made(regime: str, shape: str, *_: str) -> bool:
        return (regime, shape) in made

    kept = [row for row in before["rows"] if not is_made(row["regime"], row["shape"])]
    rates = {key: rate for key, rate in before["learning_rates"].items() if not is_made(*key.split("/"))} | rates
    order = ("regime", "shape", "budget", "arm", "seed")
    rows = sorted([*kept, *rows], key=lambda row: [str(row[key]) for key in order])
    lines = ",\n  ".join(json.dumps(row) for row in rows)
    text = f'"held_out_sequences_left_out": {TUNING}, "learning_rates": {json.dumps(rates)}, "rows": [\n  {lines}\n]'
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(f"{{{text}}}\n")
    unfinished.replace(path)
    (folder / "quality.md").write_text(table(rows))
    write_plot(rows, folder / "quality.svg")


if __name__ == "__main__":
    run_command(main)
