"""summary.json, the terminal's table, and the scalars for Kubeflow."""

import io
import json
import math

import pytest
from rich.console import Console

from components.report.formats import (
    duration,
    milliseconds,
    plain,
    probability,
    scaled,
    setting_text,
    signed,
    signed_interval,
)
from components.report.step import report
from components.report.summary import scalars, training_curves
from components.report.table import pushed_lines, summary_table, terminal_columns, terminal_rows
from matta_core.artifacts import finish_artifact


def summary_of(run, folder):
    artifact = report(**run, name="demo", output=folder / "report")
    return json.loads((artifact.path / "summary.json").read_text())


def test_a_student_has_every_figure_of_the_run(tmp_path, make_run):
    summary = summary_of(make_run(tmp_path), tmp_path)
    student = summary["students"]["s"]
    assert student["path"] == str(tmp_path / "students" / "s")
    assert (student["parameters"], student["bytes"], student["flops_per_token"]) == (900_000, 3_600_000, 1_800_000)
    assert student["tasks"] == {
        "matta_bits_per_byte": {"value": 2.31, "standard_error": 0.02, "questions": 160, "documents": 32},
        "matta_last_token": {"value": 0.6 - 0.231, "standard_error": 0.034, "questions": 200, "documents": 40},
    }
    assert student["decode"]["1"] == pytest.approx({"seconds_per_token": 0.002, "tokens_per_second": 555.6}, rel=1e-3)
    assert student["prefill"].keys() == {"1", "8"}
    assert student["peak_memory_bytes"] == 27_000_000
    assert (student["blessed"], student["held_because"]) == (True, [])
    assert student["pushed_to"] == "/pushed/s/versions/fedcba9876543210"


def test_the_baseline_stands_beside_the_student_with_the_verdicts(tmp_path, make_run):
    summary = summary_of(make_run(tmp_path), tmp_path)
    baseline = summary["students"]["s"]["baseline"]
    assert (baseline["name"], baseline["version"], baseline["parameters"]) == (
        "baseline-s",
        "0123456789abcdef",
        900_000,
    )
    assert baseline["tasks"]["matta_bits_per_byte"]["value"] == pytest.approx(2.34)
    verdicts = [(one["task"], one["verdict"]) for one in summary["students"]["s"]["comparisons"]]
    assert verdicts == [("matta_bits_per_byte", "better"), ("matta_last_token", "noise")]
    assert (summary["students"]["m"]["baseline"], summary["students"]["m"]["comparisons"]) == (None, [])
    assert summary["baseline_target"] == "/pushed"


def test_ta_and_teacher_have_the_shape_of_a_student(tmp_path, make_run):
    summary = summary_of(make_run(tmp_path), tmp_path)
    assert summary["ta"] == summary["students"]["xl"] | {"size": "xl"}
    assert summary["teacher"].keys() == summary["students"]["s"].keys()


def test_a_student_that_was_held_says_why(tmp_path, make_run):
    held = summary_of(make_run(tmp_path), tmp_path)["students"]["m"]
    assert (held["blessed"], held["pushed_to"], held["held_because"]) == (False, None, ["bits < NaN & worse"])


def test_seconds_are_of_the_steps_and_their_sum(tmp_path, make_run):
    summary = summary_of(make_run(tmp_path), tmp_path)
    assert summary["seconds"] == {
        "prepare_data": 20.0,
        "train": 200.0,
        "extract_students": 5.0,
        "evaluate": 60.0,
        "gate": 1.0,
        "push": 10.0,
    }
    assert summary["total_seconds"] == 296.0


def test_a_teacher_from_elsewhere_has_figures_but_no_path(tmp_path, make_run):
    teacher = summary_of(make_run(tmp_path), tmp_path)["teacher"]
    assert (teacher["parameters"], teacher["tasks"]["matta_bits_per_byte"]["value"]) == (4_900_000, 2.05)
    assert [teacher[name] for name in ("path", "flops_per_token", "blessed", "pushed_to", "baseline")] == [None] * 5


def test_a_teacher_trained_here_has_the_flops_that_its_training_counted(tmp_path, make_run):
    summary = summary_of(make_run(tmp_path, teacher_flops=12_345), tmp_path)
    assert summary["teacher"]["flops_per_token"] == 12_345
    assert summary["teacher"]["path"] == str(tmp_path / "teacher_checkpoint" / "ta")
    assert summary["seconds"]["train_teacher"] == 100.0


def test_figures_that_are_missing_or_not_finite_are_null_and_page_and_tables_still_come(tmp_path, make_run, reseal):
    run = make_run(tmp_path)
    results = json.loads((run["evaluation"] / "results.json").read_text())
    del results["models"]["s"], results["models"]["teacher"], results["models"]["xl"]["decode"]
    results["models"]["m"]["tasks"]["matta_bits_per_byte"]["value"] = None
    results["models"]["m"]["tasks"].pop("matta_last_token")
    del results["models"]["m"]["peak_memory_bytes"]
    reseal(run, "evaluation", "results.json", results)
    summary = summary_of(run, tmp_path)
    students = summary["students"]
    assert students["s"]["tasks"]["matta_bits_per_byte"]["value"] is None
    assert students["m"]["tasks"]["matta_last_token"]["value"] is None
    assert (students["s"]["parameters"], students["s"]["decode"], students["xl"]["decode"]) == (900_000, None, None)
    assert [row[5] for row in terminal_rows(summary)] == ["–", "–", "2.160 ± 0.020", "–"]  # noqa: RUF001
    json.dumps(summary, allow_nan=False)


