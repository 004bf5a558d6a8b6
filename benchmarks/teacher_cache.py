"""What the Teacher's cache costs in bytes, and what it changes of the KL and its gradient: `make bench-teacher-cache`.

The Teacher is the demo's, trained first, or any checkpoint (--teacher, with --text). A student, the Teacher's first
layers, learns from its whole distributions for a while. Then each way of keeping the Teacher's answers to other text is
held against these distributions in float32, with training's own loss: the KL's mean, and the gradient with respect to
the student's logits, for each token and for the mean over all. All is printed, and written to
runs/bench-teacher-cache/cache.json.
"""

import argparse
import copy
import io
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from components.common.command_line import load_recipe, path_option, run_command
from components.common.parser import CommandParser
from components.prepare_data.step import prepare_data
from components.train.step import train_teacher
from matta_core.errors import UserError
from matta_core.objectives import OBJECTIVE
from matta_core.objectives.closed_form import loss_and_gradient
from matta_core.objectives.packed_scores import pack, unpack
from matta_core.objectives.top_k import TeacherTargets, teacher_targets, top_k_scores
from matta_core.pretrained import load_model, load_tokenizer
from matta_core.recipe import LossConfig
from matta_core.teacher import PARQUET_OPTIONS

LENGTH = 256
KEPT = [(k, 0) for k in (8, 16, 32, 64, 128)] + [(8, 32), (8, 64), (16, 32), (16, 64), (32, 32), (32, 48), (64, 32)]
SHOWN = 32  # of the top k, where encodings are compared


def main() -> None:
    parser = CommandParser(prog="python -m benchmarks.teacher_cache", description=__doc__.splitlines()[0])
    parser.add_argument("--teacher", type=path_option, help="a checkpoint's folder (default: the demo's, trained here)")
    parser.add_argument("--text", type=path_option, help="JSON Lines with `text`, for --teacher")
    parser.add_argument("--sequences", type=int, default=16, help=f"of {LENGTH} tokens, to measure on (default: 16)")
    parser.add_argument("--steps", type=int, default=100, help="that the student learns for (default: 100)")
    parser.add_argument("--output", type=path_option, default=Path("runs/bench-teacher-cache"))
    args = parser.parse_args()
    if (args.teacher is None) != (args.text is None):
        raise UserError("give --teacher and --text together, or neither")
    teacher, rows = demo(args.output) if args.teacher is None else given(args.teacher, args.text, args)
    if len(rows) <= args.sequences:
        raise UserError(f"the text has {len(rows)} sequences of {LENGTH} tokens, --sequences asks for {args.sequences}")
    student = learnt(teacher, rows[args.sequences :], args.steps)
    figures = measure(teacher, student, rows[: args.sequences])
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / "cache.json").write_text(json.dumps(figures, indent=2) + "\n")
    show(figures)


def demo(output: Path) -> tuple[PreTrainedModel, Tensor]:
    """The demo's Teacher, and its training text: other sequences than the demo's, twice as long."""
    recipe = load_recipe(Path("pipelines/recipes/demo.yaml"), [])
    assert recipe.train_teacher is not None
    dataset = prepare_data(recipe.prepare_data, output=output / "prepare_data-{key}")
    trained = train_teacher(recipe.train_teacher, dataset.path, output=output / "train_teacher-{key}")
    assert trained is not None
    shards = sorted((dataset.path / "validation").glob("*.parquet"))
    ids = np.concatenate([pq.read_table(shard)["input_ids"].combine_chunks().flatten().to_numpy() for shard in shards])
    model = load_model(trained.path / "ta", OBJECTIVE.model_class, torch.float32).eval()
    return model, in_rows(ids, dataset.metadata["sequence_length"])


def given(folder: Path, text: Path, args: argparse.Namespace) -> tuple[PreTrainedModel, Tensor]:
    tokenizer, ids = load_tokenizer(folder), []
    with text.open() as lines:
        for line in lines:
            ids += [*tokenizer.encode(json.loads(line)["text"], add_special_tokens=False), tokenizer.eos_token_id]
            if len(ids) > LENGTH * (args.sequences + 4 * args.steps):
                break
    return load_model(folder, OBJECTIVE.model_class, torch.float32).eval(), in_rows(np.array(ids), LENGTH)


