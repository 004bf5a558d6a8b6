"""Any recipe and any override is read, or refused in one line: no input ends in another exception."""

import pytest
from hypothesis import given
from nasty_settings import overrides_of, parsed_or_told, quickly, texts_of

from components.common.command_line import DEFAULT_RECIPE, load_recipe
from matta_core.recipe import Recipe
from matta_core.recipe.settings import Section

RECIPES = DEFAULT_RECIPE.parent
MORE = [
    "train.start_from", "train.loss.ta_weight", "train.optimizer.beta1", "train.sizes.m.layers", "train.model.x.y",
    "extract_students.mixes", "extract_students.mixes.mid.parameters", "evaluate.tasks.lambada_openai.limit",
    "gate.per_student", "gate.evaluation_set", "push.serving.name", "push.registry", "retrain", "retrain.prefix",
]  # fmt: skip


@pytest.mark.parametrize("name", ["demo.yaml", "qwen3_0_6b.yaml", "nightly.yaml"])
def test_any_recipe_is_read_or_refused_in_one_line(name, tmp_path):
    path = tmp_path / "r.yaml"

    @quickly
    @given(text=texts_of(RECIPES / name))
    def check(text):
        path.write_bytes(text.encode(errors="surrogatepass"))
        parsed_or_told(lambda: load_recipe(path))

    check()


@quickly
@given(overrides=overrides_of(DEFAULT_RECIPE, *MORE))
def test_any_override_is_read_or_refused_in_one_line(overrides):
    parsed_or_told(lambda: load_recipe(overrides=overrides))


def test_bytes_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "r.yaml").write_bytes(b"name: \xff\xfe")
    assert parsed_or_told(lambda: load_recipe(tmp_path / "r.yaml")) is None


@quickly
@given(overrides=overrides_of(DEFAULT_RECIPE, *MORE))
def test_what_was_read_survives_the_json_that_pipelines_pass(overrides):
    recipe = parsed_or_told(lambda: load_recipe(overrides=overrides))
    for name in Recipe.__dataclass_fields__ if recipe else ():
        if isinstance(section := getattr(recipe, name), Section):
            assert type(section).from_json(section.to_json()) == section
