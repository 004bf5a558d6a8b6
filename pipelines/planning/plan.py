"""The plan of a recipe: for each step tokens, FLOPs, memory, time and what it leaves on disk."""

from dataclasses import dataclass

from matta_core.errors import UserError
from matta_core.machines import Machine
from matta_core.objectives import OBJECTIVE
from matta_core.recipe import Recipe, TrainConfig
from matta_core.training.alone import settings_alone, sizes_alone
from matta_core.training.work import work_of
from pipelines.planning.assumptions import Assumptions
from pipelines.planning.data import text_bytes, training_tokens
from pipelines.planning.memory import (
    Memory,
    goes_together,
    memory_of_scoring,
    memory_of_training,
    optimizer_bytes,
)
from pipelines.planning.shapes import Family, Teacher, family_of_recipe, teacher_of
from pipelines.steps import STEPS, steps_of

_TOKEN_BYTES = 4  # int32, before compression
_CHECKPOINTS = 2  # that are kept, float32: weights and the optimizer's state
_FP32 = 4


@dataclass(frozen=True)
class StepPlan:
    """One step. `memory` is that of a rank that holds all, `sharded` that of one that holds its shard. `seconds` is
    None where nothing tells it. `worker_seconds` are Beam's. `disk_bytes` stay when it ends, or while it runs."""

    name: str
    gpus: int = 0
    tokens: int | None = None
    flops: int | None = None
    seconds: float | None = None
    memory: Memory | None = None
    sharded: Memory | None = None
    worker_seconds: float = 0.0
    disk_bytes: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Prices:
    """Per hour of a GPU and of a Beam worker."""

    gpu_hour: float = 0.0
    worker_hour: float = 0.0

    def of(self, step: StepPlan) -> float:
        return ((step.seconds or 0.0) * step.gpus * self.gpu_hour + step.worker_seconds * self.worker_hour) / 3600


