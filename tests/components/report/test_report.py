"""The report: figures for programs, a page for people, and nothing that needs a network."""

import io
import json
import math
import re
from html.parser import HTMLParser

import pytest
from rich.console import Console

from components.report.step import report
from components.report.table import COLUMNS, duration, pushed_lines, scaled, summary_table, table_rows
from matta_core.artifacts import MANIFEST, finish_artifact
from matta_core.errors import UserError

SIZES = {"s": 900_000, "m": 1_200_000, "xl": 1_700_000}
BITS = {"s": 2.31, "m": 2.22, "xl": 2.16, "teacher": 2.05}


def make_run(folder, teacher_config=None, sizes=SIZES, bits=BITS):
    """The artifacts of a run by the names of report's parameters, m not blessed."""
    made = {}

    def artifact(name, kind, files, inputs=(), seconds=1.0):
        path = folder / name
        for file, content in files.items():
            (path / file).parent.mkdir(parents=True, exist_ok=True)
            (path / file).write_text(content if isinstance(content, str) else json.dumps(content))
        digests = {source: made[source].digest for source in inputs}
        made[name] = finish_artifact(path, kind, key=name, inputs=digests, seconds=seconds)

    artifact("dataset", "TokenizedDataset", {"stats.json": {}}, seconds=20.0)
    if teacher_config is not None:
        nesting = {"sizes": {"teacher": teacher_config.n_inner}, "sequence_length": 32}
        files = {
            "ta/config.json": teacher_config.to_json_string(),
            "ta/model.safetensors": "x" * 1000,
            "nesting.json": nesting,
            "metrics.jsonl": "",
        }
        artifact("teacher_checkpoint", "MattaCheckpoint", files, ["dataset"], seconds=100.0)
    rows = [
        {"step": step}
        | {f"eval/cross_entropy/{size}": 3 + n / 9 + 4 * math.exp(-step / 150) for n, size in enumerate(sizes)}
        for step in range(0, 801, 50)
    ]
    metrics = "".join(json.dumps(row) + "\n" for row in rows)
    artifact("checkpoint", "MattaCheckpoint", {"metrics.jsonl": metrics}, ["dataset"], seconds=200.0)
    members = {
        size: {
            "path": size,
            "parameters": count,
            "bytes": 4 * count,
            "flops_per_token": 2 * count,
            "certificate": {"bitwise_equal": True},
        }
        for size, count in sizes.items()
    }
    family = {"student": "s", "ta": "xl", "students": members}
    artifact("students", "StudentFamily", {"family.json": family}, ["checkpoint"], seconds=5.0)
    models = {
        name: {
            "parameters": sizes.get(name, 4_900_000),
            "bits_per_byte": {"value": value, "standard_error": 0.02, "documents": 32},
            "accuracy": {"value": 0.6 - value / 10, "standard_error": 0.034, "documents": 200},
            "tokens_per_second": 12_345.6,
        }
        for name, value in bits.items()
    }
    results = {"evaluation_set": "e" * 64, "models": models}
    artifact("evaluation", "EvaluationReport", {"results.json": results}, ["students"], seconds=60.0)
    checks = [
        {"check": "certificate", "threshold": True, "value": True, "passed": True, "why": "bit for bit"},
        {"check": "monotone", "threshold": 2.1, "value": "nan", "passed": False, "why": "bits < NaN & worse"},
    ]
    verdicts = {size: {"blessed": size != "m", "checks": checks[: 1 + (size == "m")]} for size in sizes}
    decision = {"students": verdicts, "blessed": [size for size in sizes if size != "m"], "evaluation_set": "e"}
    artifact("decision", "GateDecision", {"decision.json": decision}, ["evaluation", "students"])
    record = {
        size: {"pushed": size != "m", "path": None if size == "m" else f"/pushed/{size}/versions/0"} for size in sizes
    }
    artifact("push_record", "PushRecord", {"push.json": {"students": record}}, ["decision", "students"], 10.0)
    return {name: item.path for name, item in made.items()}


def summary_of(artifact):
    return json.loads((artifact.path / "summary.json").read_text())


