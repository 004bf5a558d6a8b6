"""What MatTA gives, against training each size alone and against other ways to a family: `make bench-quality`.

On the demo's data (the domain: Python's standard library), for each regime (a Teacher of the domain, or one trained on
general Python only), shape and seed, every arm sees the same sequences in the same order:

- conventional: each size alone, on labels. teacher_only: on labels and Teacher. separate_ta: the TA so, then the
  others on labels and the trained TA (Mirzadeh et al. 2020).
- matformer: nested from the start, without distillation (Devvrit et al. 2023). matta_nested_from_start,
  matta_joint_only and matta_no_teacher: MatTA without late nesting and last stage, without the last stage, and without
  a Teacher.
- matta: as recipes have it by default. Also for 1.0, 0.6 and 0.45 of what teacher_only's family costs in FLOPs.

The learning rate of each arm is the best of three, tuned on held-out sequences and a seed that count nowhere else, at
a third of the steps. Losses are means over all other held-out sequences, in nats per token. Rows go to
benchmarks/results/quality.json, with a table and a plot beside it. Every training is a step with a key: what is killed
goes on. `--jobs` trains so many at a time.
"""

import argparse
import concurrent.futures
import json
import multiprocessing
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.quality.arms import ARMS, SHAPES, Costs, Run, arms, at_compute, costs_of, flops, with_rates
from benchmarks.quality.table import table, write_plot
from benchmarks.quality.work import REGIMES, TUNING, Place, Task, one_thread, rows_of, tuning_loss
from components.common.command_line import path_option, run_command
from components.common.parser import CommandParser
from matta_core.errors import UserError
from matta_core.recipe import TrainConfig

RESULTS = Path(__file__).parent.parent / "results"
_FRONTIER = (1.0, 0.6, 0.45)
_RATES = (0.5, 1.0, 2.0)  # of the shape's
_TUNING_SEED = 100


