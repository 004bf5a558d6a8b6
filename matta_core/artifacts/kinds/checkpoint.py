"""A MattaCheckpoint: ta/ (a Hugging Face checkpoint), nesting.json, metrics.jsonl, tensorboard/, and consolidated/.

consolidated/<size>/ is the checkpoint of a size that went on alone; consolidation/<size>/ holds its metrics.
"""

from pathlib import Path
from typing import NotRequired, TypedDict

from matta_core.artifacts.json_files import read_json

NESTING = "nesting.json"
CONSOLIDATED = "consolidated"
CONSOLIDATION = "consolidation"
METRICS = "metrics.jsonl"  # one object per line: the step and its values
SIZE_NAME = r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}"  # of sizes and mixes: folders, parts of services' names


class Size(TypedDict, total=False):
    """What a size keeps of the TA on each axis. A family with other axes has other keys beside `layers`."""

    intermediate_sizes: tuple[int, ...]
    num_attention_heads: int
    num_key_value_heads: int
    layers: tuple[int, ...]


class Nesting(TypedDict):
    """`sizes` in ascending order; the last is the TA. Students were nested from step `nested_from` on. `consolidated`
    tells for how many steps a size went on alone."""

    model_type: str
    sizes: dict[str, Size]
    student: str
    sequence_length: int
    nested_from: NotRequired[int]
    consolidated: NotRequired[dict[str, int]]


def read_nesting(checkpoint: Path) -> Nesting:
    """The nesting of a checkpoint. Raises: UserError where the file is missing or damaged."""
    return read_json(checkpoint / NESTING, Nesting, remedy="train it again")
