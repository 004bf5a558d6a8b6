import dataclasses

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from components.common.command_line import DEFAULT_RECIPE
from matta_core.errors import UserError
from matta_core.recipe import EvaluateConfig, GateConfig, LossConfig, PrepareDataConfig, Recipe, TrainConfig

RECIPES = sorted(DEFAULT_RECIPE.parent.glob("*.yaml"))
MINIMAL = {
    "name": "x",
    "train": {"model": {"model_type": "gpt2"}, "sizes": {"s": 8, "xl": 16}, "student": "s", "steps": 100},
    "score_teacher": {"teacher": "gpt2-xl"},
    "push": {"target": "pushed"},
}


def changed(path, value):
    """MINIMAL with one value set, by its dotted path."""
    recipe = yaml.safe_load(yaml.safe_dump(MINIMAL))
    *parents, last = path.split(".")
    target = recipe
    for parent in parents:
        target = target.setdefault(parent, {})
    target[last] = value
    return recipe


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_parses_and_survives_the_json_that_pipelines_pass(path):
    recipe = Recipe.from_dict(yaml.safe_load(path.read_text()))
    for spec in dataclasses.fields(Recipe):
        section = getattr(recipe, spec.name)
        if spec.name != "name" and section is not None:
            assert type(section).from_json(section.to_json()) == section
    assert list(TrainConfig.from_json(recipe.train.to_json()).sizes) == list(recipe.train.sizes)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("trian", {}, r"unknown setting trian: known here are name, train"),
        ("train.step", 3, r"unknown setting train.step: known here are model, sizes"),
        ("train.loss.temperature", 2, r"unknown setting train.loss.temperature: known here are ta_weight"),
        ("train.loss.loss_temperature", 0, r"train.loss.loss_temperature must be > 0.0, got 0"),
        ("train.steps", "many", r"train.steps must be of type int, got 'many'"),
        ("train.steps", 10.5, r"train.steps must be of type int, got 10.5"),
        ("train.steps", True, r"train.steps must be of type int, got True"),
        ("train.learning_rate", "fast", r"train.learning_rate must be a number, got 'fast'"),
        ("train.learning_rate", float("nan"), r"train.learning_rate must be > 0.0 and <= 1.0, got nan"),
        ("train.precision", "fp16", r"train.precision must be one of auto, fp32, bf16, got 'fp16'"),
        ("train.sizes", {"s": 16, "xl": 8}, r"train.sizes must be ascending and different, got \[16, 8\]"),
        ("train.sizes", {"s": 8, "xl": 20}, r"train.sizes.xl.intermediate_size must be a multiple of 8 .* got 20"),
        ("train.sizes", {"s": 0, "xl": 8}, r"train.sizes.s.intermediate_size must be >= 1 neurons, got 0"),
        ("train.sizes", {"s": "8", "xl": 8}, r"train.sizes.s must be an intermediate_size, a whole number, .* got '8'"),
        ("train.sizes", {"s": {"width": 8}, "xl": 8}, r"unknown setting train.sizes.s.width: known here are interm"),
        ("train.sizes", {"s": {"layers": [2, 0]}, "xl": 8}, r"train.sizes.s.layers must be ascending .* got \[2, 0\]"),
        (
            "train.sizes",
            {"s": {"layers": [0, 2], "num_hidden_layers": 2}, "xl": 8},
            r"train.sizes.s.num_hidden_layers and layers say the same: leave one of the two out",
        ),
        ("train.sizes", {"s": 8, "xl": {"layers": [0]}}, r"train.sizes: the last is the TA itself, whole: .* give xl"),
        ("train.shares", "some", r"train.shares must be split, sandwich, all or a mapping of sizes, got 'some'"),
        ("train.shares", 3, r"train.shares must be a mapping, got 3"),
        ("train.shares", {"q": 1.0}, r"train.shares must be of sizes, s, xl; got 'q'"),
        ("train.shares", {"s": 1.5, "xl": 1}, r"train.shares.s must be from 0 to 1, got 1.5"),
        ("train.shares", {"s": 1.0}, r"train.shares must give the TA, xl, more than 0"),
        ("train.shares", {"s": 0.01, "xl": 1}, r"train.batch_size must be at least 50, so that s .* 0.01 .* got 16"),
        ("train.nest_from", 1.0, r"train.nest_from must be >= 0.0 and <= 0.99, got 1.0"),
        ("train.sizes", {"../s": 8, "xl": 16}, r"train.sizes are folders' names: .* got '../s'"),
        ("train.sizes", {"teacher": 8, "xl": 16}, r"not 'teacher', 'references' or 'compact' in a family"),
        ("train.sizes", {}, r"train.sizes must name at least one size"),
        ("train.sizes", [1], r"train.sizes must be a mapping, got \[1\]"),
        ("train.student", "m", r"train.student must be one of s, xl, got 'm'"),
        ("train.warmup_steps", 100, r"train.warmup_steps must be < steps = 100, got 100"),
        ("prepare_data.sequence_length", 1, r"prepare_data.sequence_length must be >= 2 and <= 131072 tokens, got 1"),
        ("extract_students.sizes", ["q"], r"extract_students.sizes must be among train.sizes, .*, got 'q'"),
        ("gate.per_student", {"q": {}}, r"gate.per_student must be among train.sizes and .*mixes, s, xl, got 'q'"),
        ("extract_students.mixes", {"s": {"bytes": 9}}, r"mixes must have names of their own, got 's', a size"),
        ("extract_students.mixes", {"../a": {"bytes": 9}}, r"mixes are folders' names: .*got '../a'"),
        (
            "extract_students.mixes",
            {"mid": {"bytes": 9, "parameters": 3}},
            r"extract_students.mixes.mid.budget must be one of .*, got {'parameters': 3, 'bytes': 9}",
        ),
        (
            "evaluate.last_token_context",
            4096,
            r"last_token_context must be <= prepare_data.sequence_length = .* got 4096",
        ),
        (
            "gate.policy",
            {"minimum": {"matta_last_token": 12}},
            r"minimum.matta_last_token must be <= 1, as 0.12 is 12%",
        ),
        ("gate.policy", {"maximum": {"matta_bits_per_byte": -1}}, r"maximum.matta_bits_per_byte must be >= 0, got -1"),
        ("extract_students.sizes", "s", r"extract_students.sizes must be a list, got 's'"),
        ("score_teacher.teacher", None, r"score_teacher.teacher must name a checkpoint, or train_teacher must say"),
        ("name", "a b", r"name must be letters, digits, - and _, got 'a b'"),
        ("train", 3, r"train must be a mapping of settings, got 3"),
    ],
)
def test_a_bad_value_is_refused_with_its_path_the_value_and_the_range(path, value, message):
    with pytest.raises(UserError, match=message):
        Recipe.from_dict(changed(path, value))


