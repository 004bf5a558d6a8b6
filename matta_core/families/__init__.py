"""The families whose models can be a TA. Each is a table."""

from matta_core.errors import UserError
from matta_core.families.gemma3 import GEMMA3
from matta_core.families.gpt2 import GPT2
from matta_core.families.llama import LLAMA
from matta_core.families.phi3 import PHI3
from matta_core.families.qwen2 import QWEN2
from matta_core.families.qwen3 import QWEN3
from matta_core.families.table import Axis, Family

__all__ = ["FAMILIES", "Axis", "Family", "axes_by_setting", "family_of"]

FAMILIES = {family.model_type: family for family in (GPT2, LLAMA, QWEN2, QWEN3, GEMMA3, PHI3)}


def family_of(model_type: str) -> Family:
    """The family's table. Raises: UserError that lists the known ones."""
    if model_type not in FAMILIES:
        raise UserError(
            f"model_type {model_type!r} is not a known family: known are {', '.join(FAMILIES)}; docs/families.md says "
            f"how to add one"
        )
    return FAMILIES[model_type]


def axes_by_setting() -> dict[str, tuple[str, Axis]]:
    """For every setting of a recipe's size, over all families: the key that it counts, and the key's axis."""
    return {
        setting: (key, axis) for family in FAMILIES.values() for axis in family.axes for setting, key in axis.settings
    }
