"""Reads JSON back: bounded in size, and of the shape in which it was written.

Others can change these files, so nothing in them is trusted. Some things that `json.loads` lets through are refused:
NaN and infinities, numbers beyond 64 bits, keys that occur twice, text that is no Unicode, nesting and sizes without an
end. Type hints give the shape:

    str, int, float (also an int), bool, Any, Literal["a", "b"], X | None, list[X], tuple[X, ...], dict[str, X]
    a dataclass: exactly its fields, made into one      a TypedDict: its keys and others, as a dict

Every reason is one line, and says where in the file: `history[3].digest must be a text, got 7`.
"""

import dataclasses
import json
import math
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar

from matta_core.errors import UserError

MAX_BYTES = 256 * 2**20
MAX_DEPTH = 50
_NAMES = {str: "a text", int: "a whole number", float: "a number", bool: "true or false", type(None): "null"}
_NAMES |= {list: "a list", tuple: "a list", dict: "an object"}

Shape = TypeVar("Shape")


def read_json(path: Path, shape: type[Shape], *, remedy: str, check: Callable[[Shape], None] | None = None) -> Shape:
    """The content of a file that must exist. `check` raises ValueError for what types cannot express.

    Raises: UserError with the path, the reason and the remedy.
    """
    try:
        with path.open("rb") as file:
            content = parse_json(file.read(MAX_BYTES + 1), shape)
        if check is not None:
            check(content)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; {remedy}") from None
    except ValueError as error:
        raise UserError(f"{path} is not to be believed: {error}; {remedy}") from None
    return content


def parse_json(data: bytes, shape: type[Shape]) -> Shape:
    """The content of bytes that were read. Raises: ValueError with a reason in one line."""
    if len(data) > MAX_BYTES:
        raise ValueError(f"it has more than {MAX_BYTES:,} bytes")
    try:
        value = json.loads(
            data.decode(),
            object_pairs_hook=each_key_once,
            parse_constant=_refuse_constant,
            parse_float=_finite,
            parse_int=_of_64_bits,
        )
    except RecursionError:
        raise ValueError(f"it is nested more than {MAX_DEPTH} deep") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"it is no UTF-8 ({error.reason} at byte {error.start:,})") from None
    _check_depth_and_texts(value)
    return _shaped(shape, value, "")


def each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """json's object_pairs_hook. Raises: ValueError for a key that occurs twice; json would take the last one."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {_told(next(key for key in keys if keys.count(key) > 1))} occurs twice")
    return found


def _refuse_constant(text: str) -> None:
    raise ValueError(f"it holds {text}, which is no number")


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"the number {_told(text)} is too large")
    return value


def _of_64_bits(text: str) -> int:
    if len(text) > 20 or not -(2**63) <= (value := int(text)) < 2**64:
        raise ValueError(f"the number {_told(text)} is too large")
    return value


def _check_depth_and_texts(value: Any) -> None:
    level, depth = [value], 0
    while level:
        depth += any(isinstance(item, dict | list) for item in level)
        if depth > MAX_DEPTH:
            raise ValueError(f"it is nested more than {MAX_DEPTH} deep")
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                below += item.keys()
                below += item.values()
            elif isinstance(item, list):
                below += item
            elif isinstance(item, str) and not item.isascii():
                try:
                    item.encode()
                except UnicodeEncodeError:
                    raise ValueError(f"the text {_told(item)} is no Unicode") from None
        level = below


def _shaped(hint: Any, value: Any, where: str) -> Any:
    """Check a value against a hint, and convert it to the hint's type."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in arguments:
            return None
        (hint,) = (argument for argument in arguments if argument is not type(None))
        return _shaped(hint, value, where)
    if origin is Literal:
        if value not in arguments or isinstance(value, bool):
            raise _wrong(where, f"one of {', '.join(map(str, arguments))}", value)
        return value
    if origin in (list, tuple):
        _check_type(list, value, where)
        return origin(_shaped(arguments[0], item, f"{where}[{place}]") for place, item in enumerate(value))
    if origin is dict:
        _check_type(dict, value, where)
        return {key: _shaped(arguments[1], item, _at(where, key)) for key, item in value.items()}
    if dataclasses.is_dataclass(hint) or typing.is_typeddict(hint):
        return _object_shaped(hint, value, where)
    _check_type(hint, value, where)
    return value


def _object_shaped(hint: Any, value: Any, where: str) -> Any:
    _check_type(dict, value, where)
    hints = typing.get_type_hints(hint)
    is_dataclass = dataclasses.is_dataclass(hint)
    if is_dataclass:
        optional = {spec.name for spec in dataclasses.fields(hint) if spec.default is not dataclasses.MISSING}
        if unknown := value.keys() - hints.keys():
            raise ValueError(f"{_at(where, min(unknown))} is unknown here")
    else:
        optional = hint.__optional_keys__
    if missing := hints.keys() - optional - value.keys():
        raise ValueError(f"{_at(where, min(missing))} is missing")
    shaped = {key: _shaped(hints[key], item, _at(where, key)) for key, item in value.items() if key in hints}
    return hint(**shaped) if is_dataclass else value | shaped


def _check_type(wanted: type, value: Any, where: str) -> None:
    accepted = (int, float) if wanted is float else wanted
    if not isinstance(value, accepted) or (isinstance(value, bool) and wanted is not bool):
        raise _wrong(where, _NAMES[wanted], value)


def _wrong(where: str, wanted: str, value: Any) -> ValueError:
    told = _NAMES[type(value)] if isinstance(value, dict | list | str) and len(value) > 30 else json.dumps(value)
    return ValueError(f"{where or 'it'} must be {wanted}, got {told[:60]}")


def _at(where: str, key: str) -> str:
    name = key if key.isidentifier() else _told(key)
    return f"{where}.{name}" if where else name


def _told(text: str) -> str:
    return json.dumps(text if len(text) <= 40 else f"{text[:40]}…")
