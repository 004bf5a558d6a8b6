"""What MatTA gives and costs, against training each model alone: `make bench`.

On the demo's data and Teacher, for the same number of steps and several seeds, the Student is trained three ways:
alone on the labels ("conventional"), alone on labels and Teacher ("teacher only"), and inside the TA ("MatTA").
The TA's size is trained alone, conventionally, as well. Printed: held-out cross-entropy in nats per token
(mean over the seeds, and half the range), and the training time as a multiple of the conventional Student's. Every
run is a step with a key: a killed benchmark goes on, and a second one only prints.
"""

import dataclasses
import json
import statistics
from pathlib import Path

from rich.console import Console
from rich.table import Table

from components.common.command_line import DEFAULT_RECIPE, load_recipe, path_option, run_command
from components.common.parser import CommandParser
from components.prepare_data.step import prepare_data
from components.score_teacher.step import score_teacher
from components.train.step import train, train_teacher
from matta_core.artifacts import Artifact
from matta_core.artifacts.kinds.checkpoint import METRICS, read_nesting
from matta_core.errors import UserError
from matta_core.recipe import LossConfig, Recipe, TrainConfig


def main() -> None:
    parser = CommandParser(prog="python -m benchmarks.quality", description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", type=path_option, default=DEFAULT_RECIPE, help="one with a train_teacher section")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override one setting")
    parser.add_argument("--seeds", type=int, default=3, help="runs per way (default: 3)")
    parser.add_argument(
        "--output", type=path_option, default=Path("runs/bench"), help="artifacts and quality.json go there"
    )
    args = parser.parse_args()
    recipe = load_recipe(args.recipe, args.set)
    if args.seeds < 1:
        raise UserError(f"--seeds must be >= 1, got {args.seeds}")
    if recipe.train_teacher is None:
        raise UserError(f"recipe {args.recipe} has no train_teacher section: this benchmark trains its Teacher")
    results = measure(recipe, args.seeds, args.output)
    (args.output / "quality.json").write_text(json.dumps(results, indent=2) + "\n")
    Console().print(table(results, recipe))


def measure(recipe: Recipe, seeds: int, output: Path) -> dict[str, dict[str, list[float]]]:
    """By way: held-out nats per token per seed for each size, and seconds of training."""
    artifacts = f"{output}/artifacts"
    dataset = prepare_data(recipe.prepare_data, output=f"{artifacts}/prepare_data-{{key}}").path
    teacher = train_teacher(recipe.train_teacher, dataset, output=f"{artifacts}/train_teacher-{{key}}").path
    scores = score_teacher(recipe.score_teacher, dataset, teacher, output=f"{artifacts}/score_teacher-{{key}}").path
    results: dict[str, dict[str, list[float]]] = {}
    for seed in range(seeds):
        for way, config in ways(recipe.train).items():
            needs_scores = config.loss.teacher_weight.highest > 0
            run = train(
                dataclasses.replace(config, seed=seed),
                dataset,
                scores if needs_scores else None,
                output=f"{artifacts}/train-{{key}}",
            )
            figures = results.setdefault(way, {"seconds": []})
            figures["seconds"].append(seconds_of_training(run, config))
            for size in config.sizes:
                figures.setdefault(size, []).append(run.metadata["final"][f"eval/{run.metadata['figure']}/{size}"])
    return results


def ways(config: TrainConfig) -> dict[str, TrainConfig]:
    """The same steps, batches and learning rate; what differs is who is trained, and on what."""
    labels_only = LossConfig(cross_entropy_weight=1.0, teacher_weight=0.0)
    student, ta = ({name: config.sizes[name]} for name in (config.student, config.ta))
    alone = dataclasses.replace(config, sizes=student)
    return {
        "conventional": dataclasses.replace(alone, loss=labels_only),
        "teacher only": alone,
        "MatTA": config,
        "TA conventional": dataclasses.replace(config, sizes=ta, student=config.ta, loss=labels_only),
    }


def seconds_of_training(run: Artifact, config: TrainConfig) -> float:
    """Steps only, without validation and saving, from the run's own speed; the median over its log lines."""
    rows = [json.loads(line) for line in (run.path / METRICS).read_text().splitlines()]
    speed = statistics.median(row["perf/tokens_per_second"] for row in rows if "perf/tokens_per_second" in row)
    length = read_nesting(run.path)["sequence_length"]
    return config.steps * config.batch_size * (length - 1) / speed


def table(results: dict[str, dict[str, list[float]]], recipe: Recipe) -> Table:
    base = statistics.median(results["conventional"]["seconds"])
    shown = Table(
        title=f"held-out nats per token, {recipe.train.steps} steps, lower is better",
        title_justify="left",
        padding=(0, 1, 0, 0),
    )
    shown.add_column("way", no_wrap=True)
    for size in recipe.train.sizes:
        shown.add_column(size, justify="right", no_wrap=True)
    shown.add_column("time", justify="right", no_wrap=True)
    for way, figures in results.items():
        cells = [_mean_and_half_range(figures.get(size)) for size in recipe.train.sizes]
        shown.add_row(way, *cells, f"{statistics.median(figures['seconds']) / base:.1f} x")
    return shown


def _mean_and_half_range(values: list[float] | None) -> str:
    if not values:
        return ""
    mean = f"{statistics.mean(values):.3f}"
    if len(values) == 1:  # one seed shows no spread
        return mean
    return f"{mean}±{(max(values) - min(values)) / 2:.3f}"


if __name__ == "__main__":
    run_command(main)
