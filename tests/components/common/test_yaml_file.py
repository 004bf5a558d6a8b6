"""How recipes and profiles are read: YAML 1.2's core schema, and nothing that is easily taken for something else."""

import math
import os
import time

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from nasty_settings import quickly

from components.common.command_line import DEFAULT_RECIPE, load_recipe
from components.common.yaml_file import read_yaml
from matta_core.errors import UserError


def read(text):
    return read_yaml(text, "recipe r.yaml").values


def test_files_that_mean_the_same_in_both_versions_of_yaml_are_read_as_pyyaml_does():
    folder = DEFAULT_RECIPE.parent.parent
    for file in (*folder.glob("recipes/*.yaml"), *folder.glob("clusters/*.yaml")):
        assert read(file.read_text()) == yaml.safe_load(file.read_text())


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("012", 12),
        ("0o14", 12),
        ("0xC", 12),
        ("-7", -7),
        ("+7", 7),
        ("3e-4", 3e-4),
        ("1.", 1.0),
        (".5", 0.5),
        ("-.inf", -math.inf),
        ("9223372036854775807", 2**63 - 1),
        ("TRUE", True),
        ("Null", None),
        ("~", None),
        # Of YAML 1.1, and text in YAML 1.2.
        ("1:30", "1:30"),
        ("yes", "yes"),
        ("no", "no"),
        ("on", "on"),
        ("y", "y"),
        ("1_000", "1_000"),
        ("0b11", "0b11"),
        ("2026-11-24", "2026-11-24"),
        ("2026-11-24T03:00:00Z", "2026-11-24T03:00:00Z"),
        ("=", "="),
        ("'012'", "012"),
        ('"\\ud83d\\ude00"', "😀"),
        ("|\n  a\n  b\n", "a\nb\n"),
        ("{no: {on: 1}}", {"no": {"on": 1}}),
        ("[&a {b: 1}, *a]", [{"b": 1}, {"b": 1}]),
        ("%YAML 1.2\n---\n1", 1),
    ],
)
def test_a_value_is_what_yaml_1_2_says(text, value):
    got = read(text)
    assert (got, type(got)) == (value, type(value))


def test_a_number_that_is_none_is_read_as_that():
    assert math.isnan(read(".nan"))


