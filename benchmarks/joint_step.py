"""What the joint step costs beside the plain one, in which autograd keeps all logits: `make bench-train`.

At GPT-2's vocabulary with width 256, four layers and FFNs up to 4,096, on random weights: forward and backward of the
TA and of two students, with a cached Teacher, once by `training.passes`, a chunk of tokens at a time and with losses in
closed form, and once as one graph of plain functions. Both are timed in turns in one process. The medians, their ratio
and by how much the gradients differ are printed and written to runs/bench-train/train.json.
"""

import json
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from components.common.command_line import path_option, run_command
from components.common.parser import CommandParser
from matta_core.checkpoints import build_model
from matta_core.errors import UserError
from matta_core.model_config import build_config
from matta_core.nesting.live import live_student
from matta_core.nesting.size import resolve
from matta_core.objectives import OBJECTIVE
from matta_core.objectives.divergences import (
    align,
    cross_entropy,
    divergence_named,
    top_k_divergence,
    vocabulary_divergence,
)
from matta_core.objectives.objective import Batch
from matta_core.objectives.top_k import teacher_targets, top_k_scores
from matta_core.recipe import LossConfig, SizeConfig
from matta_core.training.joint import joint_backward
from matta_core.training.passes import PassSettings

MODEL = {"model_type": "gpt2", "hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4}
SIZES = {"s": 512, "m": 1024, "xl": 4096}
SEQUENCES, LENGTH, TOP_K = 4, 128, 32
LOSS = LossConfig()


def main() -> None:
    parser = CommandParser(prog="python -m benchmarks.joint_step", description=__doc__.splitlines()[0])
    parser.add_argument("--vocabulary", type=int, default=50_257, help="tokens (default: GPT-2's)")
    parser.add_argument("--repeats", type=int, default=5, help="medians are of so many (default: 5)")
    parser.add_argument("--chunk", type=int, default=128, help="tokens that the head sees at a time (default: 128)")
    parser.add_argument("--output", type=path_option, default=Path("runs/bench-train"), help="train.json goes there")
    args = parser.parse_args()
    for name, lowest in (("vocabulary", TOP_K + 1), ("repeats", 1), ("chunk", 1)):
        if getattr(args, name) < lowest:
            raise UserError(f"--{name} must be >= {lowest}, got {getattr(args, name)}")
    figures = measure(args.vocabulary, args.repeats, args.chunk)
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / "train.json").write_text(json.dumps(figures, indent=2) + "\n")
    print(
        f"a joint step {figures['seconds']['step']:.2f} s, the plain one {figures['seconds']['naive']:.2f} s: "
        f"{figures['ratios']['step_to_naive']:.2f} of it; the gradients differ by "
        f"{figures['ratios']['gradient_difference']:.1e} of their norm ({figures['threads']} threads)"
    )


def measure(vocabulary: int, repeats: int, chunk: int) -> dict[str, dict[str, float] | int]:
    """Medians of seconds, their ratio, and the relative difference of the gradients."""
    config = build_config(MODEL | {"vocab_size": vocabulary}, {"intermediate_size": SIZES["xl"]}, None, LENGTH)
    ta = build_model(config, seed=0, model_class=OBJECTIVE.model_class)
    sizes = resolve(config, {name: SizeConfig(intermediate_size=width) for name, width in SIZES.items()})
    students = {name: live_student(ta, sizes[name]) for name in ("s", "m")}
    batch = _batch(vocabulary)
    settings = PassSettings(chunk)
    targets = OBJECTIVE.num_targets(SEQUENCES, LENGTH)

    def step() -> None:
        joint_backward(OBJECTIVE, ta, students, batch, LOSS, step=10**6, num_targets=targets, settings=settings)

    ways: dict[str, Callable[[], None]] = {"step": step, "naive": lambda: naive(ta, students, batch, targets)}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    gradients: dict[str, Tensor] = {}
    for repeat in range(repeats + 1):  # the first warms up
        for name, run in ways.items():
            ta.zero_grad()
            started = time.perf_counter()
            run()
            if repeat:
                seconds[name].append(time.perf_counter() - started)
            gradients[name] = torch.cat([each.grad.flatten() for each in ta.parameters() if each.grad is not None])
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    difference = (gradients["step"] - gradients["naive"]).norm() / gradients["naive"].norm()
    ratios = {"step_to_naive": medians["step"] / medians["naive"], "gradient_difference": difference.item()}
    return {"ratios": ratios, "seconds": medians, "threads": torch.get_num_threads()}


def naive(ta: PreTrainedModel, students: Mapping[str, PreTrainedModel], batch: Batch, num_targets: int) -> None:
    """LossConfig's equation as one graph, backward once."""
    weights = LOSS.weights_at(10**6)
    of_teacher = divergence_named(LOSS.teacher_divergence, LOSS.jensen_shannon_beta)
    of_ta = divergence_named(LOSS.ta_divergence, LOSS.jensen_shannon_beta)
    teacher = teacher_targets(batch, num_targets)
    assert teacher is not None

    def own(model: PreTrainedModel) -> tuple[Tensor, Tensor, Tensor]:
        states = model.base_model(input_ids=batch["input_ids"], use_cache=False).last_hidden_state
        aligned, labels, mask = align(states, batch["input_ids"])
        logits = model.get_output_embeddings()(aligned)
        divergence = top_k_divergence(
            of_teacher, logits, teacher.top_k_ids, teacher.top_k_log_probs, teacher.tail_mass, mask
        )
        loss = weights["cross_entropy"] * cross_entropy(logits, labels, mask) + weights["teacher"] * divergence
        return loss, logits, mask

    total, ta_logits, mask = own(ta)
    total = weights["ta"] * total
    for student in students.values():
        loss, logits, _ = own(student)
        divergence = vocabulary_divergence(
            of_ta, logits, ta_logits.detach(), mask, loss_temperature=LOSS.loss_temperature
        )
        total = total + (loss + weights["distillation"] * divergence) / len(students)
    (total / num_targets).backward()


def _batch(vocabulary: int) -> Batch:
    generator = torch.Generator().manual_seed(0)
    targets = SEQUENCES * (LENGTH - 1)
    input_ids = torch.randint(0, vocabulary, (SEQUENCES, LENGTH), generator=generator)
    scores = top_k_scores(torch.randn(targets, vocabulary, generator=generator), TOP_K, vocabulary)
    return {"input_ids": input_ids} | {name: each.reshape(SEQUENCES, -1) for name, each in scores.columns().items()}


if __name__ == "__main__":
    run_command(main)
