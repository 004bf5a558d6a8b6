"""Settings that check themselves: frozen dataclasses whose fields carry their unit and their bounds."""

import dataclasses
import json
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import field
from typing import Any, Self

from matta_core.errors import UserError


def setting(
    default: Any = dataclasses.MISSING,
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    choices: tuple[str | bool, ...] | None = None,
    unit: str = "",
    changes_result: bool = True,
    default_factory: Any = dataclasses.MISSING,
    help: str = "",  # noqa: A002 - argparse's word
) -> Any:
    """A field with `low <= value <= high`, or `value > above`, or one of `choices`.

    `changes_result=False` marks what only changes how fast or how loud a step runs: no part of its key.
    """
    metadata = {
        "low": low,
        "high": high,
        "above": above,
        "choices": choices,
        "unit": unit,
        "changes_result": changes_result,
        "help": help,
    }
    return field(default=default, default_factory=default_factory, metadata=metadata)


class Section:
    """What every section of a recipe can do. Subclasses are frozen dataclasses that override `check`."""

    def __post_init__(self) -> None:
        for spec in dataclasses.fields(self):
            problem = _out_of_bounds(getattr(self, spec.name), spec.metadata)
            if problem:
                raise ValueError(f"{spec.name} {problem}")
        self.check()

    def check(self) -> None:
        """Raise ValueError where fields do not fit one another."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str = "") -> Self:
        """Parse nested mappings. Raises: UserError with the field's path, starting at `where`."""
        if not isinstance(values, Mapping):
            raise UserError(f"{where or 'the recipe'} must be a mapping of settings, got {values!r}")
        specs = {spec.name: spec for spec in dataclasses.fields(cls)}
        hints = typing.get_type_hints(cls)
        path = f"{where}." if where else ""
        for key in values:
            if key not in specs:
                raise UserError(f"unknown setting {path}{key}: known here are {', '.join(specs)}")
        missing = [
            name
            for name, spec in specs.items()
            if name not in values
            and spec.default is dataclasses.MISSING
            and spec.default_factory is dataclasses.MISSING
        ]
        if missing:
            raise UserError(f"{path}{missing[0]} is required: add it to the recipe")
        parsed = {key: _parse(hints[key], value, path + key) for key, value in values.items()}
        try:
            return cls(**parsed)
        except UserError:
            raise
        except ValueError as error:
            raise UserError(f"{path}{error}") from None

    @classmethod
    def from_json(cls, text: str, where: str = "") -> Self:
        """Parse one section from the JSON string in which pipelines pass it."""
        try:
            values = json.loads(text)
        except ValueError as error:
            raise UserError(f"{where or cls.__name__} is not JSON ({error}): {text[:80]!r}") from None
        return cls.from_dict(values, where)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def to_json(self) -> str:
        return json.dumps(self.to_dict())  # unsorted: the order of sizes has a meaning

    def what_changes_the_result(self) -> dict[str, Any]:
        """The settings that belong into a step's key."""
        result = {}
        for spec in dataclasses.fields(self):
            if spec.metadata.get("changes_result", True):
                result[spec.name] = _without_sections(getattr(self, spec.name))
        return result


def _without_sections(value: Any) -> Any:
    if isinstance(value, Section):
        return value.what_changes_the_result()
    if isinstance(value, Mapping):
        return {key: _without_sections(item) for key, item in value.items()}
    return value


def _out_of_bounds(value: Any, bounds: Mapping[str, Any]) -> str | None:
    choices = bounds.get("choices")
    if choices and value is not None and value not in choices:  # None: not set, where the type allows it
        return f"must be one of {spelled(choices)}, got {value!r}"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    low, high, above = (bounds.get(name) for name in ("low", "high", "above"))
    too_low = (low is not None and value < low) or (above is not None and value <= above)
    if too_low or (high is not None and value > high) or not math.isfinite(value):
        limits = [f"> {above}" if above is not None else None, f">= {low}" if low is not None else None]
        limits.append(f"<= {high}" if high is not None else None)
        unit = f" {bounds['unit']}" if bounds.get("unit") else ""
        return f"must be {' and '.join(limit for limit in limits if limit) or 'finite'}{unit}, got {value!r}"
    return None


def spelled(choices: tuple[str | bool, ...]) -> str:
    """A list of choices as a recipe spells them."""
    return ", ".join(str(choice).lower() if isinstance(choice, bool) else choice for choice in choices)


def _parse(hint: Any, value: Any, where: str) -> Any:
    """Check a value against a type hint: scalars, sections, tuple[X, ...], dict[str, X], and any of them or None."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in arguments:
            return None
        wanted = [argument for argument in arguments if argument is not type(None)]
        is_list = isinstance(value, list | tuple)
        fitting = [hint for hint in wanted if hint is type(value)] or [
            hint for hint in wanted if (typing.get_origin(hint) is tuple) == is_list
        ]
        return _parse((fitting or wanted)[0], value, where)
    if hint is Any:
        return value
    if isinstance(hint, type) and issubclass(hint, Section):
        return hint.from_dict(value, where)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise UserError(f"{where} must be a list, got {value!r}")
        return tuple(_parse(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin is dict:
        if not isinstance(value, Mapping):
            raise UserError(f"{where} must be a mapping, got {value!r}")
        return {str(key): _parse(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if hint is float and isinstance(value, str):
        # YAML reads 3e-4, without a dot, as a string.
        try:
            value = float(value)
        except ValueError:
            raise UserError(f"{where} must be a number, got {value!r}") from None
    accepted = (int, float) if hint is float else (hint,)
    if not isinstance(value, accepted) or (isinstance(value, bool) and hint is not bool):
        raise UserError(f"{where} must be of type {hint.__name__}, got {value!r}")
    return hint(value)
