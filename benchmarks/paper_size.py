"""Time and memory of one run at a recipe's full size, on random weights: `make bench-paper-size`.

Builds the TA, takes two optimizer steps with a cached Teacher (the recipe's last steps, in which all terms of its loss
have their final weights), cuts out every student, certifies it, and loads it with stock transformers alone in a fresh
process. Nothing is downloaded and nothing is learnt. Exits with status 1 where memory peaks above the limit.
"""

import argparse
import dataclasses
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import transformers
from rich.console import Console
from rich.table import Table
from transformers import PreTrainedModel

from components.common.command_line import load_recipe, path_option, run_command
from components.common.parser import CommandParser
from matta_core.checkpoints import build_model
from matta_core.errors import UserError
from matta_core.model_config import build_config
from matta_core.nesting.cost import num_parameters
from matta_core.nesting.size import Granularity, resolve
from matta_core.nesting.slices import cuts
from matta_core.objectives import OBJECTIVE
from matta_core.objectives.objective import Batch
from matta_core.objectives.top_k import top_k_scores
from matta_core.recipe import TrainConfig
from matta_core.students.certify import certify
from matta_core.students.extract import extract_student
from matta_core.training.optimizers import make_optimizer
from matta_core.training.shares import rows_of_sizes
from matta_core.training.step import train_step, training_of

RECIPE = Path(__file__).parent.parent / "pipelines" / "recipes" / "gpt2_medium.yaml"
LIMIT_GIB = 16.0

# Transformers alone: the checkpoint must not need us.
_LOAD = """
import json, sys, torch, transformers
transformers.utils.logging.disable_progress_bar()
load = transformers.AutoModelForCausalLM.from_pretrained
model = load(sys.argv[1], use_safetensors=True, trust_remote_code=False).eval()
with torch.no_grad():
    logits = model(torch.arange(8)[None]).logits
print(json.dumps({"architecture": type(model).__name__, "parameters": sum(p.numel() for p in model.parameters()),
                  "finite": bool(logits.isfinite().all())}))
"""


