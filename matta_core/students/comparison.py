"""Compares the answers of two models."""

from typing import NamedTuple

import torch
from transformers import PreTrainedModel

from matta_core.objectives.objective import Batch, Objective


class AnswerDifference(NamedTuple):
    """Whether all numbers have the same bits, their largest difference, and the size of the largest number."""

    bitwise_equal: bool
    max_abs_difference: float
    largest: float


@torch.no_grad()
def compare_answers(
    objective: Objective, live: PreTrainedModel, saved: PreTrainedModel, batch: Batch
) -> AnswerDifference:
    """Compare all answers of two models to a batch, piece by piece."""
    equal, difference, largest = True, 0.0, 0.0
    for ours, theirs in zip(objective.answers(live, batch), objective.answers(saved, batch), strict=True):
        equal = equal and torch.equal(ours, theirs)
        largest = max(largest, ours.abs().max().item())
        difference = max(difference, theirs.sub_(ours).abs_().max().item())
    return AnswerDifference(equal, difference, largest)