def test_aliases_are_values_of_their_own():
    first, second = read("[&a {b: 1}, *a]")
    assert first is not second


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", "line 3: a stands twice, first in line 1: leave one out"),
        ("a:\n  b: 1\n  c: 2\n  b: 1", "line 4: b stands twice, first in line 2: leave one out"),
        ("{s: 32, s: 48}", "line 1: s stands twice, first in line 1: leave one out"),
        ("{1: 2}", "line 1: keys are text, and 1 is no text: quote it"),
        ("{1: 2, '1': 3}", "line 1: keys are text, and 1 is no text: quote it"),
        ("a:\n  true: 2", "line 2: keys are text, and true is no text: quote it"),
        ("null: 2", "line 1: keys are text, and null is no text: quote it"),
        ("? [a]\n: 2", "line 1: keys are text, and a list or mapping stands for a key"),
        ("? \n: 2", "line 1: a key is missing: write null for none, or leave the setting out"),
        ("a:\nb: 1", "line 1: a value is missing: write null for none, or leave the setting out"),
        ("gate:\n  policy: {maximum: }", "line 2: a value is missing: write null for none, or leave the setting out"),
        ("- \n- 1", "line 1: a value is missing: write null for none, or leave the setting out"),
        ("a: &x {b: 1}\nc:\n  <<: *x", "line 3: YAML 1.2 has no merge key <<: write the settings out"),
        ("a: &x [*x]", "line 1: *x stands within its own anchor &x"),
        ("a: &x\n  b:\n    c: *x", "line 3: *x stands within its own anchor &x"),
        ("a: !!python/name:os.system x", "line 1: the tag tag:yaml.org,2002:python/name:os.system"),
        ("a: !!binary aGk=", "line 1: the tag tag:yaml.org,2002:binary"),
        ("a: !!str 1", "line 1: the tag tag:yaml.org,2002:str: write a plain value, quoted where it is text"),
        ("a: !x {}", "line 1: the tag !x: write a plain value, quoted where it is text"),
        ("%YAML 1.1\n---\na: 1", "line 1: %YAML 1.1: recipes are YAML 1.2"),
        ("a: 9223372036854775808", "line 1: 9223372036854775808 is too large for 64 bits"),
        ("\na: " + "1" * 400, "line 2: " + "1" * 40 + " is too large for 64 bits"),
        ("a: 1" + "0" * 5000, "line 1: 1" + "0" * 39 + " is too large for 64 bits"),
        ("a: 1e400", "line 1: 1e400 is too large for a number: quote it where it is text"),
        ('a: "\\ud800"', "line 1: a value holds half of a character: write all of it"),
        ("[" * 3000, "line 1: more than 32 levels within one another"),
        ("{a: " * 3000, "line 1: more than 32 levels within one another"),
        ("\n".join(f"{'  ' * n}a:" for n in range(50)), "line 32: more than 32 levels within one another"),
    ],
)
def test_what_is_easily_taken_for_something_else_is_refused_with_its_line(text, message):
    with pytest.raises(UserError) as refused:
        read(text)
    assert str(refused.value).startswith(f"recipe r.yaml, {message}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "recipe r.yaml is empty: there is no value in it"),
        ("# nothing", "recipe r.yaml is empty: there is no value in it"),
        ("a: [1", "recipe r.yaml, line 1, column 6: what begins in line 1, column 4 is not closed, or a com"),
        ("a: {b: 1\nc: 2", "recipe r.yaml, line 2, column 2: what begins in line 1, column 4 is not closed"),
        (
            "a: 1\n b: 2",
            "recipe r.yaml, line 2, column 3: the setting in line 1 has its value there: indent both alike",
        ),
        ("a: b: c", "recipe r.yaml, line 1, column 5: a second colon in one line: quote text that holds one"),
        ("a:\n  b: 1\n c: 2", "recipe r.yaml, line 3, column 2: no part of what begins in line 1: give all of one"),
        ("a: 1\n---\nb: 1", "recipe r.yaml, line 2, column 1: a second document begins: leave one out"),
        ("a: 1\nb: x\u2028c: 2", "recipe r.yaml, line 2, column 5: character 0x2028, which ended a line before YAML"),
        ("a: *x", "recipe r.yaml, line 1, column 4: text must not begin with *: quote it"),
        ("a: @x", "recipe r.yaml, line 1, column 4: text must not begin with @: quote it"),
        ("a: 'x\nb: 1", "recipe r.yaml, line 1, column 4: a quotation mark that is not closed: close it"),
        ("a: &x 1\nb: &x 2", "recipe r.yaml, line 2, column 4: second occurrence: quote what is text"),
        ("a: 1\nb: \0", "recipe r.yaml, line 2, column 4: character 0x0, which YAML does not allow: take it out"),
        ('a: 1\nb: "\\UFFFFFFFF"', "recipe r.yaml, line 2: there is no character of such"),
        ("a:\n\t- 1", "recipe r.yaml, line 2, column 1: a tab: indent with spaces"),
        ("a:\n  \tb: 1", "recipe r.yaml, line 2, column 3: a tab: indent with spaces"),
        (
            "My recipe\n\n# it\nname: x",
            "recipe r.yaml, line 1, column 1: 'My recipe' is no setting: a setting is KEY: ",
        ),
        (
            "name:x\nb: 1",
            "recipe r.yaml, line 1, column 1: 'name:x' is no setting: a setting is KEY: VALUE, with a space",
        ),
        (
            "name: x\nTraining\nsteps: 3",
            "recipe r.yaml, line 2, column 1: 'Training' is no setting: a setting is KEY: ",
        ),
    ],
)
def test_what_is_no_yaml_is_refused_with_its_line(text, message):
    with pytest.raises(UserError) as refused:
        read(text)
    assert str(refused.value).startswith(message)


def test_a_file_that_is_not_in_utf_8_is_refused_with_its_place(tmp_path):
    (tmp_path / "r.yaml").write_bytes("name: x\n# für den Kreis\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"r.yaml, line 2, column 4: byte 0xfc is not UTF-8: save the file in that enc"):
        load_recipe(tmp_path / "r.yaml")


@quickly
@given(text=st.text(alphabet="ab:-[]{}'\"#&*!|>%@`,?. \n\t\r", max_size=30))
def test_any_text_is_read_or_refused_in_one_line(text):
    try:
        read(text)
    except UserError as error:
        assert "\n" not in str(error)


def test_aliases_of_aliases_cannot_fill_the_memory():
    levels = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    levels += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 20)]
    started = time.monotonic()
    with pytest.raises(UserError, match=r"line \d+: more than 100,000 values, with aliases written out"):
        read("\n".join(levels))
    assert time.monotonic() - started < 5


def changed_recipe(tmp_path, old, new):
    text = DEFAULT_RECIPE.read_text()
    assert text.count(old) == 1
    path = tmp_path / "r.yaml"
    path.write_text(text.replace(old, new))
    return path


