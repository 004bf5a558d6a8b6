"""What a saved student is held against: the live one, bit for bit; and what push will hold it against."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

from matta_core.artifacts import Artifact, file_digest
from matta_core.artifacts.kinds.family import Certificate
from matta_core.errors import UserError
from matta_core.nesting.live import live_student
from matta_core.nesting.size import Granularity
from matta_core.nesting.slices import student_parameters, take
from matta_core.pretrained import load_model
from matta_core.students.comparison import compare_logits

REFERENCE_TOKENS = 16


@torch.no_grad()
def certify(ta: PreTrainedModel, granularity: Granularity, folder: Path, input_ids: Tensor) -> Certificate:
    """Compare the checkpoint as it lies on disk, loaded by stock transformers, with the live student.

    input_ids (sequences, length). CPU, fp32. "bitwise_equal" is true where every logit has the same bits.
    "padded_equal", of widths that differ by layer: the saved weights have the slices' bits and zeros beyond them, and
    no logit differs by more than sums in another order do (1e-4 of the largest).
    """
    model = load_model(folder, torch.float32).eval()
    found = compare_logits(live_student(ta, granularity).eval(), model, input_ids)
    certificate: Certificate = {"bitwise_equal": found.bitwise_equal}
    if not granularity.is_uniform:
        near = found.max_abs_difference <= 1e-4 * found.largest
        certificate["padded_equal"] = near and _is_padded(model, ta, granularity)
    certificate["max_abs_difference"] = found.max_abs_difference
    certificate["sequences"] = len(input_ids)
    certificate["tokens"] = input_ids.numel()
    certificate["weights_sha256"] = file_digest(folder / "model.safetensors")
    return certificate


def _is_padded(model: PreTrainedModel, ta: PreTrainedModel, granularity: Granularity) -> bool:
    """Whether every parameter of the model is the TA's slice, and zero beyond it."""
    for name, ta_name, parts in student_parameters(ta, granularity):
        saved, kept = model.get_parameter(name), take(ta.get_parameter(ta_name), parts)
        inner = saved[tuple(slice(0, length) for length in kept.shape)]
        if not torch.equal(inner, kept) or saved.count_nonzero() != inner.count_nonzero():
            return False
    return True


@torch.no_grad()
def record_reference(ta: PreTrainedModel, granularity: Granularity, input_ids: Tensor, path: Path) -> Path:
    """What the live student answers, for push to hold a pushed model against wherever it is loaded.

    input_ids (sequences, length): the first REFERENCE_TOKENS of the first are used. The file, in safetensors:
    input_ids (1, n) int64; logits (n, vocabulary) float32, on CPU.
    """
    prompt = input_ids[:1, :REFERENCE_TOKENS].contiguous()
    logits = live_student(ta, granularity).eval()(input_ids=prompt).logits[0]
    if not logits.isfinite().all():
        raise UserError(
            f"{granularity.name} gives logits that are no finite numbers, though its weights are: train it anew, with "
            f"a lower train.learning_rate"
        )
    path.parent.mkdir(exist_ok=True)
    save_file({"input_ids": prompt, "logits": logits.float().contiguous()}, path)
    return path


def sample(dataset: Artifact, number: int) -> Tensor:
    """The first sequences of the validation split."""
    shards = sorted((dataset.path / "validation").glob("*.parquet"))
    table = pq.read_table(shards, columns=["input_ids"]).slice(0, number)
    rows = table.column("input_ids").combine_chunks().flatten().to_numpy()
    return torch.from_numpy(rows.reshape(table.num_rows, -1).astype(np.int64))
