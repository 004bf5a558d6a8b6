"""Training: TA and students with online distillation, then each size alone; resumable at any step."""

import copy
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from matta_core import distributed
from matta_core.artifacts import Artifact, write_json_atomically
from matta_core.artifacts.kinds.checkpoint import CONSOLIDATED, CONSOLIDATION, NESTING, Nesting
from matta_core.beginning.start import agreed_over_ranks, initialize
from matta_core.checkpoints import carry_generation, save_model
from matta_core.errors import TrainingDivergedError, UserError
from matta_core.machines import gpu_called
from matta_core.model_config import build_config
from matta_core.nesting.config import student_config
from matta_core.nesting.cost import flops_per_token, teacher_flops_per_token
from matta_core.nesting.size import whole
from matta_core.nesting.slices import cuts
from matta_core.objectives import OBJECTIVE, Objective
from matta_core.pretrained import load_tokenizer, moved
from matta_core.progress import progress
from matta_core.recipe import TrainConfig
from matta_core.students.extract import extract_student
from matta_core.teacher import OnlineTeacher, load_teacher
from matta_core.training.alone import settings_alone, sizes_alone
from matta_core.training.checkpoints import Checkpoints
from matta_core.training.data import Sequences, batches_of_step
from matta_core.training.learning_rate import learning_rate
from matta_core.training.metrics import MetricsLog
from matta_core.training.optimizers import make_optimizer
from matta_core.training.step import Training, train_step, training_of
from matta_core.training.stopping import StopSignal
from matta_core.training.validation import validate


def train(
    config: TrainConfig,
    dataset: Artifact,
    scores: Artifact | None,
    output: Path,
    work: Path,
    stop: StopSignal | None = None,
    objective: Objective = OBJECTIVE,
    online: OnlineTeacher | None = None,
) -> dict[str, Any]:
    """Train the TA with its nested students, then each size alone from its slice, as `config.consolidation` says. Write
    `ta/`, `nesting.json`, `metrics.jsonl`, `tensorboard/`, and for sizes alone `consolidated/` and `consolidation/`.

    `online` is a Teacher that scores each batch when it is read, in place of `scores`; the loss is the same.

    `work` keeps checkpoints while the run lasts. A killed run that is started again goes on from the newest, and ends
    with the same weights, bit for bit, on the same CPU. If `stop` is given in any rank, the ranks write one more
    checkpoint and end.

    Raises: UserError where settings do not fit the data, or `start_from` does not fit the settings;
    TrainingDivergedError where a loss, a gradient or a weight is not finite, which is never saved; ToldToEndError.
    """
    stop = stop or StopSignal()
    device = distributed.pick_device()
    distributed.start(device)
    _check(config, dataset, scores or online)
    tokenizer = load_tokenizer(dataset.path / "tokenizer")
    sequence_length = dataset.metadata["sequence_length"]
    model_config = build_config(config.model, config.sizes[config.ta], tokenizer, sequence_length)
    cache = work / f"arrow-{distributed.rank()}"
    teacher = load_teacher(*online, dataset, objective, device) if online else None
    training_data = Sequences(objective, dataset, "train", cache, scores, teacher.columns if teacher else None)
    validation_data = Sequences(objective, dataset, "validation", cache)

    checkpoints = Checkpoints(work)
    if resumed := checkpoints.resume(config, model_config, objective.model_class, device):
        ta, optimizer, granularities = resumed
    else:
        ta, granularities = initialize(config, objective, model_config, tokenizer, training_data, device)
        granularities = agreed_over_ranks(moved(ta, device), granularities)
        optimizer = make_optimizer(ta, config, cuts(ta, granularities.values()))
    if config.start_from is not None:
        carry_generation(ta, config.start_from, config.model)
    of_teacher = teacher_flops_per_token(teacher.model, sequence_length) if teacher else 0
    training = training_of(config, objective, ta, granularities, optimizer, sequence_length, of_teacher)
    run = _Run(training, training_data, validation_data, checkpoints, output, stop)
    with run.explained(), stop.awaited():
        final = run.loop()
    if distributed.rank() == 0:
        save_model(ta, tokenizer, output / "ta")
    consolidated = sizes_alone(config, granularities)
    flops = run.flops
    for name in consolidated:
        alone = _alone(run, name, work / CONSOLIDATION / name)
        with alone.explained(), stop.awaited():
            final |= alone.loop()
        flops += alone.flops
        if distributed.rank() == 0:
            save_model(alone.training.ta, tokenizer, output / CONSOLIDATED / name)
    if distributed.rank() == 0:
        nesting: Nesting = {
            "model_type": ta.config.model_type,
            "sizes": {name: size.to_dict() for name, size in granularities.items()},
            "student": config.student,
            "sequence_length": sequence_length,
            "nested_from": config.first_nested_step,
            "consolidated": dict.fromkeys(consolidated, config.consolidation_steps),
        }
        write_json_atomically(output / NESTING, nesting)
    distributed.wait_for_all()
    distributed.stop()
    return {
        "student": config.student,
        "ta": config.ta,
        "steps": config.steps,
        "consolidation_steps": config.consolidation_steps,
        "figure": objective.figure,
        "figure_title": objective.figure_title,
        "final": final,
        "flops_per_token": flops_per_token(ta, whole(ta.config, config.ta), sequence_length),
        "flops": flops,
        "ranks": distributed.world_size(),
        "pass_order": "together" if training.settings.together else "one_by_one",
    }


