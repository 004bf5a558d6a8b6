"""What the pages about the method say is so: their Python runs, and what they name exists."""

import importlib
import re
from pathlib import Path

import pytest
import yaml
from page_commands import blocks
from support import can_be_smaller

from matta_core.families import FAMILIES, Family
from matta_core.model_config import build_config
from matta_core.nesting.size import resolve
from matta_core.recipe import TrainConfig

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def names(page):
    """Every `matta_core.…` in the page, without what follows it in parentheses."""
    return re.findall(r"`(matta_core(?:\.\w+)+)", page.read_text(encoding="utf-8"))


def found(name):
    """The module, or what it holds by that name, down to a class's attribute. Raises: ImportError, AttributeError."""
    parts = name.split(".")
    for number in range(len(parts), 0, -1):
        try:
            thing = importlib.import_module(".".join(parts[:number]))
        except ModuleNotFoundError:
            continue
        for part in parts[number:]:
            thing = getattr(thing, part)
        return thing
    raise ImportError(name)


@pytest.mark.parametrize(("page", "at_least"), [("method.md", 30), ("families.md", 1)])
def test_every_name_on_the_page_exists(page, at_least):
    on_page = names(DOCS / page)
    assert len(on_page) >= at_least
    for name in on_page:
        assert found(name) is not None


def test_a_name_that_does_not_exist_is_found_out():
    with pytest.raises(AttributeError, match=r"slicez"):
        found("matta_core.nesting.slices.slicez")


def test_the_page_lists_every_family():
    rows = re.findall(r"^\| `(\w+)` \| .* \| yes \|$", (DOCS / "families.md").read_text(), flags=re.MULTILINE)
    assert rows == list(FAMILIES)


def test_the_sizes_that_the_page_about_recipes_shows_are_a_recipes():
    (shown,) = [block for block in blocks(DOCS / "recipes.md", "yaml") if block.startswith("train:")]
    config = TrainConfig.from_dict(yaml.safe_load(shown)["train"], "train")
    ta_config = build_config(config.model, config.sizes[config.ta], None, 128)
    sizes = resolve(ta_config, config.sizes)
    assert sizes["xs"].kept["num_attention_heads"] == 12
    assert len(sizes["xs"].layers) == 24
    assert config.loss.weights_at(2000)["distillation"] == pytest.approx(0.25)


@pytest.fixture
def families():
    """What is added to them is taken out again."""
    before = dict(FAMILIES)
    yield
    FAMILIES.clear()
    FAMILIES.update(before)


def test_the_family_that_the_page_adds_passes_what_the_page_asks_of_it(families):
    table, trial = blocks(DOCS / "families.md", "python")
    exec(table + trial, {})
    assert not can_be_smaller("olmo2", "num_attention_heads")


def test_mistral_is_a_table_of_its_name_alone_heads_and_all(families):
    _, trial = blocks(DOCS / "families.md", "python")
    trial = trial.replace('"num_attention_heads": 4', '"num_attention_heads": 4, "num_key_value_heads": 2')
    trial = trial.replace("num_hidden_layers=2", "num_hidden_layers=2, num_attention_heads=2")
    names = {"OLMO2": Family(model_type="mistral")}
    exec(trial, names)
    assert names["student"].config.model_type == "mistral"
    assert names["student"].config.num_attention_heads == 2
