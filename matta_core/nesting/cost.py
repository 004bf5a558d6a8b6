"""The cost of a size, counted from its slices. No model of it is built."""

import math

import torch
from transformers import PreTrainedModel

from matta_core.families import FAMILIES, family_of
from matta_core.nesting.size import Granularity, whole
from matta_core.nesting.slices import student_parameters, take


def num_parameters(ta: PreTrainedModel, granularity: Granularity) -> int:
    """The number of a student's parameters, tied ones once, from the TA's shapes and `slices` alone."""
    return sum(math.prod(shape) for _, shape in _shapes(ta, granularity))


def flops_per_token(ta: PreTrainedModel, granularity: Granularity, sequence_length: int) -> int:
    """FLOPs of a student's forward pass per token, at a full context of `sequence_length` tokens.

    There are two per weight of every matrix that a token is multiplied with, and 4 x sequence_length x heads x head
    size per layer for attention scores and their weighted sum. The masked half of the scores counts, too, as kernels
    compute it and torch's FlopCounterMode counts it.
    """
    family = family_of(ta.config.model_type)
    weights, features = 0, 0
    for name, shape in _shapes(ta, granularity):
        if name.startswith(f"{family.layers}.") and len(shape) == 2:
            weights += math.prod(shape)
            reads = [axis.read for axis in family.axes if axis.attends]
            features += sum(shape[dimension] for output, dimension, _ in reads if name.endswith(f".{output}"))
    return 2 * weights + 4 * sequence_length * features + head_flops_per_token(ta)


def teacher_flops_per_token(teacher: PreTrainedModel, sequence_length: int) -> int:
    """FLOPs of a Teacher's forward pass per token: of a family without a table, two per weight."""
    if teacher.config.model_type in FAMILIES:
        return flops_per_token(teacher, whole(teacher.config, "teacher"), sequence_length)
    return 2 * sum(each.numel() for each in teacher.parameters())


def head_flops_per_token(ta: PreTrainedModel) -> int:
    """The part of `flops_per_token` that is the head's: every size has the whole one. Tied heads count as the
    embedding; of other heads the matrices outside of the trunk count."""
    if (head := ta.get_output_embeddings()) is not None:
        return 2 * head.weight.numel()
    trunk = f"{ta.base_model_prefix}."
    heads = [each.numel() for name, each in ta.named_parameters() if each.dim() == 2 and not name.startswith(trunk)]
    return 2 * sum(heads)


def _shapes(ta: PreTrainedModel, granularity: Granularity) -> list[tuple[str, torch.Size]]:
    return [
        (name, take(ta.get_parameter(ta_name).detach().to("meta"), parts).shape)
        for name, ta_name, parts in student_parameters(ta, granularity)
    ]