@dataclass(frozen=True)
class Planner:
    """A recipe, the machines it is planned for (`ranks` of them train), and what is assumed of them."""

    recipe: Recipe
    machine: Machine
    ranks: int
    assumed: Assumptions
    tokens: int | None = None  # of the train split, where they are given
    teacher_parameters: int | None = None

    def steps(self) -> list[StepPlan]:
        """Raises: UserError where a shape, a size of the data or a number of ranks does not fit or is not known."""
        recipe = self.recipe
        family = family_of_recipe(recipe, recipe.train, "train")
        own = None if recipe.train_teacher is None else family_of_recipe(recipe, recipe.train_teacher, "train_teacher")
        teacher = teacher_of(recipe, own, self.teacher_parameters, family.ta.config.vocab_size)
        made = [self._data()]
        if recipe.train_teacher is not None and own is not None:
            made.append(self._training("train_teacher", recipe.train_teacher, own))
        if recipe.score_teacher.online:
            made.append(self._training("train", recipe.train, family, teacher))
        else:
            made += [self._scoring(teacher), self._training("train", recipe.train, family)]
        made.append(self._evaluation(family, teacher))
        by_name = {step.name: step for step in made}
        others = self.assumed.other_seconds
        return [by_name.get(name) or StepPlan(name, seconds=others.get(name)) for name in steps_of(recipe)]

    def _data(self) -> StepPlan:
        kept, config = text_bytes(self.recipe, self.assumed, self.tokens), self.recipe.prepare_data
        seconds = kept / self.assumed.worker_bytes_per_second
        tokens = training_tokens(self.recipe, self.assumed, self.tokens)
        return StepPlan(
            "prepare_data",
            tokens=tokens,
            seconds=seconds / config.num_workers,
            worker_seconds=seconds,
            disk_bytes=tokens * _TOKEN_BYTES,
            note=f"{kept / 1e6:,.1f} MB of text, {config.num_workers} worker(s)",
        )

    def _training(self, step: str, train: TrainConfig, family: Family, online: Teacher | None = None) -> StepPlan:
        if train.batch_size % self.ranks:
            raise UserError(
                f"{step}.batch_size must be divisible by the number of GPUs, {self.ranks}, got {train.batch_size}: "
                f"give other --gpus or --nodes, or --set {step}.batch_size"
            )
        length = self.recipe.prepare_data.sequence_length
        flops = self._flops(train, family, online.flops_per_token if online else 0)
        whole, sharded = (
            memory_of_training(train, family, length, self.machine, self.ranks, sharded=shard, teacher=online)
            for shard in (False, True)
        )
        tokens = train.steps * train.batch_size * length
        epochs = tokens / training_tokens(self.recipe, self.assumed, self.tokens)
        return StepPlan(
            step,
            gpus=self.ranks,
            tokens=tokens,
            flops=flops,
            seconds=self._seconds(step, flops, self.ranks),
            memory=whole,
            sharded=sharded if self.ranks > 1 else None,
            disk_bytes=_CHECKPOINTS * (_FP32 * family.num_parameters + optimizer_bytes(train, family)),
            note=f"{epochs:.2g} times through the data; {_shares(train)}",
        )

    def _flops(self, train: TrainConfig, family: Family, teacher: int) -> int:
        """Of the joint run, of the sizes that go on alone, and of validation."""
        length, sizes = self.recipe.prepare_data.sequence_length, family.granularities
        together = goes_together(train, family, length, self.machine, self.ranks)
        alone = [
            (settings_alone(train, name), {name: sizes[name]}) for name in sizes_alone(train, family.granularities)
        ]
        works = [
            work_of(config, OBJECTIVE, family.ta, kept, length, together=together, teacher=teacher)
            for config, kept in [(train, sizes), *alone]
        ]
        return sum(work.of_steps() + work.of_validations(train.eval_sequences) for work in works)

    def _scoring(self, teacher: Teacher) -> StepPlan:
        config, length = self.recipe.score_teacher, self.recipe.prepare_data.sequence_length
        tokens, step = training_tokens(self.recipe, self.assumed, self.tokens), "score_teacher"
        gpus = self.ranks if STEPS[step].ranks else 1
        flops = tokens * teacher.flops_per_token
        return StepPlan(
            step,
            gpus=gpus,
            tokens=tokens,
            flops=flops,
            seconds=self._seconds(step, flops, gpus),
            memory=memory_of_scoring(config, teacher, length, self.machine),
            disk_bytes=tokens * self.assumed.cache_bytes(config),
            note=f"the Teacher's cache: {self.assumed.cache_bytes(config):.0f} bytes per token",
        )

    def _evaluation(self, family: Family, teacher: Teacher) -> StepPlan:
        """Our own tasks, for each size and the Teacher; what lm-eval's take, nothing here tells."""
        config = self.recipe.evaluate
        texts = config.bits_per_byte_documents * config.bits_per_byte_characters / self.assumed.bytes_per_token
        tokens = round(texts) + config.last_token_questions * config.last_token_context
        per_token = family.forward_flops(self.recipe.prepare_data.sequence_length).values()
        flops = tokens * (sum(per_token) + teacher.flops_per_token)
        measured = self.assumed.other_seconds.get("evaluate")
        tasks = len(config.tasks)
        return StepPlan(
            "evaluate",
            gpus=1,
            tokens=tokens,
            flops=flops,
            seconds=measured or self._seconds("evaluate", flops, 1),
            note="measured" if measured else f"at least; without {tasks} task(s) of lm-eval" if tasks else "at least",
        )

    def _seconds(self, step: str, flops: int, gpus: int) -> float:
        fixed = self.assumed.fixed_seconds.get(step, 0.0)
        return fixed + flops / (gpus * self.machine.peak_flops * self.assumed.mfu(step))


def _shares(train: TrainConfig) -> str:
    if len(train.sizes) == 1:
        return "one size"
    shares = ", ".join(f"{name} {share:.3g}" for name, share in train.share_of_size().items())
    return f"shares {shares}, nested from step {train.first_nested_step:,}"
