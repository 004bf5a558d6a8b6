"""Cut the students out of the TA."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.step import run_step
from matta_core.artifacts import Artifact, open_artifact
from matta_core.config import ExtractStudentsConfig
from matta_core.errors import UserError


def extract_students(
    config: ExtractStudentsConfig, checkpoint: str | Path, dataset: str | Path, *, output: str | Path
) -> Artifact:
    """Make a StudentFamily: one plain Hugging Face checkpoint and one references/<size>.safetensors per size, and
    family.json with their paths and certificates.

    The dataset gives the sequences on which extracted and live student are compared.
    Raises: UserError where a size was not trained.
    """
    inputs = {
        "checkpoint": open_artifact(checkpoint, "MattaCheckpoint"),
        "dataset": open_artifact(dataset, "TokenizedDataset"),
    }
    if inputs["checkpoint"].inputs["dataset"] != inputs["dataset"].digest:
        raise UserError(f"{checkpoint} was trained on another dataset than {dataset}: give the one it was trained on")

    def work(path: Path) -> Mapping[str, Any]:
        from matta_core.extract import extract_students as run_extraction

        return run_extraction(config, inputs["checkpoint"], inputs["dataset"], path)

    return run_step("extract_students", "StudentFamily", output, config, inputs, work)
