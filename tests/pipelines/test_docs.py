"""The commands that the pages show are what the parsers take."""

import shlex
from pathlib import Path

import pytest
import yaml
from page_commands import blocks, commands, parsed

from components.common.command_line import DEFAULT_RECIPE
from matta_core.errors import UserError
from matta_core.recipe import Recipe
from pipelines.checks.models import check_models

ROOT = Path(__file__).parents[2]
# How many each page has at least: a page whose blocks are no longer read would pass unseen.
PAGES = {
    "README.md": 3,
    "docs/cluster.md": 8,
    "docs/commands.md": 6,
    "docs/docker.md": 2,
    "docs/method.md": 1,
    "docs/plan.md": 5,
    "docs/recipes.md": 3,
    "docs/retraining.md": 4,
}


@pytest.mark.parametrize("page", PAGES)
def test_the_page_has_commands_to_check(page):
    assert len(commands(ROOT / page)) >= PAGES[page]


@pytest.mark.parametrize("command", [command for page in PAGES for command in commands(ROOT / page)])
def test_every_command_is_taken_by_its_own_parser_with_settings_that_exist(command):
    options = parsed(command)
    assert (options is None) == command.endswith("--help")


def test_a_command_is_found_wherever_it_stands(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "```sh\nmake demo  # python -m no.command\ndocker run image \\\n    python -m components.gate --help\n"
        "A=1 .venv/bin/python -m components.push \\\n  --history s  # why\n```\n```text\npython -m no.command\n```\n"
    )
    assert [shlex.split(command)[2:] for command in commands(page)] == [
        ["components.gate", "--help"],
        ["components.push", "--history", "s"],
    ]


def test_the_recipe_that_the_readme_shows_is_whole_and_its_sizes_nest():
    (shown,) = blocks(ROOT / "README.md", "yaml")
    assert len(shown.splitlines()) <= 12
    check_models(Recipe.from_dict(yaml.safe_load(shown)))


def test_the_settings_that_the_page_about_recipes_shows_make_one_with_the_demos():
    values = yaml.safe_load(DEFAULT_RECIPE.read_text())
    shown = [yaml.safe_load(block) for block in blocks(ROOT / "docs" / "recipes.md", "yaml")]
    assert [list(block) for block in shown] == [["train"], ["evaluate"], ["gate"]]
    for block in shown:
        values |= block
    check_models(Recipe.from_dict(values))


@pytest.mark.parametrize(
    "command",
    [
        "python -m pipelines.matta_pipeline submit --cluster c.yaml --hots https://x",
        "python -m pipelines.matta_pipeline submit --host https://x",
        "python -m components.push --rollback",
    ],
)
def test_a_command_that_its_parser_does_not_take_is_found_out(command):
    with pytest.raises(pytest.fail.Exception, match=r"does not take: python -m"):
        parsed(command)


def test_a_setting_that_does_not_exist_is_found_out():
    with pytest.raises(UserError, match=r"unknown setting train\.stepz"):
        parsed("python -m components.train --dataset d --scores s --output o --set train.stepz=1")
