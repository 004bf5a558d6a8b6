"""Ways to train: the step as it is, the same as one graph of plain functions, and each size alone."""

from collections.abc import Mapping

import torch
from torch import Tensor
from transformers import PreTrainedModel

from benchmarks.training_cost.shapes import SEQUENCES, Shape
from matta_core.checkpoints import build_model
from matta_core.model_config import build_config
from matta_core.nesting.cost import flops_per_token
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
from matta_core.objectives.top_k import TeacherTargets, teacher_targets, top_k_scores
from matta_core.pretrained import moved
from matta_core.recipe import LossConfig, SizeConfig, TrainConfig
from matta_core.training.joint import joint_backward
from matta_core.training.optimizers import make_optimizer
from matta_core.training.step import Training, train_step, training_of

TOP_K = 32
LAST = 10**6  # a step by which all are nested and have their final weights


def training_config(shape: Shape, widths: tuple[int, ...], precision: str) -> TrainConfig:
    """The default settings, with these sizes. With one size it is plain training."""
    sizes = {f"w{width}": SizeConfig(intermediate_size=width) for width in widths}
    student = next(iter(sizes))
    return TrainConfig(
        model=shape.model, sizes=sizes, student=student, steps=100, batch_size=SEQUENCES, precision=precision
    )


def training(shape: Shape, widths: tuple[int, ...], device: torch.device, precision: str) -> Training:
    """A training of these sizes, on random weights."""
    config = training_config(shape, widths, precision)
    ta_config = build_config(config.model, config.sizes[config.ta], None, shape.length)
    ta = moved(build_model(ta_config, seed=0, model_class=OBJECTIVE.model_class), device)
    granularities = resolve(ta_config, config.sizes)
    return training_of(config, OBJECTIVE, ta, granularities, make_optimizer(ta, config), shape.length)


def random_batch(shape: Shape, device: torch.device) -> Batch:
    """Tokens drawn evenly, and as the Teacher's the top k of random logits, made a sequence at a time."""
    generator = torch.Generator().manual_seed(0)
    input_ids = torch.randint(0, shape.vocabulary, (SEQUENCES, shape.length), generator=generator)
    logits = (torch.randn(shape.length - 1, shape.vocabulary, generator=generator) for _ in range(SEQUENCES))
    scores = [top_k_scores(each, TOP_K, shape.vocabulary).columns() for each in logits]
    columns = {name: torch.stack([each[name].flatten() for each in scores]) for name in scores[0]}
    return {name: values.to(device) for name, values in ({"input_ids": input_ids} | columns).items()}


def optimizer_step(training: Training, batch: Batch, *, nested: bool = True) -> None:
    """A whole step, AdamW's included, of the default shares or, before `nest_from`, of the TA alone."""
    train_step(training, LAST if nested else 0, [batch])


def flops(training: Training, shape: Shape) -> int:
    """Of the matrix products of a nested step."""
    per_token = {
        name: flops_per_token(training.ta, size, shape.length) for name, size in training.granularities.items()
    }
    return sum(3 * per_token[name] * rows * shape.length for name, rows in training.config.rows_per_size().items())


def joint_step(training: Training, batch: Batch) -> None:
    """Forward and backward of TA, Student and the next size on the whole batch."""
    joint_backward(
        OBJECTIVE,
        training.ta,
        _two_students(training),
        batch,
        training.config.loss,
        step=LAST,
        num_targets=training.num_targets,
        settings=training.settings,
    )


def naive_step(training: Training, batch: Batch) -> None:
    """The same as one graph of plain functions, in which autograd keeps all logits: LossConfig's equation."""
    dtype, loss = training.settings.autocast_dtype, training.config.loss
    weights, students = loss.weights_at(LAST), _two_students(training)
    teacher = teacher_targets(batch, training.num_targets)
    of_ta = divergence_named(loss.ta_divergence, loss.jensen_shannon_beta)
    assert teacher is not None
    with torch.autocast(training.device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None):
        total, ta_logits, mask = _own_terms(training.ta, batch, teacher, loss, weights)
        total = weights["ta"] * total
        for student in students.values():
            own, logits, _ = _own_terms(student, batch, teacher, loss, weights)
            divergence = vocabulary_divergence(
                of_ta, logits, ta_logits.detach(), mask, loss_temperature=loss.loss_temperature
            )
            total = total + (own + weights["distillation"] * divergence) / len(students)
    (total / training.num_targets).backward()


def gradient_difference(training: Training, batch: Batch) -> float:
    """By how much the gradients of both differ, as a share of their norm."""
    gradients = []
    for way in (joint_step, naive_step):
        training.optimizer.zero_grad()
        way(training, batch)
        gradients.append(torch.cat([each.grad.flatten() for each in training.ta.parameters() if each.grad is not None]))
    training.optimizer.zero_grad()
    return ((gradients[0] - gradients[1]).norm() / gradients[1].norm()).item()


def _two_students(training: Training) -> dict[str, PreTrainedModel]:
    return dict(list(training.students.items())[:2])


def _own_terms(
    model: PreTrainedModel, batch: Batch, teacher: TeacherTargets, loss: LossConfig, weights: Mapping[str, float]
) -> tuple[Tensor, Tensor, Tensor]:
    states = model.base_model(input_ids=batch["input_ids"], use_cache=False).last_hidden_state
    aligned, labels, mask = align(states, batch["input_ids"])
    logits = model.get_output_embeddings()(aligned).float()
    divergence = top_k_divergence(
        divergence_named(loss.teacher_divergence, loss.jensen_shannon_beta),
        logits,
        teacher.top_k_ids,
        teacher.top_k_log_probs,
        teacher.tail_mass,
        mask,
    )
    own = weights["cross_entropy"] * cross_entropy(logits, labels, mask) + weights["teacher"] * divergence
    return own, logits, mask