def test_a_missing_setting_is_named():
    recipe = yaml.safe_load(yaml.safe_dump(MINIMAL))
    del recipe["train"]["steps"]
    with pytest.raises(UserError, match=r"train.steps is required: add it to the recipe"):
        Recipe.from_dict(recipe)


def test_text_is_no_number():
    with pytest.raises(UserError, match=r"train.learning_rate must be a number, got '3e-4'"):
        Recipe.from_dict(changed("train.learning_rate", "3e-4"))


@pytest.mark.parametrize(
    "path",
    [
        "push.target", "prepare_data.source", "prepare_data.tokenizer", "score_teacher.teacher", "train.start_from",
        "push.registry_token_file", "evaluate.tasks.lambada_openai.data_files", "retrain.prefix",
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("", r"must not be empty: leave it out, or give it a value, got ''"),
        ("~", r"must be without ~, .*: write /home/me, got '~'"),
        ("~/x", r"must be without ~, .*: write /home/me/x, got '~/x'"),
        ("~nobody-of-this-name/x", r"must be without ~, .*: write the path in full"),
        ("$HOME/x", r"must be without \$HOME, which is a variable to a shell alone: write the path in full"),
        ("/data/${USER}/x", r"must be without \${USER}, which is a variable to a shell alone"),
        ("a" * 300, r"must have no name of more than 255 bytes, got 'aaa"),
        ("b/" * 3000, r"must have at most 4095 bytes, got 'b/b/"),
        ("a\0b", r"must be readable text, .*got 'a\\x00b'"),
        ("\ud800", r"must be readable text"),
        ("x{{$}}", r"must be without {{, in place of which Kubeflow and Kubernetes put values"),
        ("{{workflow.name}}", r"must be without {{"),
        ("/data/$(HOME)", r"must be without \$\("),
    ],
)  # fmt: skip
def test_every_path_and_name_is_refused_for_the_same_reasons(path, value, message, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    with pytest.raises(UserError, match=rf"^{path} {message}"):
        Recipe.from_dict(changed(path, value))


@pytest.mark.parametrize("value", ["gs:/bucket/x", "gs:bucket", "gs://", "gs:///x", "s3://bucket/x", "file:///x"])
@pytest.mark.parametrize(
    "path",
    ["push.target", "prepare_data.source", "prepare_data.tokenizer", "score_teacher.teacher", "train.start_from"],
)
def test_what_begins_as_a_url_is_no_local_path(path, value):
    with pytest.raises(UserError, match=rf"^{path} must be .*, got '{value}'"):
        Recipe.from_dict(changed(path, value))


@pytest.mark.parametrize("name", ["名前", "é", "-", "_", "a-", "", "a" * 64, "a/b", 7, None, "{{$}}"])
def test_a_name_that_would_make_no_pipelines_name_is_refused(name):
    with pytest.raises(UserError, match=r"^name must "):
        Recipe.from_dict(changed("name", name))


@pytest.mark.parametrize("names", [("a_b", "a-b"), ("S", "s")])
def test_sizes_that_would_be_served_under_one_name_are_told_when_the_recipe_is_read(names):
    sizes = {names[0]: 8, names[1]: 16, "xl": 24}
    with pytest.raises(UserError, match=rf"sizes '{names[0]}' and '{names[1]}' would both be served as 'matta-"):
        Recipe.from_dict(changed("train", MINIMAL["train"] | {"sizes": sizes, "student": names[0]}))
    mixes = changed("extract_students.mixes", {"S": {"parameters": 5}})
    with pytest.raises(UserError, match=r"sizes 's' and 'S' would both be served as 'matta-s': rename one"):
        Recipe.from_dict(mixes)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (10**400, r"train.model.hidden_size must be a whole number of at most 64 bits, got 1000"),
        pytest.param(
            10**5000,
            r"train.model.hidden_size must be a whole number of at most 64 bits, got a int too large to show",
            id="5000 digits",
        ),
        (float("nan"), r"train.model.hidden_size must be finite, got nan"),
        ([1.0, float("inf")], r"train.model.hidden_size\[1\] must be finite, got inf"),
        (b"x", r"train.model.hidden_size must be text, a number, true, false, null, a list or a mapping, got b'x'"),
        ({1: 2}, r"train.model.hidden_size must have text as its keys, got 1: quote it"),
        ({"a": {"b": "{{$}}"}}, r"train.model.hidden_size.a.b must be without {{"),
    ],
)
def test_settings_of_an_open_type_hold_what_json_can(value, message):
    with pytest.raises(UserError, match=f"^{message}"):
        Recipe.from_dict(changed("train.model.hidden_size", value))