def _alone(joint: "_Run", name: str, work: Path) -> "_Run":
    """The run of one size on its own, from its slice of the TA or from its newest checkpoint."""
    training = joint.training
    config = settings_alone(training.config, name)
    size, checkpoints = training.granularities[name], Checkpoints(work)
    model_config = student_config(training.ta.config, size)
    resumed = checkpoints.resume(config, model_config, training.objective.model_class, training.device)
    if resumed:
        model, optimizer, sizes = resumed
    else:
        model = extract_student(training.ta, size).train()
        sizes = {name: whole(model.config, name)}
        optimizer = make_optimizer(model, config, cuts(model, sizes.values()))
    if model.can_generate():
        model.generation_config = copy.deepcopy(training.ta.generation_config)
    sequence_length = joint.training_data.sequence_length
    of_teacher = training.work.teacher
    alone = training_of(config, training.objective, model, sizes, optimizer, sequence_length, of_teacher)
    output = joint.output / CONSOLIDATION / name
    return _Run(
        alone, joint.training_data, joint.validation_data, checkpoints, output, joint.stop, training.config.steps
    )


@dataclass(frozen=True)
class _Run:
    """A training with the data and files that it reads and writes. Its data begin after `steps_before` steps."""

    training: Training
    training_data: Sequences
    validation_data: Sequences
    checkpoints: Checkpoints
    output: Path
    stop: StopSignal
    steps_before: int = 0

    def loop(self) -> dict[str, float]:
        """Do all remaining steps, each with what is due after it. Returns the last validation's figures."""
        training, config, resumed_at = self.training, self.training.config, self.checkpoints.step
        log = self.opened_log(resumed_at)
        intervals = (config.log_every_steps, config.eval_every_steps, config.checkpoint_every_steps)
        steps_timed, seconds = 0, 0.0
        what = f"{'consolidate' if self.steps_before else 'train'} {config.ta}"
        with progress(config.steps, what, "steps", initial=resumed_at) as bar:
            evaluated = self.evaluate_and_save(resumed_at, bar, log)
            for step in range(resumed_at, config.steps):
                started = time.perf_counter()
                batches = batches_of_step(config, self.training_data, self.steps_before + step, training.device)
                if train_step(training, step, batches, self.stop) is None:
                    self.checkpoints.save_and_end(step, training)
                if any(self.is_due(step + 1, every) for every in intervals):
                    training.figures.check()  # the only wait for the device; it counts as the steps' time
                steps_timed += 1
                seconds += time.perf_counter() - started
                if self.is_due(step + 1, config.log_every_steps):
                    values = training.figures.take(training.targets_of) | {
                        "train/learning_rate": learning_rate(config, step),
                        "perf/tokens_per_second": steps_timed * training.num_targets / seconds,
                    }
                    values |= self.speed(range(step + 1 - steps_timed, step + 1), seconds)
                    values |= {f"train/weight/{name}": weight for name, weight in config.loss.weights_at(step).items()}
                    if log:
                        log.write(step + 1, values)
                    steps_timed, seconds = 0, 0.0
                bar.update()
                evaluated = self.evaluate_and_save(step + 1, bar, log)
        if log:
            log.close()
        assert evaluated is not None, "everything is due after the last step"
        return evaluated

    @property
    def flops(self) -> int:
        """Of all steps and validations, over all ranks."""
        work, sequences = self.training.work, min(self.training.config.eval_sequences, len(self.validation_data))
        return work.of_steps() + work.of_validations(sequences)

    def speed(self, steps: range, seconds: float) -> dict[str, float]:
        """What steps took: seconds, FLOP/s over all ranks, and the share of the GPUs' peak, if a data sheet says it."""
        rate, device = sum(map(self.training.work.of_step, steps)) / seconds, self.training.device
        gpu = gpu_called(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
        known = {} if gpu is None else {"perf/mfu": rate / (gpu.peak_flops * distributed.world_size())}
        return {"perf/seconds": seconds, "perf/flops_per_second": rate, **known}

    def opened_log(self, steps_done: int) -> MetricsLog | None:
        if distributed.rank() != 0:
            return None
        self.output.mkdir(parents=True, exist_ok=True)
        return MetricsLog(self.output, steps_done)

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Tell where training stands, if it diverges. Raises: TrainingDivergedError with the remedies."""
        try:
            yield
        except TrainingDivergedError as error:
            raise TrainingDivergedError(
                f"{error}; {self.checkpoints.last_good()}. Lower learning_rate, lengthen warmup_steps, or set "
                f"precision to fp32, and run again (with another --output)"
            ) from None

    def is_due(self, step: int, every: int) -> bool:
        """Whether work that is done every `every` steps is due after `step` steps. After the last step, all is."""
        return step == self.training.config.steps or step % every == 0

    def evaluate_and_save(self, step: int, bar: Any, log: MetricsLog | None) -> dict[str, float] | None:
        """Validate and save, if they are due after `step` steps. Returns the validation's figures, or None."""
        training, config, validation = self.training, self.training.config, None
        if self.is_due(step, config.eval_every_steps):
            validation = validate(training, self.validation_data, step, self.stop)
            if validation is None:
                self.checkpoints.save_and_end(step, training)
            figure = validation[f"eval/{training.objective.figure}/{config.student}"]
            bar.set_postfix({f"eval {config.student}": f"{figure:.3f}"})
            if log:
                log.write_evaluation(step, validation)
        if self.is_due(step, config.checkpoint_every_steps):
            self.checkpoints.save(step, training)
        return validation


def _check(config: TrainConfig, dataset: Artifact, scores: Artifact | OnlineTeacher | None) -> None:
    if config.batch_size % distributed.world_size():
        raise UserError(
            f"train.batch_size must be divisible by the number of processes, {distributed.world_size()}, "
            f"got {config.batch_size}"
        )
    if scores is None and config.loss.teacher_weight.highest > 0:
        raise UserError(
            f"train.loss.teacher_weight is {config.loss.teacher_weight}, but no teacher scores are given: "
            f"give the artifact of score_teacher, or a Teacher with score_teacher.online, or set it to 0"
        )
    sequences = dataset.metadata["num_train_sequences"]
    if sequences < config.batch_size:
        raise UserError(
            f"train.batch_size must be at most the dataset's {sequences} sequences, got {config.batch_size}: "
            f"give more text or a smaller batch"
        )
