"""A plan's figures are products of what is assumed and what shapes say, and its mistakes are one line."""

import json

import pytest

from components.common.command_line import DEFAULT_RECIPE, load_recipe
from matta_core.errors import UserError
from matta_core.machines import GPUS, Machine, gpu_called
from pipelines.planning.assumptions import Assumptions
from pipelines.planning.machines import machine_named
from pipelines.planning.plan import Planner, Prices, StepPlan

GPU = Machine("gpu", 1e12, 1e9)
GPT2_MEDIUM = DEFAULT_RECIPE.parent / "gpt2_medium.yaml"


def planned(*overrides, recipe=DEFAULT_RECIPE, ranks=1, assumed=None, tokens=10**6, **settings):
    planner = Planner(load_recipe(recipe, list(overrides)), GPU, ranks, assumed or Assumptions(), tokens, **settings)
    return {step.name: step for step in planner.steps()}


def test_training_takes_its_flops_over_peak_and_share_of_it_divided_over_the_ranks():
    one, four = planned()["train"], planned(ranks=4)["train"]
    assert one.seconds == pytest.approx(one.flops / (0.35 * 1e12))
    assert four.seconds == pytest.approx(one.seconds / 4)
    assert (one.gpus, four.gpus) == (1, 4)
    assert one.tokens == 500 * 16 * 128


def test_the_demos_teacher_by_hand():
    """192 wide, two layers, FFN 1,024, vocabulary 2,048; 400 steps of 16 sequences of 128, validated five times."""
    trunk = 2 * 2 * (4 * 192**2 + 2 * 192 * 1024) + 2 * 4 * 128 * 192
    forward = 128 * trunk + 127 * 2 * 192 * 2048
    steps = planned()
    assert steps["train_teacher"].flops == 400 * 16 * 3 * forward + 5 * 64 * forward
    assert steps["score_teacher"].flops == 10**6 * (trunk + 2 * 192 * 2048)


def test_what_is_trained_from_a_later_step_on_and_on_fewer_sequences_costs_less():
    everything, usual, alone = (
        planned("train.consolidation.steps_fraction=0", *settings)["train"].flops
        for settings in (
            ["train.nest_from=0", "train.shares=all"],
            [],
            ["train.nest_from=0.99", "train.shares=all"],
        )
    )
    assert alone < usual < everything


def test_consolidation_adds_each_size_alone():
    without, with_one, with_all = (
        planned(f"train.consolidation.{setting}")["train"].flops
        for setting in ("steps_fraction=0", "sizes=[s]", "sizes=null")
    )
    assert without < with_one < with_all


def test_the_teachers_cache_grows_with_tokens_top_k_and_samples():
    settings = ["score_teacher.top_k=10", "score_teacher.tail_samples=20"]
    assert planned(*settings)["score_teacher"].disk_bytes == 10**6 * (22 + 28)
    measured = planned(*settings, assumed=Assumptions(cache_bytes_per_token=7.0))
    assert measured["score_teacher"].disk_bytes == 10**6 * 7


def test_a_teacher_that_scores_in_training_costs_its_forward_pass_there_and_its_weights():
    cached = planned("train.consolidation.steps_fraction=0")
    online = planned("train.consolidation.steps_fraction=0", "score_teacher.online=true")
    per_token = cached["score_teacher"].flops // 10**6
    assert "score_teacher" not in online
    assert online["train"].flops - cached["train"].flops == cached["train"].tokens * per_token
    assert online["train"].memory.teacher == cached["score_teacher"].memory.weights


def test_beam_workers_share_the_bytes():
    assumed = Assumptions(bytes_per_token=3.0, worker_bytes_per_second=1e6)
    step = planned("prepare_data.num_workers=4", "prepare_data.validation_fraction=0.25", assumed=assumed)
    step = step["prepare_data"]
    assert step.tokens == 10**6
    assert step.worker_seconds == pytest.approx(10**6 * 3.0 / 0.75 / 1e6)
    assert step.seconds == pytest.approx(step.worker_seconds / 4)


def test_costs_are_hours_times_prices():
    prices = Prices(gpu_hour=2.0, worker_hour=0.5)
    assert prices.of(StepPlan("train", gpus=8, seconds=1800.0)) == 8.0
    assert prices.of(StepPlan("prepare_data", seconds=10.0, worker_seconds=7200.0)) == 1.0


def test_a_teacher_elsewhere_is_known_by_its_parameters():
    step = planned(recipe=GPT2_MEDIUM, ranks=8, teacher_parameters=10**9)["score_teacher"]
    assert step.flops == 10**6 * 2 * 10**9
    with pytest.raises(UserError, match=r"score_teacher\.teacher is .*gpt2-xl.*give --teacher-parameters"):
        planned(recipe=GPT2_MEDIUM, ranks=8)


