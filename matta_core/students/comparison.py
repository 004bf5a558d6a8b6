"""The answers of two models, side by side."""

from typing import NamedTuple

import torch
from transformers import PreTrainedModel

from matta_core.objectives.objective import Batch, Objective


class Comparison(NamedTuple):
    """Of all numbers: whether they have the same bits, by how much they differ at most, and the largest one's size."""

    bitwise_equal: bool
    max_abs_difference: float
    largest: float


@torch.no_grad()
def compare_answers(objective: Objective, live: PreTrainedModel, saved: PreTrainedModel, batch: Batch) -> Comparison:
    """All that the two answer to a batch, a piece at a time."""
    equal, difference, largest = True, 0.0, 0.0
    for ours, theirs in zip(objective.answers(live, batch), objective.answers(saved, batch), strict=True):
        equal = equal and torch.equal(ours, theirs)
        largest = max(largest, ours.abs().max().item())
        difference = max(difference, theirs.sub_(ours).abs_().max().item())
    return Comparison(equal, difference, largest)