def main() -> None:
    parser = CommandParser(
        prog="python -m benchmarks.quality", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--regimes", nargs="+", choices=REGIMES, default=REGIMES)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["demo"])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=ARMS)
    parser.add_argument("--seeds", type=int, default=3, help="(default: 3)")
    parser.add_argument("--steps", type=int, default=500, help="of the joint run and of each size alone (default: 500)")
    parser.add_argument("--no-tuning", action="store_true", help="all arms with the shape's own learning rate")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time, each with one thread (default: 1)")
    parser.add_argument("--time-limit", type=float, default=float("inf"), help="seconds after which nothing is begun")
    parser.add_argument("--output", type=path_option, default=Path("runs/bench-quality"), help="artifacts")
    parser.add_argument("--results", type=path_option, default=RESULTS, help="quality.json, quality.md, quality.svg")
    parser.add_argument("--dataset", type=path_option, help="the domain, prepared elsewhere, where Beam is missing")
    parser.add_argument("--general-dataset", type=path_option, help="the same, of the general Teacher's text")
    args = parser.parse_args()
    for name in ("seeds", "steps", "jobs"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name} must be >= 1, got {getattr(args, name)}")
    started = time.monotonic()
    place = Place(args.output / "artifacts", args.dataset, args.general_dataset)
    bases = {shape: _base(place, shape, args.steps) for shape in args.shapes}
    costs = {shape: _costs(place, base) for shape, base in bases.items()}
    for regime in args.regimes:
        place.scores(place.teacher(regime))
    with concurrent.futures.ProcessPoolExecutor(args.jobs, multiprocessing.get_context("spawn"), one_thread) as pool:
        rates = {} if args.no_tuning else _tuned(pool, place, bases, costs, args)
        tasks = [task for task in _tasks(bases, costs, rates, args) if task.arm in args.arms]
        rows: list[dict[str, object]] = []
        waiting = {pool.submit(rows_of, place, task) for task in tasks[: args.jobs]}
        tasks = tasks[args.jobs :]
        while waiting:
            done, waiting = concurrent.futures.wait(waiting, return_when=concurrent.futures.FIRST_COMPLETED)
            for one in done:
                rows += one.result()
                if tasks and time.monotonic() - started < args.time_limit:
                    waiting.add(pool.submit(rows_of, place, tasks.pop(0)))
            _write(args.results, rows, rates)
    print((args.results / "quality.md").read_text())
    if tasks:
        print(f"{len(tasks)} of the arms' runs were left out: --time-limit was over")


def _base(place: Place, shape: str, steps: int) -> TrainConfig:
    train = place.recipe().train
    own = {
        "steps": steps,
        "precision": "fp32",
        "checkpoint_every_steps": steps,
        "warmup_steps": min(train.warmup_steps, steps // 5),
    }
    return TrainConfig.from_dict({**train.to_dict(), **SHAPES[shape], **own})


def _costs(place: Place, base: TrainConfig) -> Costs:
    recipe, stats = place.recipe(), json.loads((place.dataset() / "stats.json").read_text())
    found = costs_of(base, stats["vocab_size"], recipe.prepare_data.sequence_length)
    assert recipe.train_teacher is not None, "the demo trains its Teacher"
    teacher = costs_of(recipe.train_teacher, stats["vocab_size"], recipe.prepare_data.sequence_length)
    tokens = stats["train"]["sequences"] * recipe.prepare_data.sequence_length
    return replace(found, scoring=float(tokens * teacher.forward["teacher"]))


def _tuned(
    pool: concurrent.futures.Executor,
    place: Place,
    bases: dict[str, TrainConfig],
    costs: dict[str, Costs],
    args: argparse.Namespace,
) -> dict[str, float]:
    """By "regime/shape/arm" the learning rate with which the Student's loss is least."""
    pending = {}
    for shape, base in bases.items():
        short = replace(base, steps=-(-base.steps // 3), warmup_steps=base.warmup_steps // 3, seed=_TUNING_SEED)
        for regime in args.regimes:
            for arm, runs in arms(short).items():
                if arm not in args.arms:
                    continue
                student = runs if len(runs) == 1 else [run for run in runs if run.config.ta == base.student]
                ta = runs[0] if student[0].taught == "ta" else None
                for factor in _RATES:
                    rate = factor * base.learning_rate
                    run = Run(replace(student[0].config, learning_rate=rate), student[0].taught)
                    future = pool.submit(tuning_loss, place, regime, run, ta, base.student)
                    pending[f"{regime}/{shape}/{arm}", rate] = future
    best: dict[str, tuple[float, float]] = {}
    for (key, rate), future in pending.items():
        best[key] = min(best.get(key, (float("inf"), 0.0)), (future.result(), rate))
    return {key: rate for key, (_, rate) in best.items()}


def _tasks(
    bases: dict[str, TrainConfig], costs: dict[str, Costs], rates: dict[str, float], args: argparse.Namespace
) -> list[Task]:
    """Those first without which nothing is known: by seed."""
    found = []
    for seed in range(args.seeds):
        for shape, base in bases.items():
            seeded = replace(base, seed=seed)
            for regime in args.regimes:
                own = {
                    arm: rates[f"{regime}/{shape}/{arm}"] for arm in arms(base) if f"{regime}/{shape}/{arm}" in rates
                }
                of_arms = [("equal_steps", arm, runs) for arm, runs in with_rates(seeded, own)]
                matta = replace(seeded, learning_rate=own.get("matta", base.learning_rate))
                of_arms += [
                    (f"equal_compute {share:g}", "matta", [at_compute(matta, costs[shape], share)])
                    for share in _FRONTIER
                ]
                found += [
                    Task(regime, shape, budget, arm, seed, tuple(runs), flops(costs[shape], runs))
                    for budget, arm, runs in of_arms
                ]
    return found


def _write(folder: Path, rows: Sequence[dict[str, object]], rates: dict[str, float]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rows = sorted(rows, key=lambda row: [str(row[name]) for name in ("regime", "shape", "budget", "arm", "seed")])
    lines = ",\n  ".join(json.dumps(row) for row in rows)
    text = (
        f'{{"held_out_sequences_left_out": {TUNING}, "learning_rates": {json.dumps(rates)}, "rows": [\n  {lines}\n]}}\n'
    )
    (folder / "quality.json").write_text(text)
    (folder / "quality.md").write_text(table(rows))
    write_plot(rows, folder / "quality.svg")


if __name__ == "__main__":
    run_command(main)