def test_levels_without_end_are_refused():
    deep = []
    deep.append(deep)
    with pytest.raises(UserError, match=r"^train.model.x\[0\].* has more than 32 levels within one another"):
        Recipe.from_dict(changed("train.model.x", deep))
    with pytest.raises(UserError, match=r"^gate is not JSON"):
        GateConfig.from_json("[" * 200_000, "gate")


def test_json_that_says_a_setting_twice_is_refused():
    with pytest.raises(UserError, match=r'gate is not JSON \(the key "confidence" occurs twice\)'):
        GateConfig.from_json('{"confidence": 0.9, "confidence": 0.99}', "gate")


@given(value=st.floats(allow_nan=False) | st.integers(-10, 10))
@settings(max_examples=50)
def test_a_weight_is_accepted_if_and_only_if_it_is_finite_and_not_negative(value):
    legal = 0 <= value < float("inf")
    try:
        LossConfig(distillation_weight=value)
    except ValueError as error:
        assert not legal
        assert repr(value) in str(error)
    else:
        assert legal


def test_what_only_changes_the_pace_is_no_part_of_a_steps_key():
    slow, fast = PrepareDataConfig(num_workers=1), PrepareDataConfig(num_workers=8)
    assert slow.what_changes_the_result() == fast.what_changes_the_result()
    assert slow.what_changes_the_result() != PrepareDataConfig(vocab_size=512).what_changes_the_result()
    assert "loss" in Recipe.from_dict(MINIMAL).train.what_changes_the_result()


def test_json_that_is_not_json_is_refused_with_its_beginning():
    with pytest.raises(UserError, match=r"gate is not JSON .*'\{nonsense'"):
        GateConfig.from_json("{nonsense", "gate")
    assert EvaluateConfig.from_json("{}") == EvaluateConfig()


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("gate.policy", {"maximum": {"bits_per_byte": 2.0}}),
        ("gate.per_student", {"s": {"improve": {"lambada_openai": 0}}}),
        ("gate.monotone_task", "lambada_openai"),
    ],
)
def test_a_gate_that_asks_for_a_task_that_is_not_evaluated_is_told_at_once(path, value):
    with pytest.raises(
        UserError, match=r"gate\..* names the task '.*', which is not evaluated: add it to evaluate.tasks"
    ):
        Recipe.from_dict(changed(path, value))


def test_a_gate_may_ask_for_any_task_that_is_evaluated():
    recipe = changed("gate.policy", {"improve": {"lambada_openai": 0}})
    recipe["evaluate"] = {"tasks": {"lambada_openai": {"limit": 10}}}
    assert Recipe.from_dict(recipe).gate.policy.improve == {"lambada_openai": 0}


def test_an_evaluation_set_is_named_by_its_digest():
    with pytest.raises(UserError, match=r"gate\.evaluation_set must be 12 to 64 hexadecimal digits, got 'abc'"):
        Recipe.from_dict(changed("gate.evaluation_set", "abc"))
