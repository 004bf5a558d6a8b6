"""What one run costs beside a plain joint step, and beside each size trained apart: `make bench-train`.

On random weights and tokens, with a cached Teacher and the default settings, in turns in one process: the joint step
beside the same loss as one graph; a run, first the TA alone and then all sizes on their shares, beside plain trainings
of four and of eight sizes with the same loss in closed form. AdamW's step is part of a run. At the demo's shape, at
GPT-2's vocabulary, and where FFNs are most of the work; there also what share of the rate of a large product is
reached. Prints ratios, and writes them with what they come from to runs/bench-train/train.json.
"""

import json
import platform
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.training_cost.measure import Figures, measured, share_of_matmul
from benchmarks.training_cost.shapes import SEQUENCES, shapes
from components.common.command_line import path_option, run_command
from components.common.parser import CommandParser
from matta_core.errors import UserError
from matta_core.training.precision import has_bf16

GOALS = {
    "step_to_naive": 0.55,
    "memory_to_naive": 0.5,
    "run_to_apart_4": 0.45,
    "run_to_apart_8": 0.25,
    "gradient_difference": 1e-5,
}


def main() -> None:
    parser = CommandParser(prog="python -m benchmarks.training_cost", description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: a GPU if there is one")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="of all but the last figure")
    parser.add_argument("--shapes", nargs="+", default=list(shapes("cpu")), choices=list(shapes("cpu")))
    parser.add_argument("--repeats", type=int, default=5, help="medians are of so many (default: 5)")
    parser.add_argument("--output", type=path_option, default=Path("runs/bench-train"), help="train.json goes there")
    args = parser.parse_args()
    if args.repeats < 1:
        raise UserError(f"--repeats must be >= 1, got {args.repeats}")
    if args.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch finds no GPU here; leave it out to measure the CPU")
    on_gpu = args.device == "cuda" or (args.device == "auto" and torch.cuda.is_available())
    device = torch.device("cuda" if on_gpu else "cpu")
    figures = all_figures(device, args.precision, args.shapes, args.repeats)
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / "train.json").write_text(json.dumps(figures, indent=2) + "\n")
    Console().print(_table(figures))
    print(f"{args.output / 'train.json'}: {json.dumps(figures['ratios'])}")


def all_figures(device: torch.device, precision: str, names: list[str], repeats: int) -> Figures:
    """By shape, and of all: the step's and the run's ratios at GPT-2's vocabulary, and the share at the wide FFNs."""
    chosen = {name: shape for name, shape in shapes(device.type).items() if name in names}
    of_shape = {name: measured(shape, device, precision, repeats) for name, shape in chosen.items()}
    ratios = dict(of_shape["vocabulary"]["ratios"]) if "vocabulary" in of_shape else {}
    ratios["gradient_difference"] = max(each["ratios"]["gradient_difference"] for each in of_shape.values())
    if "ffn" in of_shape:
        share = f"matmul_share_{precision}"
        ratios[share] = of_shape["ffn"]["ratios"][share]
        if precision == "fp32" and has_bf16(device):
            of_shape["ffn"]["ratios"]["matmul_share_bf16"], of_shape["ffn"]["gflop_per_second_bf16"] = share_of_matmul(
                chosen["ffn"], device, "bf16", repeats
            )
            ratios["matmul_share_bf16"] = of_shape["ffn"]["ratios"]["matmul_share_bf16"]
    return {
        "ratios": ratios,
        "shapes": of_shape,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "precision": precision,
        "repeats": repeats,
        "sequences": SEQUENCES,
        "torch": torch.__version__,
    }


def _table(figures: Figures) -> Table:
    shown = Table(title=f"{figures['device']}, {figures['threads']} threads, {figures['precision']}")
    shown.add_column("", no_wrap=True)
    for name in (*figures["shapes"], "goal"):
        shown.add_column(name, justify="right")
    ratios = [each["ratios"] for each in figures["shapes"].values()]
    for name in dict.fromkeys(name for each in ratios for name in each):
        goal = f"<= {GOALS[name]:g}" if name in GOALS else ">= 0.45 (ffn)"
        shown.add_row(name, *(f"{each[name]:.2g}" if name in each else "" for each in ratios), goal)
    return shown


if __name__ == "__main__":
    run_command(main)