class Page(HTMLParser):
    """Checks that tags are closed in order; collects tags, attributes and text."""

    VOID = frozenset({"meta", "br", "link", "img"})

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.text = [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    def attributes(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def test_the_summary_holds_every_figure_of_the_table(tmp_path):
    run = make_run(tmp_path)
    summary = summary_of(report(**run, name="demo", output=tmp_path / "report"))
    assert summary["students"]["s"] == {
        "path": str(tmp_path / "students" / "s"),
        "parameters": 900_000,
        "bytes": 3_600_000,
        "flops_per_token": 1_800_000,
        "tokens_per_second": 12_345.6,
        "bits_per_byte": 2.31,
        "bits_per_byte_standard_error": 0.02,
        "accuracy": 0.6 - 0.231,
        "accuracy_standard_error": 0.034,
        "blessed": True,
        "pushed_to": "/pushed/s/versions/0",
    }
    assert (summary["students"]["m"]["blessed"], summary["students"]["m"]["pushed_to"]) == (False, None)
    assert summary["ta"] == summary["students"]["xl"] | {"size": "xl"}
    assert summary["seconds"] == {
        "prepare_data": 20.0,
        "train": 200.0,
        "extract_students": 5.0,
        "evaluate": 60.0,
        "gate": 1.0,
        "push": 10.0,
    }
    assert summary["total_seconds"] == 296.0


def test_a_teacher_from_elsewhere_has_figures_but_no_path_and_no_size(tmp_path):
    run = make_run(tmp_path)
    teacher = summary_of(report(**run, name="demo", output=tmp_path / "report"))["teacher"]
    assert (teacher["parameters"], teacher["bits_per_byte"]) == (4_900_000, 2.05)
    unknown = ("path", "bytes", "flops_per_token", "blessed", "pushed_to")
    assert [teacher[name] for name in unknown] == [None] * 5


@pytest.mark.slow
def test_a_teacher_trained_here_has_bytes_and_flops_by_the_rule_of_the_students(tmp_path):
    from transformers import GPT2Config

    hidden, inner, layers, vocab, length = 8, 32, 2, 100, 32
    config = GPT2Config(n_embd=hidden, n_inner=inner, n_layer=layers, n_head=2, vocab_size=vocab, n_positions=length)
    run = make_run(tmp_path, config)
    summary = summary_of(report(**run, name="demo", output=tmp_path / "report"))
    weights = layers * (4 * hidden * hidden + 2 * hidden * inner) + vocab * hidden
    assert summary["teacher"]["flops_per_token"] == 2 * weights + 4 * length * hidden * layers
    assert summary["teacher"]["bytes"] == 1000
    assert summary["teacher"]["path"] == str(tmp_path / "teacher_checkpoint" / "ta")
    assert summary["seconds"]["train_teacher"] == 100.0


def test_figures_that_are_missing_or_not_finite_are_null_and_the_page_still_comes(tmp_path):
    run = make_run(tmp_path)
    results = json.loads((run["evaluation"] / "results.json").read_text())
    del results["models"]["s"], results["models"]["teacher"]
    results["models"]["m"]["bits_per_byte"]["value"] = math.nan
    reseal(run, "evaluation", "results.json", results)
    artifact = report(**run, name="demo", output=tmp_path / "report")
    summary = summary_of(artifact)
    assert summary["students"]["s"]["bits_per_byte"] is None
    assert summary["students"]["m"]["bits_per_byte"] is None
    assert summary["students"]["s"]["parameters"] == 900_000
    assert [row[5] for row in table_rows(summary)] == ["–", "–", "2.160 ± 0.020", "–"]  # noqa: RUF001
    Page((artifact.path / "report.html").read_text())


def reseal(run, name, file, content):
    """Replace a file of an artifact, and seal anew what was made from it."""
    (run[name] / file).write_text(json.dumps(content))
    digests = {}
    for artifact in run:
        manifest = json.loads((run[artifact] / MANIFEST).read_text())
        inputs = {source: digests[source] for source in manifest["inputs"]}
        (run[artifact] / MANIFEST).unlink()
        made = finish_artifact(run[artifact], manifest["kind"], key=artifact, inputs=inputs)
        digests[artifact] = made.digest


def test_a_ta_that_was_not_extracted_is_null(tmp_path):
    run = make_run(tmp_path, sizes={"s": 1, "m": 2}, bits={"s": 2.3, "m": 2.2, "teacher": 2.0})
    artifact = report(**run, name="demo", output=tmp_path / "report")
    assert summary_of(artifact)["ta"] is None


def test_the_page_is_one_sound_file_that_asks_for_nothing_else(tmp_path):
    run = make_run(tmp_path)
    text = (report(**run, name="demo", output=tmp_path / "report").path / "report.html").read_text()
    page = Page(text)
    names = {name for name, _ in page.tags}
    assert not names & {"script", "link", "img", "iframe", "object"}
    assert not re.search(r"url\((?!#)|@import|https?:", text)
    assert len(text) < 200_000


def test_the_page_can_be_read_without_seeing_it(tmp_path):
    run = make_run(tmp_path)
    page = Page((report(**run, name="demo", output=tmp_path / "report").path / "report.html").read_text())
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for figure in page.attributes("svg"):
        assert figure["role"] == "img"
        assert set(figure["aria-labelledby"].split()) <= set(ids)
    assert len(page.attributes("svg")) == 2
    assert len(page.attributes("caption")) == len(page.attributes("table")) == 3
    assert all(attributes.get("scope") for attributes in page.attributes("th"))
    assert page.attributes("html") == [{"lang": "en"}]
    description = "s: 900.0 k parameters, 2.310 ± 0.020 bits per byte; m (not blessed): 1.2 M parameters"
    assert description in "".join(page.text)


def test_the_page_tells_the_gates_reasons_and_escapes_them(tmp_path):
    run = make_run(tmp_path)
    text = (report(**run, name="demo", output=tmp_path / "report").path / "report.html").read_text()
    assert "bits &lt; NaN &amp; worse" in text
    assert "2 of 3 students blessed, 2 pushed" in text
    assert "/pushed/xl/versions/0" in text


def test_the_page_shows_the_lineage_by_digest(tmp_path):
    run = make_run(tmp_path)
    text = (report(**run, name="demo", output=tmp_path / "report").path / "report.html").read_text()
    for path in run.values():
        assert json.loads((path / MANIFEST).read_text())["digest"] in text


def test_artifacts_of_different_runs_are_refused(tmp_path):
    run = make_run(tmp_path / "a")
    other = make_run(tmp_path / "b", sizes={"s": 1, "xl": 2})
    with pytest.raises(UserError, match=r"evaluation was not made from .*students: a report is of one run"):
        report(**run | {"evaluation": other["evaluation"]}, name="demo", output=tmp_path / "report")


def test_a_finished_report_is_reused_and_one_of_a_moved_run_is_made_anew(tmp_path, capsys):
    run = make_run(tmp_path / "a")
    first = report(**run, name="demo", output=tmp_path / "report-{key}")
    assert report(**run, name="demo", output=tmp_path / "report-{key}") == first
    assert "reused" in capsys.readouterr().out
    (tmp_path / "a").rename(tmp_path / "b")
    moved = {name: tmp_path / "b" / path.name for name, path in run.items()}
    again = report(**moved, name="demo", output=tmp_path / "report-{key}")
    assert summary_of(again)["students"]["s"]["path"] == str(tmp_path / "b" / "students" / "s")


def test_the_terminal_table_has_a_row_per_model_in_human_units(tmp_path):
    run = make_run(tmp_path)
    summary = summary_of(report(**run, name="demo", output=tmp_path / "report"))
    rows = table_rows(summary)
    assert [row[0] for row in rows] == ["s (Student)", "m", "xl (TA)", "Teacher"]
    assert rows[1] == (
        "m",
        "1.2 M",
        "4.8 MB",
        "2.4 M",
        "12.3 k",
        "2.220 ± 0.020",
        "37.8% ± 3.4%",
        "no",
        "no",
    )
    console = Console(width=80, file=io.StringIO())
    console.print(summary_table(summary))
    shown = console.file.getvalue()
    assert all(cell.replace(" ± ", "±") in shown for row in rows for cell in row)  # nothing is cut off
    assert len(COLUMNS) == len(rows[0])
    assert pushed_lines(summary) == ["s: /pushed/s/versions/0", "xl: /pushed/xl/versions/0"]


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
