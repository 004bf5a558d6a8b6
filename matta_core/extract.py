"""Extraction: students as plain checkpoints, each with a certificate that it is the live student, bit for bit."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

from matta_core.artifacts import Artifact, file_digest, write_json_atomically
from matta_core.config import ExtractStudentsConfig
from matta_core.errors import UserError
from matta_core.granularity import Granularity
from matta_core.models import load_model, load_tokenizer, save_model
from matta_core.nesting import flops_per_token, live_student, num_parameters, student_config, student_parameters, take
from matta_core.progress import progress

REFERENCE_TOKENS = 16


@torch.no_grad()
def extract_student(ta: PreTrainedModel, granularity: Granularity) -> PreTrainedModel:
    """A stock model with its own memory, holding copies of the student's slices of the TA. Tied heads stay tied.

    Stock configs know one FFN width: where widths differ, each layer is padded with zeros to the widest. A neuron
    whose weights and biases are zero adds nothing, so that the function stays, but so does the widest layer's cost.
    """
    student = type(ta)(student_config(ta.config, granularity)).to(next(ta.parameters()).dtype)
    for name, ta_name, parts in student_parameters(ta, granularity):
        parameter, kept = student.get_parameter(name), take(ta.get_parameter(ta_name), parts)
        if parameter.shape != kept.shape:
            parameter.zero_()
        parameter[tuple(slice(0, length) for length in kept.shape)].copy_(kept)
    return student.eval()


def extract_students(
    config: ExtractStudentsConfig, checkpoint: Artifact, dataset: Artifact, output: Path
) -> dict[str, Any]:
    """Write one Hugging Face checkpoint and one reference (see `record_reference`) per size, and `family.json`.

    Raises: UserError where a size was not trained. AssertionError where a certificate fails: a bug of ours, and
    nothing is sealed.
    """
    nesting = json.loads((checkpoint.path / "nesting.json").read_text())
    names = _wanted(config.sizes, nesting["sizes"], checkpoint.path)
    ta = load_model(checkpoint.path / "ta", torch.float32).eval()
    tokenizer = load_tokenizer(checkpoint.path / "ta")
    input_ids = _sample(dataset, config.certificate_sequences)
    students = {}
    with progress(len(names), "extract_students", "students") as bar:
        for name in names:
            granularity = Granularity.from_dict(name, nesting["sizes"][name])
            folder = output / name
            save_model(extract_student(ta, granularity), tokenizer, folder)
            certificate = certify(ta, granularity, folder, input_ids)
            assert certificate["bitwise_equal"], f"{folder} differs from the live student: {certificate}"
            reference = record_reference(ta, granularity, input_ids, output / "references" / f"{name}.safetensors")
            weights = folder / "model.safetensors"
            students[name] = {
                "path": name,
                "reference": str(reference.relative_to(output)),
                **granularity.to_dict(),
                "parameters": num_parameters(ta, granularity),
                "bytes": weights.stat().st_size,
                "flops_per_token": flops_per_token(ta, granularity, nesting["sequence_length"]),
                "certificate": certificate,
            }
            bar.update()
    family = {"student": nesting["student"], "ta": list(nesting["sizes"])[-1], "students": students}
    write_json_atomically(output / "family.json", family)
    return {
        "student": nesting["student"],
        "students": {name: entry["parameters"] for name, entry in students.items()},
    }


@torch.no_grad()
def certify(ta: PreTrainedModel, granularity: Granularity, folder: Path, input_ids: Tensor) -> dict[str, Any]:
    """Compare the checkpoint as it lies on disk, loaded by stock transformers, with the live student.

    input_ids (sequences, length). CPU, fp32. "bitwise_equal" is true where every logit has the same bits.
    """
    live = live_student(ta, granularity).eval()(input_ids=input_ids).logits
    saved = load_model(folder, torch.float32).eval()(input_ids=input_ids).logits
    return {
        "bitwise_equal": torch.equal(live, saved),
        "max_abs_difference": (live - saved).abs().max().item(),
        "sequences": len(input_ids),
        "tokens": input_ids.numel(),
        "weights_sha256": file_digest(folder / "model.safetensors"),
    }


@torch.no_grad()
def record_reference(ta: PreTrainedModel, granularity: Granularity, input_ids: Tensor, path: Path) -> Path:
    """What the live student answers, for push to hold a pushed model against wherever it is loaded.

    input_ids (sequences, length): the first REFERENCE_TOKENS of the first are used. The file, in safetensors:
    input_ids (1, n) int64; logits (n, vocabulary) float32, on CPU.
    """
    prompt = input_ids[:1, :REFERENCE_TOKENS].contiguous()
    logits = live_student(ta, granularity).eval()(input_ids=prompt).logits[0]
    path.parent.mkdir(exist_ok=True)
    save_file({"input_ids": prompt, "logits": logits.float().contiguous()}, path)
    return path


def _wanted(sizes: Sequence[str] | None, trained: dict[str, int], path: Path) -> list[str]:
    for name in sizes or ():
        if name not in trained:
            raise UserError(f"extract_students.sizes: {path} holds {', '.join(trained)}, not {name!r}")
    return [name for name in trained if sizes is None or name in sizes]


def _sample(dataset: Artifact, number: int) -> Tensor:
    """The first sequences of the validation split."""
    shards = sorted((dataset.path / "validation").glob("*.parquet"))
    table = pq.read_table(shards, columns=["input_ids"]).slice(0, number)
    rows = table.column("input_ids").combine_chunks().flatten().to_numpy()
    return torch.from_numpy(rows.reshape(table.num_rows, -1).astype(np.int64))