def test_files_on_this_disk_tell_how_much_text_there_is(tmp_path):
    for number in range(4):
        (tmp_path / f"{number}.txt").write_text("x" * 10_000)
    (tmp_path / "rows.jsonl.gz").write_bytes(b"x" * 1000)
    source = f"prepare_data.source={tmp_path}/*.txt"
    for overrides, kept in (
        ([source, "prepare_data.max_documents=null"], 40_000),
        ([source, "prepare_data.max_documents=2"], 20_000),
        ([f"prepare_data.source={tmp_path}/*"], 43_000),
    ):
        step = planned(*overrides, "prepare_data.validation_fraction=0.5", tokens=None)["prepare_data"]
        assert step.tokens == kept * 0.5 / 4.0


@pytest.mark.parametrize("source", ["gs://bucket/*.jsonl", "/nowhere/*.txt"])
def test_text_elsewhere_is_asked_for(source):
    with pytest.raises(UserError, match=r"prepare_data\.source.*give --tokens"):
        planned(f"prepare_data.source={source}", tokens=None)


def test_ranks_that_do_not_divide_a_batch_are_refused():
    with pytest.raises(UserError, match=r"batch_size must be divisible by the number of GPUs, 3, got 16"):
        planned(ranks=3)


def test_an_unknown_gpu_is_told_which_are_known_and_may_be_given_by_its_figures():
    known = r"a100-40, a100-80, .*h100, h200.*l4.*cpu, got 'rtx'.*--peak-flops.*--memory-bytes"
    for figures in ((None, None), (1e14, None), (None, 1e10)):
        with pytest.raises(UserError, match=known):
            machine_named("rtx", *figures)
    assert machine_named("rtx", 1e14, 1e10) == Machine("rtx", 1e14, 1e10)
    assert machine_named("h100", None, 94e9) == Machine("h100", 989e12, 94e9)


def test_this_machine_is_measured():
    cpu = machine_named("cpu", None, None)
    assert 1e9 < cpu.peak_flops < 1e15
    assert machine_named("cpu", 1e11, None).peak_flops == 1e11


@pytest.mark.parametrize(
    ("called", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA A100-SXM4-40GB", "a100-40"),
        ("NVIDIA A100 80GB PCIe", "a100-80"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA B200", "b200"),
        ("NVIDIA L4", "l4"),
        ("NVIDIA L40S", "l40s"),
    ],
)
def test_gpus_are_known_by_torchs_name_of_them(called, name):
    assert gpu_called(called) == GPUS[name]


def test_a_gpu_that_no_data_sheet_here_tells_of_has_no_peak():
    assert gpu_called("NVIDIA GeForce RTX 4090") is None


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"training_mfu": 1.5}, "--training-mfu must be <= 1"),
        ({"bytes_per_token": 0.0}, "--bytes-per-token must be > 0"),
    ],
)
def test_assumptions_have_bounds(settings, told):
    with pytest.raises(UserError, match=told):
        Assumptions(**settings)


def test_the_command_prints_a_line_per_step_with_its_assumptions(command):
    status, shown, _ = command(
        "plan", "--gpu", "h100", "--gpus", 2, "--nodes", 2, "--price-gpu-hour", 3, "--tokens", "1e6"
    )
    assert status == 0
    assert "demo on 4 x h100" in shown
    for step in ("prepare_data", "train_teacher", "score_teacher", "train", "evaluate", "in all"):
        assert f"│ {step} " in shown
    assert "not planned: extract_students, gate, push, report" in shown
    assert "0.35 of the peak in training" in shown


def test_the_command_prints_json_for_programs(command):
    status, shown, _ = command("plan", "--gpu", "l4", "--tokens", "1e6", "--training-mfu", 0.5, "--json")
    plan = json.loads(shown)
    assert status == 0
    assert (plan["gpus"], plan["assumptions"]["training_mfu"]) == (1, 0.5)
    train = next(step for step in plan["steps"] if step["name"] == "train")
    assert train["seconds"] == pytest.approx(train["flops"] / (121e12 * 0.5))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--gpu", "v1"], "--gpu must be one of"),
        (["--gpus", "0"], "--gpus must be >= 1, got 0"),
        (["--tokens", "0.5"], "must be a whole number >= 1, got 0.5"),
        (["--gpu", "l4", "--gpus", "3"], "train_teacher.batch_size must be divisible by the number of GPUs, 3, got 16"),
        (["--calibrate", "nowhere"], "--calibrate nowhere holds no finished training"),
    ],
)
def test_a_mistake_is_one_line(command, arguments, told):
    status, _, said = command("plan", *arguments)
    assert status == 2
    assert told in said
    assert said.count("\n") == 1
