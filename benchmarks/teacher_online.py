"""Training from the Teacher's cache beside training with the Teacher online: `make bench-teacher-cache`.

On the demo's text: a Student learns from a Teacher of six times its parameters, from its cached scores and with the
Teacher itself, by turns. Medians of tokens per second, the last validation's losses, and how fast the loader reads and
unpacks are printed and written to runs/bench-teacher-cache/online.json.
"""

import dataclasses
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from components.common.command_line import load_recipe, path_option, run_command
from components.common.parser import CommandParser
from components.prepare_data.step import prepare_data
from components.score_teacher.step import score_teacher
from components.train.step import train, train_teacher
from matta_core.artifacts import Artifact
from matta_core.errors import UserError
from matta_core.objectives import OBJECTIVE
from matta_core.recipe import LossConfig, ScoreTeacherConfig, TrainConfig
from matta_core.training.data import Sequences

STUDENT = {"model_type": "gpt2", "hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 2}
TEACHER = {"model_type": "gpt2", "hidden_size": 320, "num_hidden_layers": 5, "num_attention_heads": 5}
FFN = {"student": 512, "teacher": 1280}


def main() -> None:
    parser = CommandParser(prog="python -m benchmarks.teacher_online", description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=100, help="of each training (default: 100)")
    parser.add_argument("--repeats", type=int, default=3, help="medians are of so many (default: 3)")
    parser.add_argument("--output", type=path_option, default=Path("runs/bench-teacher-cache"))
    args = parser.parse_args()
    for name in ("steps", "repeats"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name} must be >= 1, got {getattr(args, name)}")
    dataset = prepare_data(load_recipe().prepare_data, output=args.output / "prepare_data-{key}")
    figures = measure(dataset, args.output, args.steps, args.repeats)
    (args.output / "online.json").write_text(json.dumps(figures, indent=2) + "\n")
    cached, online = figures["cached"], figures["online"]
    print(
        f"a Teacher of {figures['parameters_ratio']:.1f} times the Student's parameters: "
        f"{cached['tokens_per_second']:,.0f} tokens/s from the cache, {online['tokens_per_second']:,.0f} online, "
        f"{cached['tokens_per_second'] / online['tokens_per_second']:.2f} times as fast; validation loss "
        f"{cached['loss']:.4f} and {online['loss']:.4f} ({cached['loss'] / online['loss'] - 1:+.2%})\n"
        f"scoring took {figures['scoring_seconds']:.0f} s, once, for {figures['bytes_per_token']:.0f} bytes per token; "
        f"the loader reads {figures['loader_tokens_per_second']:,.0f} tokens/s"
    )


def measure(dataset: Artifact, output: Path, steps: int, repeats: int) -> dict[str, Any]:
    teacher = train_teacher(config_of("teacher", TEACHER, 2 * steps, LossConfig(teacher_weight=0.0)), dataset.path,
                            output=output / "train_teacher-{key}")  # fmt: skip
    scoring = ScoreTeacherConfig()
    assert teacher is not None
    scores = score_teacher(scoring, dataset.path, teacher.path, output=output / "score_teacher-{key}")
    assert scores is not None
    ways: dict[str, dict[str, Any]] = {
        "cached": {"scores": scores.path},
        "online": {"scores": None, "teacher_config": scoring, "teacher_checkpoint": teacher.path},
    }
    found: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    for seed in range(repeats):
        config = dataclasses.replace(config_of("student", STUDENT, steps, LossConfig()), seed=seed)
        for name, inputs in ways.items():
            with tempfile.TemporaryDirectory(dir=output) as folder:
                made = train(config, dataset.path, **inputs, output=Path(folder) / "train")
                assert made is not None
                found[name].append(figures_of(made))
    medians = {
        name: {figure: statistics.median(each[figure] for each in runs) for figure in runs[0]}
        for name, runs in found.items()
    }
    tokens = OBJECTIVE.num_targets(dataset.metadata["num_train_sequences"], dataset.metadata["sequence_length"])
    size = sum(file.stat().st_size for file in (scores.path / "train").iterdir())
    return medians | {
        "parameters_ratio": scores.metadata["teacher_parameters"] / parameters(STUDENT, dataset, FFN["student"]),
        "scoring_seconds": scores.seconds,
        "bytes_per_token": size / tokens,
        "loader_tokens_per_second": loader_speed(dataset, scores, output),
        "threads": torch.get_num_threads(),
    }


def config_of(name: str, model: dict[str, Any], steps: int, loss: LossConfig) -> TrainConfig:
    return TrainConfig(
        model=model,
        sizes={name: FFN[name]},
        student=name,
        steps=steps,
        learning_rate=3e-3,
        warmup_steps=steps // 10,
        eval_every_steps=steps,
        checkpoint_every_steps=steps,
        loss=loss,
    )


def figures_of(made: Artifact) -> dict[str, float]:
    rows = [json.loads(line) for line in (made.path / "metrics.jsonl").read_text().splitlines()]
    speeds = [row["perf/tokens_per_second"] for row in rows if "perf/tokens_per_second" in row]
    return {
        "tokens_per_second": statistics.median(speeds),
        "loss": made.metadata["final"]["eval/cross_entropy/student"],
        "seconds": made.seconds,
    }


def parameters(model: dict[str, Any], dataset: Artifact, ffn: int) -> int:
    from matta_core.checkpoints import build_model
    from matta_core.model_config import build_config
    from matta_core.pretrained import load_tokenizer

    tokenizer = load_tokenizer(dataset.path / "tokenizer")
    config = build_config(model, {"intermediate_size": ffn}, tokenizer, dataset.metadata["sequence_length"])
    return sum(each.numel() for each in build_model(config, 0, OBJECTIVE.model_class).parameters())


def loader_speed(dataset: Artifact, scores: Artifact, output: Path) -> float:
    """Predicted tokens per second, in batches of 16 sequences in random order."""
    with tempfile.TemporaryDirectory(dir=output) as cache:
        data = Sequences(OBJECTIVE, dataset, "train", Path(cache), scores)
        rows = np.random.default_rng(0).permutation(len(data))[:640].reshape(-1, 16)
        started = time.perf_counter()
        for each in rows:
            data.batch(each, torch.device("cpu"))
        return OBJECTIVE.num_targets(rows.size, data.sequence_length) / (time.perf_counter() - started)


if __name__ == "__main__":
    run_command(main)
