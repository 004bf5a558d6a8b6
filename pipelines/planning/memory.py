"""The memory of one rank: formulas, stated where they are computed."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from matta_core.families import family_of
from matta_core.machines import Machine
from matta_core.nesting.slices import cuts
from matta_core.recipe import ScoreTeacherConfig, TrainConfig
from matta_core.recipe.optimizer import PRECONDITIONED
from matta_core.training.optimizers import block_indices, hidden_matrices
from matta_core.training.order import SHARE_OF_MEMORY, kept_by, kept_per_target
from matta_core.training.passes import usual_chunk_tokens
from matta_core.training.precision import autocast_dtype
from pipelines.planning.machines import CPU
from pipelines.planning.shapes import Family, Teacher

_FP32 = 4
USABLE = 0.9  # of a GPU's memory: the rest is the driver's context, NCCL's buffers, and gaps between arrays
_LOGIT_ARRAYS = 5  # of a chunk, float32: logits, probabilities that become their gradient, the TA's two, and a copy
_SCORING_ARRAYS = 3  # logits, log-probabilities, and what the top k are taken from


@dataclass(frozen=True)
class Memory:
    """Bytes of one rank, by what they hold. `gathered` is what sharding puts together again for a while;
    `teacher` one that scores in training."""

    weights: float
    gradients: float = 0.0
    optimizer: float = 0.0
    activations: float = 0.0
    head: float = 0.0
    gathered: float = 0.0
    teacher: float = 0.0

    @property
    def total(self) -> float:
        return sum(vars(self).values())

    def fits(self, machine: Machine) -> bool:
        return self.total <= USABLE * machine.memory_bytes


def pass_dtype(train: TrainConfig, family: Family, machine: Machine) -> torch.dtype | None:
    """What products are computed in: bf16, or None for fp32."""
    if machine.name == CPU:
        return autocast_dtype(train.precision, family.ta, torch.device("cpu"))
    return None if train.precision == "fp32" else torch.bfloat16


def goes_together(train: TrainConfig, family: Family, sequence_length: int, machine: Machine, ranks: int) -> bool:
    """Whether TA and students will go through a batch together."""
    if train.pass_order != "auto":
        return train.pass_order == "together"
    dtype = pass_dtype(train, family, machine)
    return kept_by(train, family.students, sequence_length, ranks, dtype) <= SHARE_OF_MEMORY * machine.memory_bytes


def memory_of_training(
    train: TrainConfig,
    family: Family,
    sequence_length: int,
    machine: Machine,
    ranks: int,
    *,
    sharded: bool,
    teacher: Teacher | None = None,
) -> Memory:
    """Weights, gradients and optimizer are float32, whole on each rank or in equal shards. Sharded, two layers (one at
    work, one arriving) and all that is no layer are whole with their gradients meanwhile."""
    number = family.num_parameters
    shares = ranks if sharded else 1
    return Memory(
        weights=_FP32 * number / shares,
        gradients=_FP32 * number / shares,
        optimizer=optimizer_bytes(train, family) / shares,
        activations=_activations(train, family, sequence_length, machine, ranks),
        head=_head(train, family, sequence_length, machine, ranks),
        gathered=2 * _FP32 * _gathered(family) if sharded else 0.0,
        teacher=teacher.num_parameters * teacher.bytes_per_weight if teacher else 0.0,
    )


def optimizer_bytes(train: TrainConfig, family: Family) -> int:
    """AdamW keeps two numbers per weight, and counts steps per tensor. The others work on blocks of hidden matrices:
    Muon keeps one number per weight, SOAP two and Shampoo three, and both two squares for either side of a block."""
    ta, settings = family.ta, train.optimizer
    hidden = {} if settings.name == "adamw" else hidden_matrices(ta)
    rest = [parameter for name, parameter in ta.named_parameters() if name not in hidden]
    total = _FP32 * sum(2 * parameter.numel() + 1 for parameter in rest)
    boundaries = cuts(ta, family.granularities.values()) if hidden else {}
    longest = settings.max_block_size if settings.name in PRECONDITIONED else None
    per_weight = {"muon": 1, "soap": 2, "shampoo": 3}.get(settings.name, 0)
    for name, matrix in hidden.items():
        for index in block_indices(matrix.shape, boundaries.get(name, {}), longest):
            rows, columns = (side.stop - side.start for side in index)
            total += _FP32 * per_weight * rows * columns
            if longest is not None:
                total += _FP32 * 2 * (rows**2 + columns**2)
    return total


def memory_of_scoring(config: ScoreTeacherConfig, teacher: Teacher, sequence_length: int, machine: Machine) -> Memory:
    """The Teacher's weights as they are saved, and a chunk of its answers. A trunk forward keeps little."""
    usual = usual_chunk_tokens(teacher.outputs, 1, on_gpu=machine.name != CPU)
    targets = min(usual, config.batch_size * sequence_length)
    return Memory(
        weights=teacher.num_parameters * teacher.bytes_per_weight,
        head=_SCORING_ARRAYS * _FP32 * targets * teacher.outputs,
    )


def _activations(train: TrainConfig, family: Family, sequence_length: int, machine: Machine, ranks: int) -> float:
    """What trunks keep for their way back in one pass: the largest size's, or all sizes' where they go together. With
    checkpointing it is each layer's input, and one layer's whole."""
    dtype = pass_dtype(train, family, machine)
    models = {train.ta: family.ta}
    if goes_together(train, family, sequence_length, machine, ranks):
        models |= family.students
    kept = kept_by(train, models, sequence_length, ranks, dtype)
    if not train.activation_checkpointing:
        return kept
    layers, hidden = family.ta.config.num_hidden_layers, family.ta.config.hidden_size
    return kept / layers + kept * layers * hidden / kept_per_target(family.ta)


def _head(train: TrainConfig, family: Family, sequence_length: int, machine: Machine, ranks: int) -> float:
    """A chunk of targets' outputs, and the gradient of the head's weight that a chunk adds."""
    outputs, hidden = family.ta.config.vocab_size, family.ta.config.hidden_size
    rows = min(train.micro_batch_size or train.batch_size, train.batch_size // ranks)
    usual = usual_chunk_tokens(outputs, hidden, on_gpu=machine.name != CPU)
    chunk = min(train.head_chunk_tokens or usual, rows * sequence_length)
    return _FP32 * outputs * (_LOGIT_ARRAYS * chunk + hidden)


def _gathered(family: Family) -> int:
    """Parameters of two layers, the largest, and of all that is no layer."""
    layers, outside = _by_layer(family)
    return outside + 2 * max(layers.values())


def _by_layer(family: Family) -> tuple[Mapping[str, int], int]:
    prefix = f"{family_of(family.ta.config.model_type).layers}."
    layers: dict[str, int] = {}
    outside = 0
    for name, parameter in family.ta.named_parameters():
        if name.startswith(prefix):
            layer = name.removeprefix(prefix).partition(".")[0]
            layers[layer] = layers.get(layer, 0) + parameter.numel()
        else:
            outside += parameter.numel()
    return layers, outside
