"""Decides whether TA and students go through a batch together or one after the other."""

import logging
import os
from collections.abc import Mapping

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from matta_core import distributed
from matta_core.recipe import TrainConfig

logger = logging.getLogger(__name__)

SHARE_OF_MEMORY = 0.1  # that the students' trunks may take for going together with the TA's
_KEPT_OUTPUTS = 3  # what norms and activation functions keep; more where they are many small ones (GELU)


def passes_together(
    config: TrainConfig,
    ta: PreTrainedModel,
    students: Mapping[str, PreTrainedModel],
    sequence_length: int,
    dtype: torch.dtype | None,
) -> bool:
    """Whether passes go together, as `train.pass_order` says. "auto" takes that, which is faster, where what the
    students' trunks keep for their way back is estimated at no more than a tenth of the device's memory."""
    if config.pass_order != "auto" or not students:
        return config.pass_order == "together"
    needed = kept_by(config, students, sequence_length, distributed.world_size(), dtype)
    memory = _memory_of(ta.device)
    together = needed <= SHARE_OF_MEMORY * memory
    logger.info(
        "passes of TA and students go %s: together, the students keep about %.2f GiB more, of %.0f GiB",
        "together" if together else "one after the other",
        needed / 2**30,
        memory / 2**30,
    )
    return together


def kept_by(
    config: TrainConfig,
    models: Mapping[str, PreTrainedModel],
    sequence_length: int,
    ranks: int,
    dtype: torch.dtype | None,
) -> float:
    """About how many bytes the trunks of these sizes keep together for their way back, in one pass of a rank."""
    rows = min(config.micro_batch_size or config.batch_size, -(-config.batch_size // ranks))
    shares = config.share_of_size()
    numbers = sum(shares[name] * kept_per_target(model) for name, model in models.items())
    return numbers * rows * sequence_length * (dtype or torch.float32).itemsize


def kept_per_target(model: PreTrainedModel) -> int:
    """About how many numbers a trunk keeps per token for its way back: the inputs of its products, and what functions
    after them keep."""
    linear = [
        (each.in_features, each.out_features) for each in model.base_model.modules() if isinstance(each, nn.Linear)
    ]
    linear += [(each.nx, each.nf) for each in model.base_model.modules() if isinstance(each, Conv1D)]
    return sum(inputs + _KEPT_OUTPUTS * outputs for inputs, outputs in linear)


def _memory_of(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
