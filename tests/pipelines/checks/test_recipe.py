"""What can be told before the first step is told then, by every command, with the setting's place."""

import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nasty_settings import fragments, quickly
from support import byte_tokenizer

from components.common.command_line import DEFAULT_RECIPE, load_recipe
from matta_core.errors import UserError
from pipelines.checks.models import check_models, needs_torch, vocabulary_of
from pipelines.checks.recipe import check
from pipelines.cluster import load_cluster

CLUSTERS = DEFAULT_RECIPE.parent.parent / "clusters"
COMMAND = [sys.executable, "-m", "pipelines.matta_pipeline"]
SHAPE = {"model_type": "llama", "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4}
SHAPE |= {"num_key_value_heads": 2}
GPT2 = {"model_type": "gpt2", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


def recipe(*overrides, model=SHAPE, sizes="{s: 32, m: 48, xl: 64}", **changes):
    model = json.dumps(model | changes)
    return load_recipe(overrides=[f"train.model={model}", f"train.sizes={sizes}", "gate.per_student={}", *overrides])


def rotary(**parameters):
    return recipe(rope_parameters={"rope_type": "default", "rope_theta": 10000.0} | parameters)


@pytest.mark.parametrize("file", sorted(DEFAULT_RECIPE.parent.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_recipe_of_ours_passes(file):
    check_models(load_recipe(file))


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: recipe(hidden_size=33), r"train.model: llama refuses these settings: .*\(33\) is not a multiple"),
        (lambda: recipe(hidden_size=36), r"train.model: llama refuses these settings: .* even .* got `head_dim`=9"),
        (lambda: recipe(model=GPT2, hidden_size=33), r"train.model.hidden_size must be divisible by .* = 2, got 33"),
        (lambda: recipe(head_dim=0), r"train.model.head_dim must be a whole number >= 1"),
        (lambda: recipe(hidden_sise=32), r"unknown setting train.model.hidden_sise: .*; did you mean hidden_size\?"),
        (
            lambda: recipe(rope_theta=500000.0),
            r"unknown setting train.model.rope_theta: .*; rotary positions are set by train.model.rope_parameters, for",
        ),
        (lambda: recipe(num_hidden_layers=2**62), r"train.model.num_hidden_layers must be .* <= 1024, got 4611"),
        (lambda: recipe(hidden_size=2**40), r"train.model.hidden_size must be a whole number >= 1 and <= 2147483647"),
        (lambda: recipe(hidden_size={}), r"train.model.hidden_size must be a whole number .*, got {}"),
        (lambda: recipe(hidden_act="gelo"), r"train.model.hidden_act must be one of .*, got 'gelo'"),
        (lambda: recipe(hidden_act=["gelu"]), r"train.model.hidden_act must be one of .*, got \['gelu'\]"),
        (lambda: recipe(model_type=["llama"]), r"train.model.model_type is required"),
        (lambda: recipe(model_type="bert"), r"model_type 'bert' is not a known family"),
        (lambda: recipe(rms_norm_eps="small"), r"train.model.rms_norm_eps must be a number > 0, got 'small'"),
        (lambda: recipe(rms_norm_eps=-1), r"train.model.rms_norm_eps must be a number > 0, got -1"),
        (lambda: recipe(return_dict=False), r"train.model.return_dict is not set there: it is no part of a shape"),
        (lambda: recipe(torch_dtype="float16"), r"unknown setting train.model.torch_dtype: llama has no such field$"),
        (lambda: rotary(rope_type="nonsense"), r"train.model.rope_parameters.rope_type must be one of default, linear"),
        (lambda: rotary(rope_theta="1e6"), r"train.model.rope_parameters.rope_theta must be a number > 0, got '1e6'"),
        (lambda: rotary(rope_theta=-1.0), r"train.model.rope_parameters.rope_theta must be a number > 0, got -1.0"),
        (lambda: rotary(rope_thet=5.0), r"train.model: llama refuses .*: Unrecognized keys .* {'rope_thet'}"),
        (lambda: rotary(rope_type="linear", factor="x"), r"train.model: llama refuses .* factor field must be a float"),
        (lambda: recipe(rope_parameters=3), r"train.model: llama refuses these settings"),
        (lambda: recipe(vocab_size=300), r"train.model.vocab_size must be at least the tokenizer's 2048, got 300"),
        (
            lambda: recipe(sizes="{s: {layers: [0, 9]}, xl: 64}"),
            r"train.sizes.s.layers must hold .* its last, 3, .* got \[0, 9\]",
        ),
        (
            lambda: recipe(sizes="{s: {num_hidden_layers: 9}, xl: 64}"),
            r"train.sizes.s.num_hidden_layers must be from 2 .* to the TA's 4, got 9",
        ),
        (
            lambda: recipe(sizes="{s: {intermediate_size: 48, num_hidden_layers: 2}, m: 32, xl: 64}"),
            r"train.sizes must ascend, each contained in the next: m does not contain s: in layer 0, s has 48 neurons",
        ),
        (
            lambda: recipe(model=GPT2, sizes="{s: {num_attention_heads: 1}, xl: 64}"),
            r"train.sizes.s: attention heads of gpt2 do not nest",
        ),
        (
            lambda: recipe("train_teacher.model.hidden_size=32"),
            r"train_teacher.model.hidden_size must be divisible by num_attention_heads = 3, got 32",
        ),
        (lambda: recipe("score_teacher.top_k=2049"), r"score_teacher.top_k must be at most the vocabulary's 2048"),
        (
            lambda: recipe("extract_students.mixes={mid: {parameters: 10}}"),
            r"extract_students.mixes.mid.parameters must be at least the [\d,]+ of s, .* got 10",
        ),
        (
            lambda: recipe("extract_students.mixes={mid: {bytes: 1000000000}}"),
            r"extract_students.mixes.mid.bytes must be below the [\d,]+ of the TA",
        ),
        (
            lambda: recipe("evaluate.tasks={lambada_openai: {metric: f1}}"),
            r"evaluate.tasks.lambada_openai.metric must be one of acc, got 'f1'",
        ),
        (
            lambda: recipe("evaluate.tasks={humaneval: {}}"),
            r"evaluate.tasks.humaneval shows pictures or sounds, or runs code that a model wrote: leave it out",
        ),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_its_setting(made, message):
    with pytest.raises(UserError, match=f"^{message}"):
        check_models(made())


def test_a_budget_between_the_student_and_the_ta_is_none():
    check_models(recipe("extract_students.mixes={mid: {flops_per_token: 260000}, fast: {prefill_seconds: 0.001}}"))


def test_the_vocabulary_of_a_folder_is_its_largest_id_and_one(tmp_path):
    byte_tokenizer().save_pretrained(tmp_path / "tokenizer")
    assert vocabulary_of(load_recipe(overrides=[f"prepare_data.tokenizer={tmp_path}/tokenizer"])) == 257
    file = tmp_path / "tokenizer" / "tokenizer.json"
    text = json.loads(file.read_text())
    text["model"]["vocab"] = {token: 3 * number for token, number in text["model"]["vocab"].items()}
    file.write_text(json.dumps(text))
    assert vocabulary_of(load_recipe(overrides=[f"prepare_data.tokenizer={tmp_path}/tokenizer"])) == 3 * 256 + 1
    file.write_text("{")
    assert vocabulary_of(load_recipe(overrides=[f"prepare_data.tokenizer={tmp_path}/tokenizer"])) is None
    assert vocabulary_of(load_recipe(overrides=["prepare_data.tokenizer=gpt2"])) is None


def test_torch_is_imported_only_where_it_must_be():
    assert not needs_torch(recipe())
    assert not needs_torch(recipe(hidden_act="gelu_pytorch_tanh"))
    assert needs_torch(recipe(hidden_act="gelu"))
    assert needs_torch(recipe("extract_students.mixes={mid: {parameters: 10}}"))


def test_a_batch_divides_over_the_processes_that_the_profile_gives():
    cluster = load_cluster(CLUSTERS / "gke_h100.yaml")
    ranks = cluster.placement("train").nodes * cluster.placement("train").processes
    with pytest.raises(
        UserError, match=rf"^train.batch_size must be divisible by the number of processes, {ranks}, that"
    ):
        check(recipe(f"train.batch_size={ranks + 1}"), cluster)


@pytest.mark.parametrize(
    "command",
    [
        ["compile", "--output", "p.yaml"],
        ["run", "--output", "out"],
        ["submit", "--host", "http://localhost:1", "--cluster", "cluster"],
        ["schedule", "--name", "n", "--cron", "0 3 * * *", "--host", "http://localhost:1", "--cluster", "cluster"],
    ],
    ids=lambda command: command[0],
)  # fmt: skip
def test_every_command_tells_it_in_one_line_with_its_line_before_anything_is_written(command, tmp_path):
    text = DEFAULT_RECIPE.read_text().splitlines()
    line = next(n for n, line in enumerate(text) if line.startswith("train:"))
    model = next(n for n, one in enumerate(text) if n > line and one.startswith("  model:"))
    text[model] = "  model: {model_type: gpt2, hidden_size: 33, num_hidden_layers: 2, num_attention_heads: 4,"
    (tmp_path / "r.yaml").write_text("\n".join(text))
    profile = (CLUSTERS / "one_gpu.yaml").read_text().replace("sha256:" + 64 * "0", "sha256:" + 64 * "1")
    (tmp_path / "cluster").write_text(profile)
    run = [*COMMAND, *command, "--recipe", "r.yaml", "--set", "push.target=/mnt/matta/pushed"]
    result = subprocess.run(run, capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 2, result.stderr
    assert result.stderr == (
        "error: train.model.hidden_size must be divisible by num_attention_heads = 4, got 33 "
        f"(in line {model + 1} of r.yaml with --set push.target=/mnt/matta/pushed)\n"
    )
    assert {path.name for path in tmp_path.iterdir()} == {"r.yaml", "cluster"}


@quickly
@given(key=st.sampled_from([*SHAPE, "head_dim", "rope_parameters", "vocab_size", "layer_types", "x"]), value=fragments)
def test_any_model_is_taken_or_refused_in_one_line(key, value):
    try:
        checked = load_recipe(overrides=[f"train.model={json.dumps(SHAPE)}", f"train.model.{key}={value}"])
        check_models(checked)
    except UserError as error:
        assert len(str(error).splitlines()) == 1
