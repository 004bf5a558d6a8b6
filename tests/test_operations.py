"""docs/operations.md cannot rot: what it quotes is what the code says, and its commands are taken by the parsers."""

import ast
import dataclasses
import re
import string
import typing
from functools import cache
from pathlib import Path

import pytest
from page_commands import blocks, commands, parsed

from components.common.command_line import DEFAULT_RECIPE
from matta_core.errors import ToldToEndError
from matta_core.recipe import Recipe
from matta_core.recipe.settings import Section

ROOT = Path(__file__).parent.parent
PAGE_FILE = ROOT / "docs" / "operations.md"
PAGE = PAGE_FILE.read_text(encoding="utf-8")
SOURCES = sorted(file for folder in ("components", "matta_core", "pipelines") for file in (ROOT / folder).rglob("*.py"))
# What strftime and the system put into messages, and the names in the page's examples.
VALUES = frozenset({"", "s", "m", "l", "xl", "ci", "build-7", "build-9", "yes minimum", "No space left on device"})
EDGES = " ;:,.[]()'"
OPEN = "\0"  # stands for a value in a pattern
IN_A_VALUE = frozenset(string.digits + "/_.…")


def tables(heading):
    """First cells, without their backticks, of the rows of all tables whose first column has this heading."""
    found = re.findall(rf"^\| {heading} \|.*\n\|[-|]+\|\n((?:^\|.*\n)+)", PAGE, flags=re.MULTILINE)
    return [row.split("|")[1].strip().strip("`") for rows in found for row in rows.splitlines()]


@cache
def patterns():
    """Every string that the code can write, those that say most first, as the parts between its values."""
    found = {}
    for file in SOURCES:
        tree = ast.parse(file.read_text(encoding="utf-8"))
        documentation = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        inner = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
        for node in ast.walk(tree):
            if id(node) in documentation | inner:
                continue
            if isinstance(node, ast.JoinedStr):
                text = "".join(part.value if isinstance(part, ast.Constant) else OPEN for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                text = node.value
            else:
                continue
            if letters(text) >= 2:
                found[text.strip(EDGES)] = letters(text)
    ordered = sorted(found, key=found.get, reverse=True)
    return [text.split(OPEN) for text in ordered]


@cache
def vocabulary():
    """All that the code's strings and the plain values say."""
    return "\n".join([*VALUES, *(part for parts in patterns() for part in parts)])


def words_outside_values(text):
    """A value has no spaces and one of certain characters, or is one of a few: these words are no part of another."""
    return [word for token in text.split() if not set(token) & IN_A_VALUE for word in re.findall("[A-Za-z]+", token)]


def letters(text):
    return sum(character.isalpha() for character in text)


@cache
def is_said(text, depth=0):
    """Whether the code can write this text: one of its strings, whose values are plain or are said by it in turn.

    Texts that are said may also be strung together, as lists and tables are.
    """
    text = text.strip(EDGES)
    if is_value(text):
        return True
    if depth > 6 or any(word not in vocabulary() for word in words_outside_values(text)):
        return False
    if any(has(text, *parts) and fits(text, *parts, depth=depth) for parts in patterns()):
        return True
    for joint in re.finditer("  +|: |, |; ", text):
        if is_said(text[: joint.start()], depth + 1) and is_said(text[joint.end() :], depth + 1):
            return True
    return False


def has(text, first, *others):
    """Whether the parts stand in the text, in order, from its start to its end, whatever the values between them are.
    It spares most texts the search for values, which takes long."""
    if not others:
        return text == first
    *between, last = others
    place, end = len(first), len(text) - len(last)
    if place > end or not (text.startswith(first) and text.endswith(last)):
        return False
    for part in between:
        if (found := text.find(part, place, end)) < 0:
            return False
        place = found + len(part)
    return True


def fits(text, first, *others, depth):
    """Whether the text is the parts, in order, and between them values that are said."""
    if not text.startswith(first):
        return False
    rest = text.removeprefix(first)
    if not others:
        return not rest
    ends = [found.start() for found in re.finditer(re.escape(others[0]), rest)] if any(others) else [len(rest)]
    return any(is_said(rest[:end], depth + 1) and fits(rest[end:], *others, depth=depth) for end in ends)


def is_value(text):
    """A number, a path, a digest, a time, a task's or a file's name, a named example, or what the page leaves out."""
    return text in VALUES or (" " not in text and bool(set(text) & IN_A_VALUE))


def test_the_page_has_quotes_and_commands_to_check():
    assert len(commands(PAGE_FILE)) >= 8
    assert len(tables("message")) >= 15
    assert len(tables("reason")) >= 9
    assert len(blocks(PAGE_FILE, "text")) >= 5


@pytest.mark.parametrize("message", [*tables("message"), *tables("reason")])
def test_every_message_in_a_table_is_one_that_the_code_can_write(message):
    assert is_said(message)


@pytest.mark.parametrize("line", [line.strip() for block in blocks(PAGE_FILE, "text") for line in block.splitlines()])
def test_every_line_of_sample_output_is_one_that_the_code_can_write(line):
    assert is_said(line)


@pytest.mark.slow
@pytest.mark.parametrize("message", [*tables("message"), *tables("reason")])
def test_any_other_word_in_a_message_is_found_out(message):
    words = list(re.finditer(r"(?<![\w/.])[A-Za-z]{4,}(?![\w/.=-])", message))
    assert words
    for word in words:
        assert not is_said(f"{message[: word.start()]}xyzzy{message[word.end() :]}"), word


@pytest.mark.parametrize(
    "text",
    [
        "matta_bits_per_byte 2.371 exceeds the maximum 2.3",
        "s: NOT pushed because of trouble",
        "nothing of the size l is served under /srv/models, and gate.baseline is refuse",
        "the pointer was lost",
    ],
)
def test_a_message_that_the_code_does_not_write_is_found_out(text):
    assert not is_said(text)


@pytest.mark.parametrize("command", commands(PAGE_FILE))
def test_every_command_is_taken_by_its_own_parser_with_settings_that_exist(command):
    assert parsed(command) is not None


def test_every_setting_that_is_named_exists():
    sections = {spec.name for spec in dataclasses.fields(Recipe)}
    named = {name for name in re.findall(r"`([a-z_]+(?:\.[a-z_]+)+)`", PAGE) if name.split(".")[0] in sections}
    assert len(named) >= 6
    for name in named:
        section = Recipe
        for part in name.split("."):
            hints = typing.get_type_hints(section)
            assert part in hints, name
            section = hints[part]
            if not (isinstance(section, type) and issubclass(section, Section)):
                break


def test_the_recipes_in_the_page_hold_a_size_and_tell_of_a_loss_that_was_not_seen():
    import yaml

    values = yaml.safe_load(DEFAULT_RECIPE.read_text())
    held, told = (
        Recipe.from_dict(values | {"gate": yaml.safe_load(block)["gate"]}).gate for block in blocks(PAGE_FILE, "yaml")
    )
    assert held.per_student["s"].max_parameters == 1
    assert told.policy.unseen_loss == {"matta_bits_per_byte": 0.5}


def test_the_exit_statuses_are_those_of_the_code():
    sources = "".join(file.read_text(encoding="utf-8") for file in SOURCES)
    assert tables("status") == ["0", "1", "2", "3", "130", "143"]
    for status in ("2", "3", "130"):
        assert f"SystemExit({status})" in sources
    assert "SystemExit(0 if same else 1)" in sources
    assert ToldToEndError("").code == 143