def test_the_runbooks_policy_pasted_below_another_is_refused_and_blesses_nothing(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(DEFAULT_RECIPE.read_text() + "\ngate:\n  policy: {minimum: {matta_last_token: 0.01}}\n")
    lines = path.read_text().splitlines()
    first, second = (n for n, line in enumerate(lines, 1) if line.startswith("gate:"))
    with pytest.raises(UserError, match=rf"r.yaml, line {second}: gate stands twice, first in line {first}"):
        load_recipe(path)


@pytest.mark.parametrize(
    ("section", "setting", "value", "message"),
    [
        ("train", "learning_rate", ".nan", r"train.learning_rate must be > 0.0 and <= 1.0, got nan"),
        ("train", "seed", "1:30", r"train.seed must be of type int, got '1:30'"),
        (
            "train",
            "activation_checkpointing",
            "yes",
            r"train.activation_checkpointing must be true or false, got 'yes'",
        ),
        ("train", "max_grad_norm", "{}", r"train.max_grad_norm must be a number, got {}"),
        ("prepare_data", "source", "12", r"prepare_data.source must be of type str, got 12: quote it"),
        ("prepare_data", "source", "~/data/*.txt", r"prepare_data.source must be without ~"),
        ("train", "lerning_rate", "1", r"unknown setting train.lerning_rate: known here are model, sizes"),
        ("gate", "monotone_tolerance", ".inf", r"gate.monotone_tolerance must be >= 0.0 .*, got inf"),
    ],
)
def test_a_bad_value_is_told_with_the_files_name_and_its_line(section, setting, value, message, tmp_path):
    text = DEFAULT_RECIPE.read_text()
    lines = [line for line in text.splitlines() if not line.startswith(f"  {setting}:")]
    lines.insert(lines.index(f"{section}:") + 1, f"  {setting}: {value}")
    path = tmp_path / "r.yaml"
    path.write_text("\n".join(lines))
    line = lines.index(f"  {setting}: {value}") + 1
    with pytest.raises(UserError, match=rf"^{message}.* \(in line {line} of {path}\)$"):
        load_recipe(path)


def test_a_bad_value_in_a_pipe_which_is_read_but_once_is_told():
    reading, writing = os.pipe()
    os.write(writing, DEFAULT_RECIPE.read_bytes() + b"\nretrain: 3\n")
    os.close(writing)
    with pytest.raises(UserError, match=rf"^retrain must be a mapping of settings, got 3 \(in /dev/fd/{reading}\)$"):
        load_recipe(f"/dev/fd/{reading}")
    os.close(reading)


def test_a_value_that_an_override_set_has_no_line_in_the_file():
    with pytest.raises(UserError, match=r"\(in /.*demo.yaml with --set train.learning_rate=2\)$"):
        load_recipe(overrides=["train.learning_rate=2"])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["gate.policy.maximum="], r"^--set gate.policy.maximum= has no value: is a variable of the shell empty\? For"),
        (["gate.policy.maximum=  "], r"^--set gate.policy.maximum= has no value"),
        (["gate.policy.maximum=# none"], r"^--set gate.policy.maximum=# none is empty"),
        (["gate.policy.maximum={matta_last_token: }"], r"line 1: a value is missing"),
        (["push.target=''"], r"^push.target must not be empty"),
        (["push.target=~"], r"^push.target must be of type str, got None"),
        (["push.target=~/pushed"], r"^push.target must be without ~"),
        (["train.steps"], r"^--set takes KEY=VALUE, for instance train.steps=100, got 'train.steps'"),
        (["=5"], r"^--set takes KEY=VALUE"),
        (["train..steps=5"], r"^--set takes KEY=VALUE"),
        (["train.=5"], r"^--set takes KEY=VALUE"),
        ([""], r"^--set takes KEY=VALUE"),
        (["train.steps=5", "train.steps=6"], r"^--set train.steps=6 undoes --set train.steps=5 before it: leave one"),
        (
            ["gate.policy.maximum={matta_bits_per_byte: 1}", "gate={}"],
            r"^--set gate={} undoes --set gate.policy.maximum={matta_bits_per_byte: 1} before it",
        ),
        (
            ["prepare_data.source=*.txt"],
            r"line 1, column 1: text must not begin with \*: quote it; quote text for the shell and for YAML",
        ),
        (["train.sizes={s: 8, s: 16}"], r"^--set train.sizes={s: 8, s: 16}, line 1: s stands twice"),
        (["name=a\nb"], r"^name must be letters, digits, - and _, got 'a b'"),
    ],
)
def test_an_override_that_would_be_taken_for_something_else_is_refused_in_one_line(overrides, message):
    with pytest.raises(UserError, match=message) as refused:
        load_recipe(overrides=overrides)
    assert "\n" not in str(refused.value)


def test_an_override_may_add_to_one_before_it():
    overrides = ["gate.policy={maximum: {matta_bits_per_byte: 3}}", "gate.policy.min_documents=7"]
    policy = load_recipe(overrides=overrides).gate.policy
    assert (policy.maximum, policy.min_documents) == ({"matta_bits_per_byte": 3.0}, 7)
