"""The training loop: TA and students, sequentially, with online distillation, resumable at any step."""

import time
from pathlib import Path
from typing import Any

from matta_core import distributed
from matta_core.artifacts import Artifact, write_json_atomically
from matta_core.artifacts.kinds.checkpoint import NESTING, Nesting
from matta_core.beginning.start import agreed_over_ranks, initialize
from matta_core.checkpoints import carry_generation, save_model
from matta_core.errors import TrainingDivergedError, UserError
from matta_core.model_config import build_config
from matta_core.nesting.cost import flops_per_token
from matta_core.nesting.live import live_student
from matta_core.nesting.size import whole
from matta_core.nesting.slices import cuts
from matta_core.pretrained import load_tokenizer
from matta_core.progress import progress
from matta_core.recipe import TrainConfig
from matta_core.training.checkpoints import Checkpoints
from matta_core.training.data import Sequences
from matta_core.training.metrics import Means, MetricsLog
from matta_core.training.optimizers import make_optimizer
from matta_core.training.passes import PassSettings
from matta_core.training.precision import autocast_dtype
from matta_core.training.step import Training, train_step
from matta_core.training.stopping import StopSignal
from matta_core.training.validation import validate


def train(
    config: TrainConfig,
    dataset: Artifact,
    scores: Artifact | None,
    output: Path,
    work: Path,
    stop: StopSignal | None = None,
) -> dict[str, Any]:
    """Train the TA with its nested students; write `ta/`, `nesting.json`, `metrics.jsonl`, `tensorboard/`.

    `work` keeps checkpoints while the run lasts: a killed run that is started again goes on from the newest,
    and ends with the same weights, bit for bit, on the same CPU. Where `stop` is given meanwhile, in any rank, all
    write one more checkpoint and end.

    Raises: UserError on settings that do not fit the data, or a `start_from` that does not fit the settings;
    TrainingDivergedError where a loss, a gradient or a weight is not finite, and before that is saved; ToldToEndError.
    """
    stop = stop or StopSignal()
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

    checkpoints = Checkpoints(work)
    if resumed := checkpoints.resume(config, model_config, device):
        ta, optimizer, granularities = resumed
    else:
        ta, granularities = initialize(config, model_config, tokenizer, training_data, device)
        granularities = agreed_over_ranks(ta.to(device), granularities)
        optimizer = make_optimizer(ta, config, cuts(ta, granularities.values()))
    if config.start_from is not None:
        carry_generation(ta, config.start_from, config.model)
    students = {name: live_student(ta, size) for name, size in granularities.items() if name != config.ta}
    if config.activation_checkpointing:
        for model in (ta, *students.values()):
            model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    settings = PassSettings(config.head_chunk_tokens, autocast_dtype(config.precision, ta, device))
    training = Training(
        config, ta, students, granularities, optimizer, training_data, validation_data, settings, device
    )

    log = MetricsLog(output, checkpoints.step) if distributed.rank() == 0 else None
    try:
        with stop.awaited():
            final = _loop(training, checkpoints, log, stop)
    except TrainingDivergedError as error:
        raise TrainingDivergedError(
            f"{error}; {checkpoints.last_good()}. Lower learning_rate, lengthen warmup_steps, or set "
            f"precision to fp32, and run again (with another --output)"
        ) from None
    if log:
        log.close()
        save_model(ta, tokenizer, output / "ta")
        sizes = {name: size.to_dict() for name, size in granularities.items()}
        nesting: Nesting = {
            "model_type": ta.config.model_type,
            "sizes": sizes,
            "student": config.student,
            "sequence_length": sequence_length,
        }
        write_json_atomically(output / NESTING, nesting)
    distributed.wait_for_all()
    distributed.stop()
    flops = flops_per_token(ta, whole(ta.config, config.ta), sequence_length)
    return {
        "student": config.student,
        "ta": config.ta,
        "steps": config.steps,
        "final": final,
        "flops_per_token": flops,
    }


def _loop(training: Training, checkpoints: Checkpoints, log: MetricsLog | None, stop: StopSignal) -> dict[str, float]:
    """All steps that are left, with validation, checkpoints and metrics; the last validation's figures."""
    config, resumed_at = training.config, checkpoints.step
    means = Means()
    timed_tokens, timed_seconds = 0, 0.0
    with progress(config.steps, f"train {config.ta}", "steps", initial=resumed_at) as bar:
        for step in range(resumed_at, config.steps + 1):
            is_last = step == config.steps
            if is_last or step % config.eval_every_steps == 0:
                validation = validate(training, step, stop)
                if validation is None:
                    checkpoints.save_and_end(step, training)
                bar.set_postfix({f"eval {config.student}": f"{validation[f'eval/cross_entropy/{config.student}']:.3f}"})
                if log:
                    log.write_evaluation(step, validation)
            if is_last or step % config.checkpoint_every_steps == 0:
                checkpoints.save(step, training)
            if is_last:
                return validation

            started = time.perf_counter()
            done = train_step(training, step, stop)
            if done is None:
                checkpoints.save_and_end(step, training)
            for name, total in done.sums.items():
                means.add(f"train/{name}", total, done.num_tokens)
            timed_tokens += done.num_tokens
            timed_seconds += time.perf_counter() - started

            if (step + 1) % config.log_every_steps == 0 or step + 1 == config.steps:
                values = means.take() | {
                    "train/grad_norm": done.grad_norm,
                    "train/learning_rate": done.learning_rate,
                    "perf/tokens_per_second": timed_tokens / timed_seconds,
                }
                values |= {f"train/weight/{name}": weight for name, weight in config.loss.weights_at(step).items()}
                if log:
                    log.write(step + 1, values)
                timed_tokens, timed_seconds = 0, 0.0
            bar.update()
    raise AssertionError("the last step returns")


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