def test_a_ta_that_was_not_extracted_is_null(tmp_path, make_run):
    run = make_run(tmp_path, sizes={"s": 1, "m": 2}, bits={"s": 2.3, "m": 2.2, "teacher": 2.0}, served=())
    assert summary_of(run, tmp_path)["ta"] is None


def test_curves_are_of_the_figure_that_the_checkpoint_names(tmp_path):
    rows = [{"step": 0, "eval/squared_error/s": 2.0, "eval/other/s": 5.0}, {"step": 4, "eval/squared_error/s": 1.0}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    alone = tmp_path / "consolidation" / "s" / "metrics.jsonl"
    alone.parent.mkdir(parents=True)
    alone.write_text(json.dumps({"step": 2, "eval/squared_error/s": 0.5}) + "\n")
    checkpoint = finish_artifact(tmp_path, "MattaCheckpoint", key="k", metadata={"figure": "squared_error", "steps": 4})
    assert training_curves(checkpoint, ["s", "xl"]) == {"s": [(0, 2.0), (4, 1.0), (6, 0.5)]}


def test_the_terminal_table_has_a_row_per_model_and_two_tasks_within_80_columns(tmp_path, make_run, further_tasks):
    summary = summary_of(make_run(tmp_path, tasks=further_tasks), tmp_path)
    rows = terminal_rows(summary)
    assert [row[0] for row in rows] == ["s (Student)", "m", "xl (TA)", "Teacher"]
    assert rows[1] == ("m", "1.2 M", "4.8 MB", "2.4 M", "2.67", "2.220 ± 0.020", "37.8% ± 3.4%", "no")
    assert terminal_columns(summary)[5:7] == ["bits per byte", "last token"]
    console = Console(width=80, file=io.StringIO())
    console.print(summary_table(summary))
    shown = console.file.getvalue()
    assert all(cell.replace(" ± ", "±") in shown for row in rows for cell in row)  # nothing is cut off
    assert max(map(len, shown.splitlines())) <= 80
    assert pushed_lines(summary) == [
        "s: /pushed/s/versions/fedcba9876543210",
        "m: not pushed, not blessed: bits < NaN & worse",
        "xl: /pushed/xl/versions/fedcba9876543210",
    ]


def test_the_terminal_says_that_the_setting_for_a_first_push_is_left_on(tmp_path, make_run):
    summary = summary_of(make_run(tmp_path), tmp_path)
    for left_on in (False, True):
        console = Console(width=80, file=io.StringIO())
        console.print(summary_table(summary | {"left_on": left_on}))
        said = "gate.without_baseline is left on bless_on_thresholds" in console.file.getvalue()
        assert said is left_on


def test_scalars_are_by_task_and_size_with_what_was_blessed_and_pushed(tmp_path, make_run):
    values = scalars(summary_of(make_run(tmp_path), tmp_path))
    assert values["matta_bits_per_byte/s"] == 2.31
    assert (values["blessed/s"], values["pushed/s"]) == (1.0, 1.0)
    assert (values["blessed/m"], values["pushed/m"]) == (0.0, 0.0)
    assert values["decode_seconds_per_token/s"] == pytest.approx(0.002)
    assert all(isinstance(value, float) and math.isfinite(value) for value in values.values())


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0, "", "0"),
        (999, "", "999"),
        (999.96, "", "1.0 k"),
        (1_234_567, "", "1.2 M"),
        (4_900_000, "B", "4.9 MB"),
        (3_100_000, "FLOP", "3.1 MFLOP"),
        (999_990_000, "B", "1.0 GB"),
        (12_345, "", "12.3 k"),
    ],
)
def test_units_are_scaled_by_thousands(value, unit, text):
    assert scaled(value, unit) == text


@pytest.mark.parametrize(("seconds", "text"), [(0.04, "0.0 s"), (75, "1 min 15 s"), (3660, "1 h 1 min")])
def test_durations_are_told_in_words(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.002, "2.00 ms"), (0.0123, "12.3 ms"), (0.1234, "123 ms"), (1.5, "1,500 ms")]
)
def test_latencies_have_three_digits(seconds, text):
    assert milliseconds(seconds) == text


def test_differences_have_a_sign_and_accuracies_are_in_points():
    assert signed(-0.0123, "accuracy") == "-1.2 points"
    assert signed_interval([-0.01, 0.02], "bits per byte") == "-0.010 to +0.020"
    assert signed_interval([-0.01, 0.02], "accuracy") == "-1.0 to +2.0 points"
    assert signed_interval(["nan", 0.02], "accuracy") == signed("nan", "") == "–"  # noqa: RUF001


def test_a_p_value_is_never_written_as_zero():
    assert [probability(value) for value in (0.0, 0.0004, 0.25)] == ["< 0.001", "< 0.001", "0.250"]


def test_settings_are_written_plainly():
    texts = [setting_text(value) for value in (True, 1_200_000, 2.30000001, [0.1, "nan"], "nan")]
    assert texts == ["yes", "1,200,000", "2.3", "0.1 to nan", "nan"]
    assert plain(0.123, "accuracy") == "12.3%"
