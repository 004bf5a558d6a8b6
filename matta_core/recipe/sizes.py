"""A size, as a recipe writes it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from matta_core.errors import UserError
from matta_core.recipe.settings import Section, setting

_TILE = 8  # matrix units work in tiles


@dataclass(frozen=True)
class SizeConfig(Section):
    """What a student keeps of the TA; None: all of it. A number alone is its intermediate_size."""

    intermediate_size: int | None = setting(None, low=1, unit="neurons", help="FFN width of every layer")
    intermediate_sizes: tuple[int, ...] | None = setting(
        None, unit="neurons", help="FFN width of each kept layer, from the first; in place of intermediate_size"
    )
    num_attention_heads: int | None = setting(None, low=1, help="query heads: a prefix of each kept group's")
    num_key_value_heads: int | None = setting(None, low=1, help="groups: a prefix of the TA's")
    num_hidden_layers: int | None = setting(
        None, low=1, help="how many layers: the first, the last, and those between by importance or evenly spread"
    )
    layers: tuple[int, ...] | None = setting(
        None, help="which of the TA's layers, counted from 0; in place of num_hidden_layers"
    )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any] | int, where: str = "") -> Self:
        """As for every section; a whole number is {intermediate_size: number}."""
        if not isinstance(values, Mapping):
            if not isinstance(values, int) or isinstance(values, bool):
                raise UserError(
                    f"{where} must be an intermediate_size, a whole number, or a mapping of what the size keeps, got "
                    f"{values!r}"
                )
            values = {"intermediate_size": values}
        return super().from_dict(values, where)

    def check(self) -> None:
        for one, many in (("intermediate_size", "intermediate_sizes"), ("num_hidden_layers", "layers")):
            if getattr(self, one) is not None and getattr(self, many) is not None:
                raise ValueError(f"{one} and {many} say the same: leave one of the two out, got both")
        for width in self.intermediate_sizes or (self.intermediate_size,):
            if width is not None and (width < 1 or width % _TILE):
                raise ValueError(f"intermediate_size must be a multiple of {_TILE} (matrix units' tiles), got {width}")
        if self.layers is not None and (list(self.layers) != sorted(set(self.layers)) or not self.layers):
            raise ValueError(f"layers must be ascending and different, got {list(self.layers)}")

    @property
    def is_width_alone(self) -> bool:
        """Whether it says one FFN width, and no more."""
        return self == SizeConfig(intermediate_size=self.intermediate_size) and self.intermediate_size is not None
