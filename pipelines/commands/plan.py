"""plan: what a recipe will take, per step, before anything runs."""

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from components.common.command_line import load_recipe, located, path_option
from components.common.parser import CommandParser
from matta_core.errors import UserError
from pipelines.commands.options import add_recipe_options

if TYPE_CHECKING:  # seconds to import
    from pipelines.planning.plan import Planner, Prices, StepPlan

_ASSUMED = {
    "training_mfu": "share of the peak that training reaches (default 0.35)",
    "forward_mfu": "share of the peak that scoring and evaluation reach (default 0.35)",
    "bytes_per_token": "of text (default 4)",
    "cache_bytes_per_token": "of the Teacher's cache (default: 2.2 for each of the top k, 1.4 for each sample)",
    "worker_bytes_per_second": "of text, that a Beam worker reads and tokenizes (default 4e6)",
}


def add_parser(commands: "argparse._SubParsersAction[CommandParser]") -> None:
    parser = commands.add_parser(
        "plan",
        help="tokens, FLOPs, memory, hours, disk and cost of each step, before anything runs",
        description="Count what a recipe will take. Nothing runs, and nothing is downloaded. docs/plan.md says how.",
    )
    add_recipe_options(parser)
    parser.add_argument("--gpu", default="cpu", help="a100-80, h100, … or cpu, this machine (default)")
    parser.add_argument("--gpus", type=int, default=1, metavar="N", help="of a node (default 1)")
    parser.add_argument("--nodes", type=int, default=1, metavar="N", help="(default 1)")
    parser.add_argument("--peak-flops", type=float, metavar="FLOP/S", help="of another GPU: bf16, dense")
    parser.add_argument("--memory-bytes", type=float, metavar="BYTES", help="of another GPU")
    parser.add_argument("--tokens", type=_count, help="of the train split (default: by the source's files)")
    parser.add_argument("--teacher-parameters", type=_count, metavar="N", help="of a Teacher that is not on this disk")
    parser.add_argument("--price-gpu-hour", type=float, default=0.0, metavar="MONEY")
    parser.add_argument("--price-worker-hour", type=float, default=0.0, metavar="MONEY", help="of a Beam worker")
    for name, told in _ASSUMED.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=float, metavar="X", help=told)
    parser.add_argument(
        "--calibrate",
        type=path_option,
        metavar="RUN_DIR",
        help="the --output of a finished run of such a recipe on such machines: what it measured is assumed",
    )
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.set_defaults(main=main)


def main(args: argparse.Namespace) -> None:
    from pipelines.planning.assumptions import Assumptions, calibrated
    from pipelines.planning.machines import machine_named
    from pipelines.planning.plan import Planner, Prices

    recipe = load_recipe(args.recipe, args.set)
    for name in ("gpus", "nodes"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name} must be >= 1, got {getattr(args, name)}")
    machine = machine_named(args.gpu, args.peak_flops, args.memory_bytes)
    given = {name: getattr(args, name) for name in _ASSUMED if getattr(args, name) is not None}
    assumed = Assumptions()
    if args.calibrate is not None:
        assumed = calibrated(assumed, args.calibrate, machine, recipe.prepare_data.num_workers)
    planner = Planner(
        recipe,
        machine,
        args.gpus * args.nodes,
        dataclasses.replace(assumed, **given),
        args.tokens,
        args.teacher_parameters,
    )
    with located(args.recipe, args.set, "--set"):
        steps = planner.steps()
    prices = Prices(args.price_gpu_hour, args.price_worker_hour)
    if args.json:
        print(json.dumps(_as_json(planner, steps, prices), indent=1))
    else:
        _show(planner, steps, prices, args.calibrate)


def _count(text: str) -> int:
    """A count, also as 1e11."""
    value = float(text)
    if not 1 <= value < 2**63 or value != int(value):
        raise argparse.ArgumentTypeError(f"must be a whole number >= 1, got {text}")
    return int(value)


def _as_json(planner: "Planner", steps: "Sequence[StepPlan]", prices: "Prices") -> dict[str, object]:
    machine = dataclasses.asdict(planner.machine)
    return {
        "recipe": planner.recipe.name,
        "machine": machine,
        "gpus": planner.ranks,
        "assumptions": dataclasses.asdict(planner.assumed),
        "steps": [{**dataclasses.asdict(step), "cost": prices.of(step)} for step in steps],
        "seconds": sum(step.seconds or 0.0 for step in steps),
        "cost": sum(map(prices.of, steps)),
    }


def _show(planner: "Planner", steps: "Sequence[StepPlan]", prices: "Prices", run: object) -> None:
    from rich.console import Console
    from rich.table import Table

    from pipelines.planning.show import COLUMNS, assumptions_in_words, in_words, rows

    console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 160)
    table = Table(title=f"{planner.recipe.name} on {planner.ranks} x {planner.machine.name}", title_justify="left")
    for number, heading in enumerate(COLUMNS):
        table.add_column(heading, justify="right" if number else "left")
    for row in rows(steps, planner, prices):
        table.add_row(*row)
    console.print(table)
    for line in (*in_words(steps, planner), *assumptions_in_words(planner, run)):
        console.print(line)
