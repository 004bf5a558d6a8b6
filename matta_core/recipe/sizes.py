"""A size as a recipe writes it."""

from collections.abc import Iterable, Mapping
from typing import Any, Self

from matta_core.errors import UserError
from matta_core.families import axes_by_setting
from matta_core.recipe.settings import parse_value, shown, shown_key

# How many layers are kept (the first, the last, and others by importance or evenly spread), or which, counted from 0.
DEPTH = ("num_hidden_layers", "layers")


class SizeConfig(dict[str, Any]):
    """What a student keeps of the TA. A setting names an axis of any family, or depth. All else is kept whole."""

    def __init__(self, settings: Mapping[str, Any] | Iterable[tuple[str, Any]] = (), /, **named: Any) -> None:
        super().__init__({key: value for key, value in dict(settings, **named).items() if value is not None})
        self._check()

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str = "") -> Self:
        """Parse as any section."""
        if not isinstance(values, Mapping):
            raise UserError(
                f"{where} must be an intermediate_size, a whole number, or a mapping of what the size keeps, got "
                f"{shown(values)}"
            )
        known, parsed = axes_by_setting(), {}
        for key, value in values.items():
            if key not in known and key not in DEPTH:
                raise UserError(
                    f"unknown setting {where}.{shown_key(key)}: known here are {', '.join((*known, *DEPTH))}"
                )
            is_list = key == "layers" or (key in known and key != known[key][0])
            parsed[key] = parse_value(tuple[int, ...] | None if is_list else int | None, value, f"{where}.{key}")
        try:
            return cls(parsed)
        except ValueError as error:
            raise UserError(f"{where}.{error}") from None

    def _check(self) -> None:
        known = axes_by_setting()
        same = [(key, setting) for setting, (key, _) in known.items() if key != setting]
        for one, many in (*same, DEPTH):
            if one in self and many in self:
                raise ValueError(f"{one} and {many} say the same: leave one of the two out, got both")
        for setting, (key, axis) in known.items():
            counts = self.get(setting, ())
            for count in counts if isinstance(counts, tuple) else (counts,):
                if count < 1:
                    raise ValueError(f"{setting} must be >= 1 {axis.keys[key]}s, got {count}")
                if count % axis.multiple_of:
                    raise ValueError(
                        f"{key} must be a multiple of {axis.multiple_of} (matrix units' tiles), got {count}"
                    )
        if self.get("num_hidden_layers", 1) < 1:
            raise ValueError(f"num_hidden_layers must be >= 1, got {self['num_hidden_layers']}")
        if "layers" in self and (list(self["layers"]) != sorted(set(self["layers"])) or not self["layers"]):
            raise ValueError(f"layers must be ascending and different, got {list(self['layers'])}")
