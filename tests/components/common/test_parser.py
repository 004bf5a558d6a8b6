"""Every option of every command, with an empty value: a shell's variable that is not set."""

import argparse
import importlib
import sys
from pathlib import Path
from unittest import mock

import pytest

from components.common.interpreter import python

ROOT = Path(__file__).parents[3]
MODULES = [
    *(f"components.{file.parent.name}.__main__" for file in sorted(ROOT.glob("components/*/__main__.py"))),
    *("components.train.teacher", "components.evaluate.plan", "components.evaluate.merge"),
    "pipelines.matta_pipeline",
    "containers.build",
    *(f"benchmarks.{name}" for name in ("interval_coverage", "paper_size", "quality.__main__")),
]
MEANT = {("containers.build", "--torch-index")}  # pip's own settings


class ParserError(Exception):
    """Carries a command's parser."""


def parser_of(module):
    def stop(self, *_, **__):
        raise ParserError(self)

    with mock.patch.object(argparse.ArgumentParser, "parse_args", stop):
        try:
            importlib.import_module(module).main()
        except ParserError as error:
            return error.args[0]


def values_taken(parser, words=()):
    """Of a parser and its subcommands: the words up to an option that takes a value, and that option."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, child in action.choices.items():
                yield from values_taken(child, (*words, name))
        elif action.nargs != 0 and action.option_strings and not isinstance(action, argparse.BooleanOptionalAction):
            yield words, action.option_strings[0], action.nargs


@pytest.mark.parametrize("module", MODULES)
def test_an_empty_value_is_one_line_that_names_the_option(module, monkeypatch, capsys):
    tried = 0
    for words, option, nargs in values_taken(parser_of(module)):
        if (module, option) in MEANT:
            continue
        forms = [(option, ""), (f"{option}=",), (option, " ")] if nargs in (None, "+") else [(option, "s", "")]
        for form in forms:
            monkeypatch.setattr(sys, "argv", [module, *words, *form])
            with pytest.raises(SystemExit) as end:
                importlib.import_module(module).main()
            told = capsys.readouterr().err
            assert (end.value.code, told.count("\n")) == (2, 1), told
            assert told.startswith(f"error: {option} has an empty value: is a variable of the shell empty? "), told
        tried += 1
    assert tried


def test_what_a_parser_refuses_is_one_line(monkeypatch, capsys):
    for arguments in ([], ["--no-such-option"], ["--rollback", "s", "--history", "s"], ["--pin", "s"]):
        monkeypatch.setattr(sys, "argv", ["push", *arguments])
        with pytest.raises(SystemExit) as end:
            importlib.import_module("components.push.__main__").main()
        told = capsys.readouterr().err
        assert (end.value.code, told.count("\n")) == (2, 1), told
        assert told.startswith("error: ")
        assert f"(all options: {python()} -m components.push --help)" in told
