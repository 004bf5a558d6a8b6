"""The command line that all steps share: recipe, overrides, help that shows every setting."""

import argparse
import contextlib
import dataclasses
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from components.common.interpreter import python
from components.common.parser import CommandParser
from components.common.step_runner import exit_on_user_error
from components.common.yaml_file import read_text, read_yaml
from matta_core.errors import UserError
from matta_core.recipe import Recipe
from matta_core.recipe.settings import Section, problem_of_path, shown, shown_key, spelled

DEFAULT_RECIPE = Path(__file__).parents[2] / "pipelines" / "recipes" / "demo.yaml"

SectionType = TypeVar("SectionType", bound=Section)


def load_recipe(path: str | Path = DEFAULT_RECIPE, overrides: list[str] | None = None) -> Recipe:
    """Read a recipe, apply `section.setting=value` overrides (values in YAML), and check it.

    Raises: UserError where the file is missing, is not YAML, or holds an unknown key or a bad value.
    """
    return load_section(Recipe, path, overrides or [], what="recipe", examples=DEFAULT_RECIPE.parent, option="--set")


def load_section(
    section: type[SectionType], path: str | Path, overrides: list[str], *, what: str, examples: Path, option: str
) -> SectionType:
    """Read a section from a YAML file and apply overrides. `what`, `examples` and `option` are used in messages.
    Raises: UserError as `load_recipe`."""
    try:
        text = read_text(Path(path))
    except OSError as error:
        known = ", ".join(sorted(str(file) for file in examples.glob("*.yaml")))
        raise UserError(f"cannot read {what} {path}: {error.strerror}; {what}s here: {known}") from None
    except UserError as error:
        raise UserError(f"{what} {path}, {error}") from None
    values = read_yaml(text, f"{what} {path}").values
    if not isinstance(values, dict):
        raise UserError(f"{what} {path} must be a mapping of settings, got {type(values).__name__}")
    apply_overrides(values, overrides, option)
    with located(path, overrides, option):
        return section.from_dict(values)


@contextlib.contextmanager
def located(path: str | Path, overrides: list[str], option: str) -> Iterator[None]:
    """Add the place to errors of settings that a file and its overrides hold: file, line, overrides."""
    try:
        yield
    except UserError as error:
        lines: dict[str, int] = {}
        with contextlib.suppress(UserError):  # a pipe (`--recipe <(...)`) can be read only once
            lines = read_yaml(Path(path).read_text(encoding="utf-8"), str(path)).lines
        raise UserError(f"{error} ({_place(str(error), path, lines, overrides, option)})") from None


def _place(message: str, path: str | Path, lines: dict[str, int], overrides: list[str], option: str) -> str:
    """Where the setting is that a message begins with: the file, its line there, the overrides."""
    changed = "".join(f" {option} {shown_key(override)}" for override in overrides)
    place = f"in {path}{' with' + changed if changed else ''}"
    name = re.match(r"(?:unknown setting )?([^\s:,]+)", message)
    setting = name[1] if name else ""
    overridden = [override.partition("=")[0] for override in overrides]
    while setting and not any(setting == one or setting.startswith(f"{one}.") for one in overridden):
        if setting in lines:
            return f"in line {lines[setting]} of {place.removeprefix('in ')}"
        setting = re.sub(r"(^|[.\[])[^.\[]*$", "", setting)
    return place


def path_option(text: str) -> Path:
    """The type of every option that takes a path. Raises: ArgumentTypeError for a path that settings refuse, too."""
    if problem := problem_of_path(text):
        raise argparse.ArgumentTypeError(f"{problem}, got {shown(text)}")
    return Path(text)


def step_parser(
    step: str,
    description: str,
    section: type[Section] | None,
    *,
    section_name: str | None = None,
    output_required: bool | None = True,
) -> argparse.ArgumentParser:
    """A parser with --recipe, --set and --output. Its help lists the settings of the section (named as the step is).

    `output_required=False` is for a command that does not always need --output and asks for it itself; None is for a
    step that makes no artifact.
    """
    name = section_name or step
    parser = CommandParser(
        prog=f"{python()} -m components.{step}",
        description=description,
        epilog=f"settings of {name} (in the recipe, or with --set {name}.NAME=VALUE):\n{describe(section)}"
        if section
        else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--recipe", type=path_option, default=DEFAULT_RECIPE, help="a YAML file (default: the demo's)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override one setting of the recipe"
    )
    if output_required is not None:
        parser.add_argument(
            "--output",
            type=path_option,
            required=output_required,
            help="the artifact's directory; finished work in it is reused, unfinished work is resumed; "
            "{key} in it becomes the step's key",
        )
    return parser


def run_command(main: Callable[[], Any]) -> None:
    """Run a command. A user's mistake ends it with status 2 and one line."""
    with exit_on_user_error():
        main()


def describe(section: type[Section], indent: str = "  ") -> str:
    """One line per setting: name, default, bounds, unit, help."""
    lines = []
    for spec in dataclasses.fields(section):
        nested = spec.default_factory
        if isinstance(nested, type) and issubclass(nested, Section):
            lines.append(f"{indent}{spec.name}:")
            lines.append(describe(nested, indent + "  "))
            continue
        required = spec.default is dataclasses.MISSING and spec.default_factory is dataclasses.MISSING
        default = "required" if required else f"default {spec.default if nested is dataclasses.MISSING else '{}'}"
        bounds = [f"> {spec.metadata['above']}" if spec.metadata.get("above") is not None else ""]
        bounds += [f">= {spec.metadata['low']}" if spec.metadata.get("low") is not None else ""]
        bounds += [f"<= {spec.metadata['high']}" if spec.metadata.get("high") is not None else ""]
        bounds += [f"one of {spelled(spec.metadata['choices'])}" if spec.metadata.get("choices") else ""]
        facts = ", ".join(fact for fact in [default, *bounds, spec.metadata.get("unit", "")] if fact)
        help_text = f": {spec.metadata['help']}" if spec.metadata.get("help") else ""
        lines.append(f"{indent}{spec.name} ({facts}){help_text}")
    return "\n".join(lines)


def apply_overrides(values: dict[str, Any], overrides: list[str], option: str = "--set") -> None:
    """Set values of nested mappings, each given as `a.b=VALUE` with the value in YAML.

    Raises: UserError where an override is no such pair, has no value, or is undone by a later one.
    """
    given: dict[str, str] = {}
    for override in overrides:
        name, separator, text = override.partition("=")
        *parents, last = name.split(".")
        if not separator or not all((*parents, last)):
            raise UserError(f"{option} takes KEY=VALUE, for instance train.steps=100, got {shown(override)}")
        if undone := [one for one in given if one == name or one.startswith(f"{name}.")]:
            raise UserError(
                f"{option} {shown_key(override)} undoes {option} {shown_key(given[undone[0]])} before it: leave one of "
                "the two out"
            )
        given[name] = override
        if not text.strip():
            raise UserError(
                f"{option} {name}= has no value: is a variable of the shell empty? For none, give {name}=null"
            )
        target = values
        for parent in parents:
            child = target.setdefault(parent, {})
            if not isinstance(child, dict):
                raise UserError(f"{option} {shown_key(override)}: {parent} is a value, not a section")
            target = child
        try:
            target[last] = read_yaml(text, f"{option} {shown_key(override)}").values
        except UserError as error:
            raise UserError(f"{error}; quote text for the shell and for YAML") from None