def in_rows(ids: np.ndarray, length: int) -> Tensor:
    return torch.from_numpy(ids[: len(ids) // length * length].astype(np.int64)).view(-1, length)


def learnt(teacher: PreTrainedModel, rows: Tensor, steps: int) -> PreTrainedModel:
    """A student of the Teacher's first third of layers, after some steps of KL with whole distributions."""
    student = copy.deepcopy(teacher).train()
    layers = next(module for module in student.base_model.children() if isinstance(module, torch.nn.ModuleList))
    del layers[max(1, len(layers) // 3) :]
    optimizer = torch.optim.AdamW(student.parameters(), lr=5e-4, betas=(0.9, 0.95))
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 5e-4 * min(1.0, (step + 1) / 10) * (1.0 - step / steps)
        batch = {"input_ids": rows.roll(-4 * step, 0)[:4, :128]}
        with torch.no_grad():
            theirs = logits_of(teacher, batch).log_softmax(-1)
        ours = logits_of(student, batch).log_softmax(-1)
        F.kl_div(ours, theirs, log_target=True, reduction="batchmean").backward()
        optimizer.step()
        optimizer.zero_grad()
    return student.eval()


def logits_of(model: PreTrainedModel, batch: Mapping[str, Tensor]) -> Tensor:
    return OBJECTIVE.outputs(model, OBJECTIVE.states(model, batch)[0])


@torch.no_grad()
def measure(teacher: PreTrainedModel, student: PreTrainedModel, rows: Tensor) -> dict[str, Any]:
    """Bytes per token of every column in several encodings, and the errors of what is kept."""
    vocabulary = teacher.get_output_embeddings().weight.shape[0]
    ways = {f"top {k} and {samples} samples": (k, samples, packed) for k, samples in KEPT if k < vocabulary}
    ways |= {f"top {SHOWN}, {name}": (SHOWN, 0, change) for name, change in PRECISIONS.items()}
    errors = {name: Error() for name in ways}
    kept: dict[str, list[TeacherTargets]] = {name: [] for name in ways}
    for theirs, ours in logits_in_pieces(teacher, student, rows):
        exact = Exact(theirs, ours)
        for name, (k, samples, change) in ways.items():
            scores = top_k_scores(theirs, k, vocabulary, samples)
            errors[name].add(exact, change(scores))
            if change is packed:
                kept[name].append(scores)
    found = {
        name: errors[name].figures() | ({"bytes": bytes_of(scores)} if (scores := kept[name]) else {}) for name in ways
    }
    encodings = encodings_of(kept[f"top {SHOWN} and {SHOWN} samples"], vocabulary)
    return {"vocabulary": vocabulary, "tokens": rows[:, 1:].numel(), "kept": found, "encodings": encodings}


def logits_in_pieces(
    teacher: PreTrainedModel, student: PreTrainedModel, rows: Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    for row in rows.split(1):
        yield logits_of(teacher, {"input_ids": row}), logits_of(student, {"input_ids": row})


def packed(scores: TeacherTargets) -> TeacherTargets:
    """What training reads."""
    tokens = len(scores.top_k_ids)
    columns = unpack(
        {
            name: values.reshape(1, -1) if values.ndim > 1 else values[None]
            for name, values in pack(scores.columns()).items()
        }
    )
    read = teacher_targets({name: torch.from_numpy(np.ascontiguousarray(x)) for name, x in columns.items()}, tokens)
    assert read is not None
    return TeacherTargets(**{n: x.long() if n.endswith("ids") else x for n, x in read.columns().items()})


def rounded(scores: TeacherTargets, to: Any) -> TeacherTargets:
    return TeacherTargets(scores.top_k_ids, to(scores.top_k_log_probs), scores.tail_mass)


PRECISIONS = {
    "float32": lambda scores: scores,
    "float16": lambda scores: rounded(scores, lambda x: x.half().float()),
    "bfloat16": lambda scores: rounded(scores, lambda x: x.bfloat16().float()),
    "steps of 1/8": lambda scores: rounded(scores, lambda x: (x * 8).round() / 8),
    "steps of 1/16": lambda scores: rounded(scores, lambda x: (x * 16).round() / 16),
    "steps of 1/64": lambda scores: rounded(scores, lambda x: (x * 64).round() / 64),
}


class Exact:
    """A piece's KL for each token over the whole vocabulary, and its gradient."""

    def __init__(self, theirs: Tensor, ours: Tensor) -> None:
        self.logits = ours
        log_p, log_q = theirs.log_softmax(-1), ours.log_softmax(-1)
        self.kl = F.kl_div(log_q, log_p, log_target=True, reduction="none").sum(-1)
        self.gradient = log_q.exp() - log_p.exp()


class Error:
    """Gathers how far a way is from what is exact."""

    def __init__(self) -> None:
        self.kl = self.exact_kl = self.squares = self.exact_squares = 0.0
        self.mean: Any = 0.0
        self.exact_mean: Any = 0.0

    def add(self, exact: Exact, scores: TeacherTargets) -> None:
        labels = torch.zeros(len(exact.logits), dtype=torch.long)
        weights = {"cross_entropy": 0.0, "teacher_divergence": 1.0}
        sums, gradient = loss_and_gradient(exact.logits, labels, labels == 0, weights, LossConfig(), teacher=scores)
        difference = gradient - exact.gradient
        self.kl += sums["teacher_divergence"].item()
        self.exact_kl += exact.kl.sum().item()
        self.squares += difference.square().sum().item()
        self.exact_squares += exact.gradient.square().sum().item()
        self.mean = self.mean + difference.double().sum(0)
        self.exact_mean = self.exact_mean + exact.gradient.double().sum(0)

    def figures(self) -> dict[str, float]:
        return {
            "kl_error": self.kl / self.exact_kl - 1.0,
            "gradient_error_per_token": (self.squares / self.exact_squares) ** 0.5,
            "gradient_error_of_mean": (self.mean.norm() / self.exact_mean.norm()).item(),
        }


def bytes_of(pieces: list[TeacherTargets]) -> float:
    """Bytes per token on disk, as score_teacher writes them."""
    columns = [pack(piece.columns()) for piece in pieces]
    return sum(size([piece[name] for piece in columns]) for name in columns[0])


def size(pieces: list[np.ndarray], level: int | None = None, **options: Any) -> float:
    """Bytes per token of a column in a parquet file, with a list for each piece, which is a sequence's."""
    flat = pa.array(np.concatenate(pieces).reshape(-1))
    lists = pa.FixedSizeListArray.from_arrays(flat, pieces[0].size)
    file = io.BytesIO()
    pq.write_table(pa.table({"x": lists}), file, compression_level=level, **{**PARQUET_OPTIONS, **options})
    return file.tell() / sum(len(piece) for piece in pieces)


def encodings_of(pieces: list[TeacherTargets], vocabulary: int) -> dict[str, float]:
    """Bytes per token of the top k's columns, and of as many samples, in other encodings than those chosen."""
    ids, log_probs, drawn = (
        [getattr(piece, name).numpy() for piece in pieces] for name in ("top_k_ids", "top_k_log_probs", "tail_ids")
    )
    plain = {"use_byte_stream_split": False}

    def of(columns: list[np.ndarray], change: Callable[[np.ndarray], np.ndarray], to: type, **options: Any) -> float:
        return size([change(column).astype(to) for column in columns], **options)

    def same(values: np.ndarray) -> np.ndarray:
        return values

    def gaps(values: np.ndarray) -> np.ndarray:
        return np.diff(values, axis=-1, prepend=0)

    def steps(values: np.ndarray) -> np.ndarray:
        return np.rint(values * -64).astype(np.int32)

    return {
        "ids, int32": of(ids, same, np.int32, **plain, use_dictionary=True),
        "ids, as few bits as the vocabulary needs": of(ids, lambda x: bits(x, vocabulary), np.uint8, **plain),
        "ids, byte planes": of(ids, same, np.int32),
        "ids, byte planes, zstd level 19": of(ids, same, np.int32, level=19),
        "ids, ascending, gaps, byte planes": of(ids, lambda x: gaps(np.sort(x, -1)), np.int32),
        "log-probabilities, float16": of(log_probs, same, np.float16, **plain),
        "log-probabilities, float16, byte planes": of(log_probs, same, np.float16),
        "log-probabilities, bfloat16, byte planes": of(log_probs, lambda x: x.view(np.uint32) >> 16, np.uint16),
        "log-probabilities, a byte, steps of 1/16": of(log_probs, lambda x: (x * -16).round().clip(0, 255), np.uint8),
        "log-probabilities, steps of 1/64": of(log_probs, steps, np.uint16),
        "log-probabilities, steps of 1/64, differences": of(log_probs, lambda x: gaps(steps(x)), np.uint16),
        "samples, byte planes": of(drawn, same, np.int32),
        "samples, gaps, byte planes": of(drawn, gaps, np.int32),
    }


def bits(ids: np.ndarray, vocabulary: int) -> np.ndarray:
    """The ids' own bits only, a token's in whole bytes."""
    number = (vocabulary - 1).bit_length()
    each = (ids[..., None] >> np.arange(number) & 1).astype(np.uint8)
    return np.packbits(each.reshape(len(ids), -1), axis=-1)


def show(figures: dict[str, Any]) -> None:
    print(f"vocabulary {figures['vocabulary']:,}, {figures['tokens']:,} tokens\n")
    print(f"{'kept':<28}{'bytes/token':>12}{'KL':>10}{'gradient':>10}{'its mean':>10}")
    for name, found in figures["kept"].items():
        size_of = f"{found['bytes']:.0f}" if "bytes" in found else ""
        errors = (found["kl_error"], found["gradient_error_per_token"], found["gradient_error_of_mean"])
        print(f"{name:<28}{size_of:>12}{errors[0]:>+10.2%}{errors[1]:>10.1%}{errors[2]:>10.1%}")
    print(f"\n{f'{SHOWN} a token, as':<50}{'bytes/token':>12}")
    for name, found in figures["encodings"].items():
        print(f"{name:<50}{found:>12.1f}")


if __name__ == "__main__":
    run_command(main)
