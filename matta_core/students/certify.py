"""Compares a saved student with the live one, bit for bit, and records answers for push to compare with."""

from pathlib import Path

import pyarrow.parquet as pq
import torch
from safetensors.torch import save_file
from transformers import PreTrainedModel

from matta_core.artifacts import Artifact, file_digest
from matta_core.artifacts.kinds.family import Certificate
from matta_core.errors import UserError
from matta_core.nesting.live import live_student
from matta_core.nesting.size import Granularity
from matta_core.nesting.slices import slices, student_parameters, take
from matta_core.objectives.objective import Batch, Objective, num_sequences
from matta_core.pretrained import load_model
from matta_core.students.comparison import compare_answers
from matta_core.training.data import arrays, as_batch


@torch.no_grad()
def certify(
    objective: Objective, ta: PreTrainedModel, granularity: Granularity, folder: Path, batch: Batch
) -> Certificate:
    """Compare the checkpoint on disk, loaded by stock transformers, with the live student, on the CPU in fp32.

    "bitwise_equal" is true if every number of their answers (every logit) has the same bits. "padded_equal" is for
    widths that differ by layer. It is true if the saved weights have the slices' bits and zeros beyond them, and no
    answer differs by more than sums in another order do (1e-4 of the largest).
    """
    model = load_model(folder, objective.model_class, torch.float32).eval()
    found = compare_answers(objective, live_student(ta, granularity).eval(), model, batch)
    certificate: Certificate = {"bitwise_equal": found.bitwise_equal}
    if not granularity.is_uniform:
        near = found.max_abs_difference <= 1e-4 * found.largest
        certificate["padded_equal"] = near and _is_padded(model, ta, granularity)
    certificate["max_abs_difference"] = found.max_abs_difference
    certificate["sequences"] = num_sequences(batch)
    certificate["tokens"] = objective.num_tokens(batch)
    certificate["weights_sha256"] = file_digest(folder / "model.safetensors")
    return certificate


def _is_padded(model: PreTrainedModel, ta: PreTrainedModel, granularity: Granularity) -> bool:
    """Whether every parameter of the model is the TA's slice, and zero beyond it."""
    for name, ta_name, parts in student_parameters(ta, granularity):
        saved, kept = model.get_parameter(name), take(ta.get_parameter(ta_name), parts)
        inner = take(saved, slices(model.config, name, granularity.in_itself)[1])
        if not torch.equal(inner, kept) or saved.count_nonzero() != inner.count_nonzero():
            return False
    return True


@torch.no_grad()
def record_reference(
    objective: Objective, ta: PreTrainedModel, granularity: Granularity, batch: Batch, path: Path
) -> None:
    """Write a question and the live student's answer, with which push compares a pushed model wherever it is loaded.

    The file, in safetensors, holds what `Objective.reference` gives: for next tokens, input_ids (1, n) int64 and logits
    (n, vocabulary) float32.
    """
    recorded = objective.reference(live_student(ta, granularity).eval(), batch)
    for name, tensor in recorded.items():
        if not tensor.isfinite().all():
            raise UserError(
                f"{granularity.name} gives {name} that are no finite numbers, though its weights are: train it anew, "
                f"with a lower train.learning_rate"
            )
    path.parent.mkdir(exist_ok=True)
    save_file(recorded, path)


def sample(objective: Objective, dataset: Artifact, number: int) -> Batch:
    """The first sequences of the validation split, on the CPU."""
    shards = sorted((dataset.path / "validation").glob("*.parquet"))
    table = pq.read_table(shards, columns=list(objective.columns)).slice(0, number)
    return as_batch(arrays(table), torch.device("cpu"))
