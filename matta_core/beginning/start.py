"""Where a TA begins: random weights, or a checkpoint of its own shape, of a Student's, or of a larger model.

A checkpoint that the TA contains is written into its place. All that is new writes nothing at first, so that the TA
computes the checkpoint's function (the idea is Net2Net's, Chen et al. 2016, the zeros are LLaMA Pro's, Wu et al. 2024).
A larger checkpoint is sorted by importance and cut down (Muralidharan et al. 2024, Minitron).
"""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from matta_core import distributed
from matta_core.artifacts.kinds.checkpoint import NESTING, read_nesting
from matta_core.beginning.fit import check_answers, check_function, check_layers
from matta_core.beginning.grow import grow, place_within
from matta_core.beginning.importance import layer_order, measure, sort_by
from matta_core.checkpoints import build_model, check_finite
from matta_core.nesting.config import student_config
from matta_core.nesting.size import Granularity, resolve, spread_out, whole
from matta_core.objectives.objective import Batch, Objective
from matta_core.pretrained import load_model, moved
from matta_core.recipe import TrainConfig
from matta_core.students.extract import extract_student
from matta_core.training.data import Sequences, rows_of_step


def initialize(
    config: TrainConfig,
    objective: Objective,
    ta_config: PreTrainedConfig,
    tokenizer: PreTrainedTokenizerBase,
    data: Sequences,
    device: torch.device,
) -> tuple[PreTrainedModel, dict[str, Granularity]]:
    """The TA before step 0, in float32 on the CPU, and its sizes. Importance may decide which layers these keep.

    The result depends on the settings, the checkpoint and `data`, the train split. Sums may differ in their last bits
    on other processors, which can decide a near tie otherwise: see `agreed_over_ranks`. A resumed run has its sizes
    saved.

    Raises: UserError that names what does not fit, and what to set.
    """
    granularities = resolve(ta_config, config.sizes)
    ta = build_model(ta_config, config.seed, objective.model_class)
    if config.start_from is None:
        return ta, granularities
    start = load_model(config.start_from, objective.model_class, torch.float32)
    check_finite(start, f"train.start_from = {config.start_from!r}")
    check_function(start, ta, config.start_from, tokenizer)
    # The Student comes first: of two sizes with the same shape, it is the served one.
    inside = [granularities[config.student], *granularities.values()]
    place = place_within(config, whole(start.config, "start_from"), granularities[config.ta], inside)
    if config.start_order == "importance":
        batches = list(calibration(config, data, device))
        sort_by(start, measure(moved(start, device), batches, objective))
        if start.config.num_hidden_layers >= ta_config.num_hidden_layers:
            fewest = _fewest_layers(config, ta_config)
            order = layer_order(start, batches, fewest, objective, config.head_chunk_tokens)
            order = order[: ta_config.num_hidden_layers]
            kept = sorted(order)
            granularities = resolve(ta_config, config.sizes, [kept.index(layer) for layer in order])
            is_cut_down = place.name == config.ta  # otherwise it grows, and keeps all its layers
            place = granularities[place.name]
            if is_cut_down:
                start = extract_student(start.cpu(), dataclasses.replace(place, layers=tuple(kept)))
    elif place == granularities[config.ta] and (kept_before := _order_within(Path(config.start_from))):
        granularities = resolve(ta_config, config.sizes, kept_before)
    check_layers(config.start_from, start.config, student_config(ta_config, place))
    grow(ta, start.cpu(), place)
    check_answers(start, ta, config.start_from)
    objective.check_model(ta, f"train.start_from = {config.start_from!r}")
    return ta, granularities


@torch.no_grad()
def agreed_over_ranks(ta: PreTrainedModel, granularities: Mapping[str, Granularity]) -> dict[str, Granularity]:
    """Give all ranks rank 0's TA, in place, and return rank 0's sizes. The TA is on the rank's device."""
    device = next(ta.parameters()).device
    numbers = range(ta.config.num_hidden_layers)
    kept = torch.tensor([[layer in size.layers for layer in numbers] for size in granularities.values()], device=device)
    kept = kept.to(torch.uint8)
    distributed.copy_from_leader([kept, *(parameter.data for parameter in ta.parameters())])
    return {
        name: dataclasses.replace(size, layers=tuple(row.nonzero().flatten().tolist()))
        for (name, size), row in zip(granularities.items(), kept, strict=True)
    }


def calibration(config: TrainConfig, data: Sequences, device: torch.device) -> Iterator[Batch]:
    """`calibration_sequences` different training sequences, drawn by the seed, in batches of one."""
    number = min(config.calibration_sequences, len(data))
    for row in rows_of_step(len(data), number, 0, config.seed):
        yield data.batch(row[None], device)


def _order_within(ta: Path) -> list[int] | None:
    """All layers of a TA that was trained here, in the order in which its sizes kept them, where its students lie.

    None where there is no nesting.json beside the TA.
    """
    if not (ta.parent / NESTING).is_file():
        return None
    kept = [size["layers"] for size in read_nesting(ta.parent)["sizes"].values()]
    return sorted(spread_out(len(kept[-1])), key=lambda layer: -sum(layer in layers for layers in kept))


def _fewest_layers(config: TrainConfig, ta_config: PreTrainedConfig) -> int:
    """The smallest number of layers that a size asks for. Which layers these are is left to importance."""
    whole_depth = ta_config.num_hidden_layers
    return min([whole_depth, *(size.get("num_hidden_layers", whole_depth) for size in config.sizes.values())])
