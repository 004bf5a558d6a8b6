"""Cut the students out of the TA."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.common.step_runner import run_step, say
from matta_core.artifacts import Artifact, open_artifact
from matta_core.artifacts.kinds.family import Member, read_family
from matta_core.errors import UserError
from matta_core.recipe import ExtractStudentsConfig
from matta_core.recipe.extraction import amount


def extract_students(
    config: ExtractStudentsConfig, checkpoint: str | Path, dataset: str | Path, *, output: str | Path
) -> Artifact:
    """Make a StudentFamily: one plain Hugging Face checkpoint and one references/<size>.safetensors per size and mix,
    and family.json with their paths and certificates.

    Extracted and live students are compared, and mixtures are scored, on sequences of the dataset.
    Raises: UserError where a size was not trained, or a mix's budget is out of reach.
    """
    inputs = {
        "checkpoint": open_artifact(checkpoint, "MattaCheckpoint"),
        "dataset": open_artifact(dataset, "TokenizedDataset"),
    }
    if inputs["checkpoint"].inputs["dataset"] != inputs["dataset"].digest:
        raise UserError(f"{checkpoint} was trained on another dataset than {dataset}: give the one it was trained on")

    def work(path: Path) -> Mapping[str, Any]:
        from matta_core.students.extract import extract_students as run_extraction

        metadata = run_extraction(config, inputs["checkpoint"], inputs["dataset"], path)
        for name, student in read_family(path)["students"].items():
            if "mix" in student:
                say("extract_students", f"{name}: {_told(student)}")
        return metadata

    return run_step("extract_students", "StudentFamily", output, config, inputs, work)


def _told(student: Member) -> str:
    """A line about a mix: what it is, what it costs and gains, and how far the search looked."""
    found = student["mix"]
    ((kind, limit),) = found["budget"].items()
    return (
        f"widths {', '.join(map(str, student['intermediate_sizes']))}; {kind} {amount(found['cost'])} of "
        f"{amount(limit)}; loss {found['loss']:.4f} nats per token, the best size within the budget, "
        f"{found['best_uniform']}, {found['best_uniform_loss']:.4f}; {found['evaluated']} of {found['combinations']} "
        f"mixtures scored, {'all that fit' if found['ended'] == 'exhaustive' else found['ended']}"
        + (f"; served padded, with {student['parameters']} parameters" if "compact" in student else "")
    )
