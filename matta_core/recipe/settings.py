"""Settings that check themselves: frozen dataclasses whose fields have their units and bounds beside them."""

import contextlib
import dataclasses
import json
import math
import os
import re
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from matta_core.artifacts.json_files import each_key_once
from matta_core.errors import UserError

WHOLE_NUMBERS = range(-(2**63), 2**63)  # the whole numbers that JSON's readers and torch accept
_MAX_NAME_BYTES = 255  # of a file, on every file system in use
_MAX_TEXT = 4095  # bytes; no path has more
_MAX_DEPTH = 32  # of values whose type is left open
# kfp.local, Argo and Kubernetes replace these by values of their own, wherever they stand in a step's arguments.
_PLACEHOLDERS = ("{{", "$(")


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

    `changes_result=False` marks a setting that only changes how fast or how loud a step runs. It is no part of its key.
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


@dataclass(frozen=True)
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
            raise UserError(f"{where or 'the recipe'} must be a mapping of settings, got {shown(values)}")
        specs = {spec.name: spec for spec in dataclasses.fields(cls)}
        hints = typing.get_type_hints(cls)
        path = f"{where}." if where else ""
        for key, value in values.items():
            if key not in specs:
                raise UserError(f"unknown setting {path}{shown_key(key)}: known here are {', '.join(specs)}")
            is_name = isinstance(value, str) and hints[key] in (str, str | None) and value != specs[key].default
            if is_name and (problem := problem_of_path(value)):
                raise UserError(f"{path}{key} {problem}, got {shown(value)}")
        missing = [
            name
            for name, spec in specs.items()
            if name not in values
            and spec.default is dataclasses.MISSING
            and spec.default_factory is dataclasses.MISSING
        ]
        if missing:
            raise UserError(f"{path}{missing[0]} is required: add it to the recipe")
        parsed = {key: parse_value(hints[key], value, path + key) for key, value in values.items()}
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
            values = json.loads(text, object_pairs_hook=each_key_once)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{where or cls.__name__} is not JSON ({error}): {shown(text)}") from None
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


@contextlib.contextmanager
def errors_of_section(name: str) -> Iterator[None]:
    """Errors of the method name settings of `train`. Within this context they name those of the section `name`."""
    try:
        yield
    except UserError as error:
        raise UserError(re.sub(r"(?<![\w./'-])train(?=\.[a-z])", name, str(error))) from None


def shown(value: Any) -> str:
    """A value for a message: its `repr`, cut in the middle if it is long."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number with thousands of digits, or too many nested levels
        return f"a {type(value).__name__} too large to show"
    return text if len(text) <= 160 else f"{text[:100]} … {text[-40:]}"


def shown_key(key: Any) -> str:
    """A key for a message: as it is written if it is a name."""
    return key if isinstance(key, str) and len(key) <= 100 and key.isprintable() else shown(key)


def _without_sections(value: Any) -> Any:
    if isinstance(value, Section):
        return value.what_changes_the_result()
    if isinstance(value, Mapping):
        return {key: _without_sections(item) for key, item in value.items()}
    return value


def _out_of_bounds(value: Any, bounds: Mapping[str, Any]) -> str | None:
    choices = bounds.get("choices")
    if choices and value is not None and value not in choices:  # None means not set, if the type allows it
        return f"must be one of {spelled(choices)}, got {shown(value)}"
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
    """The choices as a recipe spells them."""
    return ", ".join(str(choice).lower() if isinstance(choice, bool) else choice for choice in choices)


def parse_value(hint: Any, value: Any, where: str) -> Any:
    """Check a value against a type hint: a scalar, a section, tuple[X, ...], dict[str, X], or one of these or None."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in arguments:
            return None
        wanted = [argument for argument in arguments if argument is not type(None)]
        is_list = isinstance(value, list | tuple)
        fitting = [hint for hint in wanted if hint is type(value)] or [
            hint for hint in wanted if (typing.get_origin(hint) is tuple) == is_list
        ]
        return parse_value((fitting or wanted)[0], value, where)
    if hint is Any:
        return _plain(value, where)
    if hasattr(hint, "from_dict"):
        return hint.from_dict(value, where)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise UserError(f"{where} must be a list, got {shown(value)}")
        return tuple(
            _finite(parse_value(arguments[0], item, f"{where}[{i}]"), f"{where}[{i}]") for i, item in enumerate(value)
        )
    if origin is dict:
        if not isinstance(value, Mapping):
            raise UserError(f"{where} must be a mapping, got {shown(value)}")
        parsed = {_checked_key(key, where): (item, f"{where}.{shown_key(key)}") for key, item in value.items()}
        return {key: _finite(parse_value(arguments[1], item, place), place) for key, (item, place) in parsed.items()}
    accepted = (int, float) if hint is float else (hint,)
    if not isinstance(value, accepted) or (isinstance(value, bool) and hint is not bool):
        remedy = ": quote it" if hint is str and isinstance(value, int | float) else ""
        expected = {bool: "true or false", float: "a number"}.get(hint, f"of type {hint.__name__}")
        raise UserError(f"{where} must be {expected}, got {shown(value)}{remedy}")
    return hint(_checked_scalar(value, where))


