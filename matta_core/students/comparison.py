"""The logits of two models, side by side."""

from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

_TOKENS_AT_A_TIME = 256


class Comparison(NamedTuple):
    """Of all logits: whether they have the same bits, by how much they differ at most, and the largest one's size."""

    bitwise_equal: bool
    max_abs_difference: float
    largest: float


@torch.no_grad()
def compare_logits(live: PreTrainedModel, saved: PreTrainedModel, input_ids: Tensor) -> Comparison:
    """Two models over input_ids (sequences, length), a piece at a time: all logits of a long sequence and a large
    vocabulary would take more memory than the models."""
    equal, difference, largest = True, 0.0, 0.0
    for sequence in input_ids.split(1):
        states = [model.base_model(input_ids=sequence, use_cache=False).last_hidden_state for model in (live, saved)]
        for pieces in zip(*(state.split(_TOKENS_AT_A_TIME, dim=1) for state in states), strict=True):
            ours, theirs = (
                model.get_output_embeddings()(piece) for model, piece in zip((live, saved), pieces, strict=True)
            )
            equal = equal and torch.equal(ours, theirs)
            largest = max(largest, ours.abs().max().item())
            difference = max(difference, theirs.sub_(ours).abs_().max().item())
    return Comparison(equal, difference, largest)
