"""The commands that a page of documentation shows, and what their own parsers make of them. Nothing is run."""

import argparse
import importlib.util
import itertools
import re
import shlex
import string
from pathlib import Path
from unittest import mock

import pytest

from components.common.command_line import DEFAULT_RECIPE, load_recipe

PYTHONS = ("python", ".venv/bin/python")


def blocks(page: Path, language: str) -> list[str]:
    """The page's code blocks in that language."""
    text = page.read_text(encoding="utf-8")
    return re.findall(rf"^ *```{language}\n(.*?)^ *```$", text, flags=re.MULTILINE | re.DOTALL)


def commands(page: Path) -> list[str]:
    """Every `python -m …` of the page's sh blocks on a line of its own, wherever in its line it stands. A block's
    variables have the values that it gives them, as in a shell."""
    found = []
    for block in blocks(page, "sh"):
        values = dict(re.findall(r"^(\w+)=(\S+)$", block, flags=re.MULTILINE))
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(string.Template(line).safe_substitute(values), comments=True)
            for word, (python, option) in enumerate(itertools.pairwise(words)):
                if python in PYTHONS and option == "-m":
                    found.append(shlex.join(words[word:]))
    return found


class ParsedError(Exception):
    """Carries what a command's own parser made of its arguments."""


def parsed(command: str) -> argparse.Namespace | None:
    """The options of a command as `commands` gives it; None where it asks for help.

    Fails where its parser refuses it, or where it names a setting that no recipe has.
    """
    _, _, module, *arguments = shlex.split(command)
    parse = argparse.ArgumentParser.parse_args

    def parse_and_stop(self: argparse.ArgumentParser, *_: object, **__: object) -> None:
        raise ParsedError(parse(self, arguments))

    is_package = importlib.util.find_spec(module).submodule_search_locations is not None
    main = importlib.import_module(f"{module}.__main__" if is_package else module).main
    with mock.patch.object(argparse.ArgumentParser, "parse_args", parse_and_stop):
        try:
            main()
        except ParsedError as error:
            (options,) = error.args
        except SystemExit as error:  # argparse's: 0 after --help, else the parser has said on stderr why
            if error.code == 0 and "--help" in arguments:
                return None
            pytest.fail(f"the parser of {module} does not take: {command}")
        else:
            pytest.fail(f"{module} has parsed nothing")
    load_recipe(DEFAULT_RECIPE, getattr(options, "set", ()))  # a benchmark has no recipe
    return options
