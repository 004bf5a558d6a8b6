"""The command line that all steps share: recipe, overrides, help that shows every setting."""

import argparse
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import yaml

from components.step import exit_on_user_error
from matta_core.config import Recipe
from matta_core.errors import UserError
from matta_core.settings import Section, spelled

DEFAULT_RECIPE = Path(__file__).parent.parent / "pipelines" / "recipes" / "demo.yaml"

SectionType = TypeVar("SectionType", bound=Section)


def load_recipe(path: str | Path = DEFAULT_RECIPE, overrides: list[str] | None = None) -> Recipe:
    """Read a recipe, apply `section.setting=value` overrides (values in YAML), and check it.

    Raises: UserError where the file is missing, is not YAML, or holds an unknown key or a bad value.
    """
    return load_section(Recipe, path, overrides or [], what="recipe", examples=DEFAULT_RECIPE.parent, option="--set")


def load_section(
    section: type[SectionType], path: str | Path, overrides: list[str], *, what: str, examples: Path, option: str
) -> SectionType:
    """A section from a YAML file, with overrides; `what` it is called, where `examples` of it lie, the `option` that
    overrides it. Raises: UserError as `load_recipe`."""
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        known = ", ".join(sorted(str(file) for file in examples.glob("*.yaml")))
        raise UserError(f"cannot read {what} {path}: {error.strerror}; {what}s here: {known}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{what} {path} is not YAML in UTF-8: {error}") from None
    if not isinstance(values, dict):
        raise UserError(f"{what} {path} must be a mapping of settings, got {type(values).__name__}")
    for override in overrides:
        apply_override(values, override, option)
    try:
        return section.from_dict(values)
    except UserError as error:
        changed = "".join(f" {option} {override}" for override in overrides)
        raise UserError(f"{error} (in {path}{' with' + changed if changed else ''})") from None


def step_parser(
    step: str,
    description: str,
    section: type[Section] | None,
    *,
    section_name: str | None = None,
    output_required: bool | None = True,
) -> argparse.ArgumentParser:
    """A parser with --recipe, --set and --output; its help lists the settings of the section (named as the step is).

    `output_required=False`: for a step whose command can also do without (the command then asks for it itself);
    None: for one that makes no artifact.
    """
    name = section_name or step
    parser = argparse.ArgumentParser(
        prog=f"python -m components.{step}",
        description=description,
        epilog=f"settings of {name} (in the recipe, or with --set {name}.NAME=VALUE):\n{describe(section)}"
        if section
        else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--recipe", type=Path, default=DEFAULT_RECIPE, help="a YAML file (default: the demo's)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override one setting of the recipe"
    )
    if output_required is not None:
        parser.add_argument(
            "--output",
            type=Path,
            required=output_required,
            help="the artifact's directory; finished work in it is reused, unfinished work is resumed; "
            "{key} in it becomes the step's key",
        )
    return parser


def run_command(main: Callable[[], Any]) -> None:
    """Run a command; mistakes of the user end it with status 2 and one line."""
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


def apply_override(values: dict[str, Any], override: str, option: str = "--set") -> None:
    """Set one value of nested mappings, given as `a.b=VALUE` with the value in YAML. Raises: UserError."""
    name, separator, text = override.partition("=")
    if not separator or not name:
        raise UserError(f"{option} takes KEY=VALUE, for instance train.steps=100, got {override!r}")
    *parents, last = name.split(".")
    target = values
    for parent in parents:
        child = target.get(parent, {})
        if not isinstance(child, dict):
            raise UserError(f"{option} {override}: {parent} is a value, not a section")
        target[parent] = dict(child)  # YAML's aliases are one object: the others keep their value
        target = target[parent]
    try:
        target[last] = yaml.safe_load(text)
    except yaml.YAMLError:
        raise UserError(f"{option} {override}: the value is not YAML; quote it for the shell and for YAML") from None