def main() -> None:
    parser = CommandParser(prog="python -m benchmarks.paper_size", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--recipe", type=path_option, default=RECIPE, help="with vocab_size in train.model (default: GPT-2's)"
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override one setting")
    parser.add_argument("--sequence-length", type=int, default=64, help="tokens, of at least 8 (default: 64)")
    parser.add_argument("--batch-size", type=int, default=1, help="sequences per step (default: 1)")
    parser.add_argument("--steps", type=int, default=2, help="optimizer steps (default: 2)")
    parser.add_argument("--limit-gib", type=float, default=LIMIT_GIB, help="of memory (default: 16)")
    parser.add_argument("--output", type=path_option, default=Path("runs"), help="students lie there for a while")
    args = parser.parse_args()
    recipe = load_recipe(args.recipe, args.set)
    if "vocab_size" not in recipe.train.model:
        raise UserError(f"recipe {args.recipe} has no train.model.vocab_size: without a tokenizer it must be said")
    for name, lowest in (("sequence_length", 8), ("batch_size", 1), ("steps", 1)):
        if getattr(args, name) < lowest:
            raise UserError(f"--{name.replace('_', '-')} must be >= {lowest}, got {getattr(args, name)}")
    if args.sequence_length > recipe.prepare_data.sequence_length:
        raise UserError(
            f"--sequence-length must be <= prepare_data.sequence_length = {recipe.prepare_data.sequence_length}, got "
            f"{args.sequence_length}"
        )
    transformers.utils.logging.disable_progress_bar()
    phases = Phases()
    config, top_k = recipe.train, min(recipe.score_teacher.top_k, recipe.train.model["vocab_size"])
    with phases("build the TA"):
        length = recipe.prepare_data.sequence_length
        ta_config = build_config(config.model, config.sizes[config.ta], None, length)
        granularities = resolve(ta_config, config.sizes)
        ta = build_model(ta_config, config.seed, OBJECTIVE.model_class)
    take_steps(ta, granularities, config, args, top_k, phases)
    args.output.mkdir(parents=True, exist_ok=True)
    for name, granularity in granularities.items():
        if name != config.ta:
            with tempfile.TemporaryDirectory(dir=args.output) as folder:
                check_student(ta, granularity, Path(folder), args.sequence_length, phases)
    title = f"{args.recipe.name}, {config.optimizer.name}, {args.batch_size} x {args.sequence_length} tokens per step"
    Console().print(phases.table(title))
    for name, granularity in granularities.items():
        print(f"{name}: {num_parameters(ta, granularity):,} parameters")
    peak = peak_memory_gib()
    fits = peak <= args.limit_gib
    print(f"peak memory {peak:.1f} GiB, {'within' if fits else 'ABOVE'} {args.limit_gib:g} GiB")
    sys.exit(0 if fits else 1)


class Phases:
    """Seconds that each phase took, and the peak of the process's memory until its end."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, float, float]] = []

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.rows.append((name, time.perf_counter() - started, peak_memory_gib()))
        print(f"{name}: {self.rows[-1][1]:.1f} s, peak {self.rows[-1][2]:.1f} GiB", file=sys.stderr, flush=True)

    def table(self, title: str) -> Table:
        shown = Table(title=title, title_justify="left")
        shown.add_column("phase", no_wrap=True)
        for name in ("seconds", "peak GiB so far"):
            shown.add_column(name, justify="right")
        for name, seconds, peak in self.rows:
            shown.add_row(name, f"{seconds:.1f}", f"{peak:.1f}")
        return shown


def peak_memory_gib() -> float:
    """Of this process or of one that it waited for, whichever was larger: the largest resident set so far."""
    unit = 1 if sys.platform == "darwin" else 1024
    peaks = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return unit * max(peaks) / 2**30


def take_steps(
    ta: PreTrainedModel,
    granularities: dict[str, Granularity],
    config: TrainConfig,
    args: argparse.Namespace,
    top_k: int,
    phases: Phases,
) -> None:
    """The training loop's steps on random tokens and targets, on the CPU; the optimizer's state is gone at the end."""
    config = dataclasses.replace(config, batch_size=args.batch_size, shares="all")  # one sequence has no half
    optimizer = make_optimizer(ta, config, cuts(ta, granularities.values()))
    training = training_of(config, OBJECTIVE, ta, granularities, optimizer, args.sequence_length)
    for number in range(args.steps):
        step = max(0, config.steps - args.steps) + number
        batch = random_batch(ta.config.vocab_size, args.batch_size, args.sequence_length, top_k, seed=number)
        with phases(f"step {number + 1}: {', '.join(rows_of_sizes(config, step))}"):
            train_step(training, step, [batch])
            training.figures.check()


def random_batch(vocab_size: int, batch_size: int, length: int, top_k: int, seed: int) -> Batch:
    """Tokens drawn evenly, and as the Teacher's the top k of random logits with the mass of the rest."""
    generator = torch.Generator().manual_seed(seed)
    input_ids = torch.randint(vocab_size, (batch_size, length), generator=generator)
    logits = torch.randn(batch_size * (length - 1), vocab_size, generator=generator)
    return {"input_ids": input_ids, **top_k_scores(logits, top_k, vocab_size).columns()}


def check_student(
    ta: PreTrainedModel, granularity: Granularity, folder: Path, sequence_length: int, phases: Phases
) -> None:
    """Cut out, save, certify and load one student. Raises: AssertionError where it is not what it should be."""
    with phases(f"extract {granularity.name}"):
        extract_student(ta, granularity).save_pretrained(folder)
    with phases(f"certify {granularity.name}"):
        batch = {"input_ids": torch.arange(sequence_length)[None] % ta.config.vocab_size}
        certificate = certify(OBJECTIVE, ta.eval(), granularity, folder, batch)
        assert certificate["bitwise_equal"], f"{granularity.name} differs from the live student: {certificate}"
    with phases(f"load {granularity.name} with stock transformers"):
        output = subprocess.run([sys.executable, "-c", _LOAD, str(folder)], check=True, capture_output=True, text=True)
        loaded = json.loads(output.stdout)
        assert loaded["parameters"] == num_parameters(ta, granularity), f"{granularity.name} loads as {loaded}"
        assert loaded["finite"], f"{granularity.name} answers with infinite logits"


if __name__ == "__main__":
    run_command(main)
