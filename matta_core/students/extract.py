"""Extraction: students as plain checkpoints, each with a certificate that it is the live student, bit for bit."""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from matta_core.artifacts import Artifact, write_json_atomically
from matta_core.artifacts.kinds.checkpoint import CONSOLIDATED, read_nesting
from matta_core.artifacts.kinds.family import FAMILY, Compact, Member, StudentFamily
from matta_core.checkpoints import check_finite, save_model
from matta_core.distributed import pick_device
from matta_core.errors import UserError
from matta_core.nesting.config import student_config
from matta_core.nesting.cost import flops_per_token, num_parameters
from matta_core.nesting.size import Granularity, whole
from matta_core.nesting.slices import put, slices, student_parameters, take
from matta_core.objectives import OBJECTIVE, Objective
from matta_core.pretrained import load_model, load_tokenizer, moved
from matta_core.progress import progress
from matta_core.recipe import ExtractStudentsConfig
from matta_core.students.certify import certify, record_reference, sample
from matta_core.students.compact import export_compact
from matta_core.students.mix import Mix, mix, space_of
from matta_core.tokens import bos_token_id


@torch.no_grad()
def extract_student(ta: PreTrainedModel, granularity: Granularity) -> PreTrainedModel:
    """A stock model with its own memory, holding copies of the student's slices of the TA, where the TA lies. Tied
    heads stay tied.

    Stock configs know one FFN width. If widths differ, each layer is padded with zeros to the widest. A neuron whose
    weights and biases are zero adds nothing, so the function stays the same; but every layer costs as much as the
    widest.
    """
    of_ta = next(ta.parameters())
    student = moved(moved(type(ta)(student_config(ta.config, granularity)), of_ta.dtype), of_ta.device)
    if ta.can_generate():
        student.generation_config = copy.deepcopy(ta.generation_config)
    for name, ta_name, parts in student_parameters(ta, granularity):
        parameter, place = student.get_parameter(name), slices(student.config, name, granularity.in_itself)[1]
        if place:
            parameter.zero_()
        put(parameter, place, take(ta.get_parameter(ta_name), parts))
    return student.eval()


def extract_students(
    config: ExtractStudentsConfig,
    checkpoint: Artifact,
    dataset: Artifact,
    output: Path,
    objective: Objective = OBJECTIVE,
) -> dict[str, Any]:
    """Write one Hugging Face checkpoint and one reference (see `record_reference`) per size and mix, and `family.json`.

    Raises: UserError where a size was not trained, a mix's budget is out of reach, or a weight or a student's answer is
    not finite. AssertionError where a certificate fails, which is a bug of ours; then nothing is sealed.
    """
    nesting = read_nesting(checkpoint.path)
    consolidated = nesting.get("consolidated", {})
    trained = {name: Granularity.from_dict(name, size) for name, size in nesting["sizes"].items()}
    wanted = {name: trained[name] for name in _wanted(config.sizes, trained, checkpoint.path)}
    ta = load_model(checkpoint.path / "ta", objective.model_class, torch.float32).eval()
    check_finite(ta, f"{checkpoint.path / 'ta'}")
    tokenizer = load_tokenizer(checkpoint.path / "ta")
    batch = sample(objective, dataset, config.certificate_sequences)
    length = nesting["sequence_length"]
    mixed = _mixed(config, objective, ta, trained, nesting["student"], dataset) if config.mixes else {}
    wanted |= {name: found.granularity for name, found in mixed.items()}
    students: dict[str, Member] = {}
    with progress(len(wanted), "extract_students", "students") as bar:
        for name in sorted(wanted, key=lambda name: num_parameters(ta, wanted[name])):
            granularity = wanted[name]
            folder = output / name
            holder, part = ta, granularity
            if steps := consolidated.get(name):
                holder = load_model(checkpoint.path / CONSOLIDATED / name, objective.model_class, torch.float32).eval()
                check_finite(holder, f"{checkpoint.path / CONSOLIDATED / name}")
                part = whole(holder.config, name)
            save_model(extract_student(holder, part), tokenizer, folder)
            certificate = certify(objective, holder, part, folder, batch)
            exact = certificate["bitwise_equal"] or (not granularity.is_uniform and certificate["padded_equal"])
            assert exact, f"{folder} differs from the live student: {certificate}"
            reference = output / "references" / f"{name}.safetensors"
            record_reference(objective, holder, part, batch, reference)
            served = granularity.padded
            students[name] = {
                "path": name,
                "reference": str(reference.relative_to(output)),
                **granularity.to_dict(),
                "parameters": num_parameters(ta, served),
                "bytes": (folder / "model.safetensors").stat().st_size,
                "flops_per_token": flops_per_token(ta, served, length),
                "nested_from": nesting.get("nested_from", 0),
                "certificate": certificate,
            }
            if steps:
                students[name]["consolidated_steps"] = steps
            if not granularity.is_uniform:
                compact: Compact = {
                    "parameters": num_parameters(ta, granularity),
                    "flops_per_token": flops_per_token(ta, granularity, length),
                }
                if config.compact:
                    folder = output / "compact" / name
                    compact["certificate"] = export_compact(objective, ta, granularity, tokenizer, folder, batch)
                    compact["path"] = f"compact/{name}"
                    compact["bytes"] = (folder / "model.safetensors").stat().st_size
                students[name]["compact"] = compact
            if name in mixed:
                students[name]["mix"] = mixed[name].found
            bar.update()
    family: StudentFamily = {
        "student": nesting["student"],
        "ta": list(trained)[-1],
        "students": students,
        "bos_token": None if bos_token_id(tokenizer) is None else tokenizer.bos_token,
    }
    write_json_atomically(output / FAMILY, family)
    return {
        "student": nesting["student"],
        "students": {name: entry["parameters"] for name, entry in students.items()},
    }


def _mixed(
    config: ExtractStudentsConfig,
    objective: Objective,
    ta: PreTrainedModel,
    trained: Mapping[str, Granularity],
    student: str,
    dataset: Artifact,
) -> dict[str, Mix]:
    """The mixes, searched on the GPU, if there is one. All budgets are checked before the first search."""
    device = pick_device()
    sequences = {name: rows.to(device) for name, rows in sample(objective, dataset, config.mix_sequences).items()}
    moved(ta, device)
    spaces = [
        space_of(objective, ta, trained, student, name, budget, sequences) for name, budget in config.mixes.items()
    ]
    found = {}
    for space in spaces:
        with progress(config.mix_evaluations, f"mix {space.name}", "mixtures") as bar:
            found[space.name] = mix(objective, ta, space, config.mix_evaluations, bar.update)
    moved(ta, torch.device("cpu"))
    return found


def _wanted(sizes: Sequence[str] | None, trained: Mapping[str, Granularity], path: Path) -> list[str]:
    for name in sizes or ():
        if name not in trained:
            raise UserError(f"extract_students.sizes: {path} holds {', '.join(trained)}, not {name!r}")
    return [name for name in trained if sizes is None or name in sizes]
