"""The training loop: TA and students, sequentially, with online distillation, resumable at any step."""

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from matta_core import distributed
from matta_core.artifacts import Artifact, write_json_atomically
from matta_core.config import TrainConfig
from matta_core.data import Sequences, rows_of_step
from matta_core.errors import TrainingDivergedError, UserError
from matta_core.initialize import NESTING, agreed_over_ranks, initialize
from matta_core.metrics import Means, MetricsLog
from matta_core.model_config import build_config
from matta_core.models import build_model, load_tokenizer, save_model
from matta_core.nesting import cuts, live_student
from matta_core.optimization import autocast_dtype, learning_rate
from matta_core.optimizers import make_optimizer
from matta_core.passes import PassSettings, cross_entropy_sum, joint_backward
from matta_core.progress import progress
from matta_core.training_state import load_newest_state, save_state, saved_sizes, saved_states


def train(config: TrainConfig, dataset: Artifact, scores: Artifact | None, output: Path, work: Path) -> dict[str, Any]:
    """Train the TA with its nested students; write `ta/`, `nesting.json`, `metrics.jsonl`, `tensorboard/`.

    `work` keeps checkpoints while the run lasts: a killed run that is started again goes on from the newest,
    and ends with the same weights, bit for bit, on the same CPU.

    Raises: UserError on settings that do not fit the data, or a `start_from` that does not fit the settings;
    TrainingDivergedError where the loss is not finite.
    """
    device = distributed.pick_device()
    distributed.start(device)
    _check(config, dataset, scores)
    tokenizer = load_tokenizer(dataset.path / "tokenizer")
    sequence_length = dataset.metadata["sequence_length"]
    width = config.sizes[config.ta].intermediate_size
    model_config = build_config(config.model, width, tokenizer, sequence_length)
    cache = work / f"arrow-{distributed.rank()}"
    training_data = Sequences(dataset, "train", cache, scores)
    validation_data = Sequences(dataset, "validation", cache)

    if granularities := saved_sizes(work):
        ta = build_model(model_config, config.seed).to(device)  # its weights are in the saved state
    else:
        ta, granularities = initialize(config, model_config, tokenizer, training_data, device)
        granularities = agreed_over_ranks(ta.to(device), granularities)
    students = {name: live_student(ta, size) for name, size in granularities.items() if name != config.ta}
    if config.activation_checkpointing:
        for model in (ta, *students.values()):
            model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    optimizer = make_optimizer(ta, config, cuts(ta, granularities.values()))
    settings = PassSettings(config.head_chunk_tokens, autocast_dtype(config.precision, ta, device))

    resumed_at = load_newest_state(work, ta, optimizer)
    if resumed_at == 0 and saved_states(work):
        raise UserError(f"every checkpoint in {work} is damaged: delete the folder, and the run begins anew")
    is_leader = distributed.rank() == 0
    log = MetricsLog(output, resumed_at) if is_leader else None
    means = Means()
    timed_tokens, timed_seconds = 0, 0.0

    with progress(config.steps, f"train {config.ta}", "steps", initial=resumed_at) as bar:
        for step in range(resumed_at, config.steps + 1):
            is_last = step == config.steps
            is_new = step > resumed_at or step == 0
            if is_last or (is_new and step % config.eval_every_steps == 0):
                validation = _validate(config, ta, students, validation_data, settings, device)
                bar.set_postfix({f"eval {config.student}": f"{validation[f'eval/cross_entropy/{config.student}']:.3f}"})
                if log and is_new:
                    log.write(step, validation)
            if is_new and step > 0 and (is_last or step % config.checkpoint_every_steps == 0) and is_leader:
                save_state(work, step, ta, optimizer, granularities)
            if is_last:
                break

            started = time.perf_counter()
            rate = learning_rate(config, step)
            for group in optimizer.param_groups:
                group["lr"] = rate
            trained = {name: students[name] for name in sizes_of_step(config, step)}
            rows = rows_of_step(len(training_data), config.batch_size, step, config.seed)
            num_tokens = config.batch_size * (sequence_length - 1)
            sums = {}
            for micro_batch in _micro_batches(config, rows):
                batch = training_data.batch(micro_batch, device)
                for name, total in joint_backward(
                    ta,
                    trained,
                    batch,
                    config.loss,
                    step=step,
                    num_tokens=num_tokens,
                    settings=settings,
                    ta_name=config.ta,
                ).items():
                    sums[name] = sums.get(name, 0.0) + total
            distributed.sum_over_ranks([parameter.grad for parameter in ta.parameters()])
            grad_norm = torch.nn.utils.clip_grad_norm_(ta.parameters(), config.max_grad_norm)
            _stop_if_diverged(step, sums, grad_norm, work)
            optimizer.step()
            optimizer.zero_grad()
            for name, total in sums.items():
                means.add(f"train/{name}", total, num_tokens)
            timed_tokens += num_tokens
            timed_seconds += time.perf_counter() - started

            if (step + 1) % config.log_every_steps == 0 or step + 1 == config.steps:
                values = means.take() | {
                    "train/grad_norm": grad_norm.item(),
                    "train/learning_rate": rate,
                    "perf/tokens_per_second": timed_tokens / timed_seconds,
                }
                values |= {f"train/weight/{name}": weight for name, weight in config.loss.weights_at(step).items()}
                if log:
                    log.write(step + 1, values)
                timed_tokens, timed_seconds = 0, 0.0
            bar.update()

    if log:
        log.close()
        save_model(ta, tokenizer, output / "ta")
        sizes = {name: size.to_dict() for name, size in granularities.items()}
        nesting = {"model_type": ta.config.model_type, "sizes": sizes, "student": config.student}
        write_json_atomically(output / NESTING, nesting | {"sequence_length": sequence_length})
    distributed.wait_for_all()
    distributed.stop()
    return {"student": config.student, "ta": config.ta, "steps": config.steps, "final": validation}