def _plain(value: Any, where: str, depth: int = 0) -> Any:
    """Check a value of any type: it must be one that JSON can hold. Raises: UserError."""
    if depth > _MAX_DEPTH:
        raise UserError(f"{where} has more than {_MAX_DEPTH} levels within one another")
    if isinstance(value, Mapping):
        return {
            _checked_key(key, where): _plain(item, f"{where}.{shown_key(key)}", depth + 1)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_plain(item, f"{where}[{i}]", depth + 1) for i, item in enumerate(value)]
    value = _finite(value, where)
    if value is not None and not isinstance(value, str | bool | int | float):
        raise UserError(f"{where} must be text, a number, true, false, null, a list or a mapping, got {shown(value)}")
    return _checked_scalar(value, where)


def _checked_key(key: Any, where: str) -> str:
    if not isinstance(key, str):
        raise UserError(f"{where} must have text as its keys, got {shown(key)}: quote it")
    return _checked_scalar(key, f"{where}: a key")


def _checked_scalar(value: Any, where: str) -> Any:
    """The value. Raises: UserError where a step, a file system or a cluster could not take it, or would replace it."""
    problem = None
    if isinstance(value, str):
        problem = _problem_of_text(value)
    elif isinstance(value, int) and value not in WHOLE_NUMBERS:
        problem = "must be a whole number of at most 64 bits"
    if problem:
        raise UserError(f"{where} {problem}, got {shown(value)}")
    return value


def _finite(value: Any, where: str) -> Any:
    """The value. Raises: UserError where it is infinite or NaN. Fields are checked by their own bounds."""
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{where} must be finite, got {value}")
    return value


def problem_of_path(text: str) -> str | None:
    """Why a path, or any other name, is refused in a recipe, a profile or an option; None where it is accepted.

    `~` never means the home: a shell expands it only in some places, and a pod has another home. `$HOME` is not
    expanded either.
    """
    if not text:
        return "must not be empty: leave it out, or give it a value"
    if text.startswith("~"):
        home = os.path.expanduser(text)  # noqa: PTH111 - as a shell: Path raises where there is no such user
        remedy = f"write {home}" if home != text else "write the path in full"
        return f"must be without ~, which is the home to a shell alone: {remedy}"
    if variable := re.search(r"(?:^|/)(\$(?:[A-Za-z_]|\{)[^/]*)", text):
        return f"must be without {variable[1]}, which is a variable to a shell alone: write the path in full"
    if any(len(name.encode(errors="surrogatepass")) > _MAX_NAME_BYTES for name in text.split("/")):
        return f"must have no name of more than {_MAX_NAME_BYTES} bytes"
    return _problem_of_text(text)


def has_scheme(text: str) -> bool:
    """Whether a text begins as a URL does. `gs:/bucket` and `s3:x` do, too, and are no paths either."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", text) is not None


def is_in_bucket(text: str) -> bool:
    """Whether a text is gs://bucket or gs://bucket/path."""
    return re.fullmatch(r"gs://[a-z0-9][a-z0-9._-]*(/.*)?", text) is not None


def _problem_of_text(text: str) -> str | None:
    if len(text.encode(errors="surrogatepass")) > _MAX_TEXT:
        return f"must have at most {_MAX_TEXT} bytes"
    if any(0xD800 <= ord(letter) <= 0xDFFF or (ord(letter) < 32 and letter not in "\t\n") for letter in text):
        return "must be readable text, without control characters or halves of characters"
    for placeholder in _PLACEHOLDERS:
        if placeholder in text:
            return f"must be without {placeholder}, in place of which Kubeflow and Kubernetes put values of their own"
    return None