def sizes_of_step(config: TrainConfig, step: int) -> list[str]:
    """The sizes trained in a step beside the TA, ascending, as `sizes_per_step` says.

    A function of seed and step, so that all ranks agree and a resumed run repeats. The sandwich (Yu & Huang 2019) is
    our choice: the largest and the base in every step, those between by lot.
    """
    others = [name for name in config.sizes if name not in (config.ta, config.student)]
    if config.sizes_per_step == "sandwich":
        number = min(config.sampled_sizes, len(others))
        lot = np.random.default_rng([config.seed, step])
        wanted = {config.student, *(lot.choice(others, number, replace=False) if number else ())}
    else:
        wanted = config.sizes if config.sizes_per_step == "all" else config.sizes_per_step
    return [name for name in config.sizes if name in wanted and name != config.ta]


@torch.no_grad()
def _validate(
    config: TrainConfig,
    ta: PreTrainedModel,
    students: Mapping[str, PreTrainedModel],
    data: Sequences,
    settings: PassSettings,
    device: torch.device,
) -> dict[str, float]:
    """Cross-entropy (nats per token) and perplexity of every size on the first sequences of the validation split."""
    number = min(config.eval_sequences, len(data))
    mine = np.arange(distributed.rank(), number, distributed.world_size())
    totals = {name: torch.zeros((), device=device) for name in config.sizes}
    for model in (ta, *students.values()):
        model.eval()
    for rows in np.array_split(mine, max(1, math.ceil(len(mine) / (config.micro_batch_size or config.batch_size)))):
        if len(rows) == 0:
            continue
        input_ids = data.batch(rows, device).input_ids
        for name, total in totals.items():
            total += cross_entropy_sum(students.get(name, ta), input_ids, settings=settings)
    for model in (ta, *students.values()):
        model.train()
    distributed.sum_over_ranks(totals.values())
    values = {}
    for name, total in totals.items():
        mean = total.item() / (number * (data.sequence_length - 1))
        values[f"eval/cross_entropy/{name}"] = mean
        values[f"eval/perplexity/{name}"] = math.exp(min(mean, 700.0))
    return values


def _micro_batches(config: TrainConfig, rows: np.ndarray) -> list[np.ndarray]:
    """This rank's share of the step's rows, in passes of at most micro_batch_size sequences."""
    mine = rows[distributed.rank() :: distributed.world_size()]
    size = config.micro_batch_size or len(mine)
    return [mine[start : start + size] for start in range(0, len(mine), size)]


def _check(config: TrainConfig, dataset: Artifact, scores: Artifact | None) -> None:
    if config.batch_size % distributed.world_size():
        raise UserError(
            f"train.batch_size must be divisible by the number of processes, {distributed.world_size()}, "
            f"got {config.batch_size}"
        )
    if scores is None and config.loss.teacher_weight.highest > 0:
        raise UserError(
            f"train.loss.teacher_weight is {config.loss.teacher_weight}, but no teacher scores are given: "
            f"give the artifact of score_teacher, or set it to 0"
        )
    sequences = dataset.metadata["num_train_sequences"]
    if sequences < config.batch_size:
        raise UserError(
            f"train.batch_size must be at most the dataset's {sequences} sequences, got {config.batch_size}: "
            f"give more text or a smaller batch"
        )


def _stop_if_diverged(step: int, sums: Mapping[str, Tensor], grad_norm: Tensor, work: Path) -> None:
    if math.isfinite((sum(sums.values()) + grad_norm).item()):
        return
    states = saved_states(work)
    kept = f"the last good checkpoint is kept in {states[-1]}" if states else "no checkpoint was written before it"
    broken = ", ".join(f"{name} = {total.item()}" for name, total in sums.items() if not math.isfinite(total.item()))
    raise TrainingDivergedError(
        f"training diverged in step {step + 1}: {broken or f'the gradient norm is {grad_norm.item()}'}. {kept}. "
        f"Lower learning_rate, lengthen warmup_steps, or set precision to fp32, and run again (with another --output)"
    )
