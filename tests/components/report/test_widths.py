"""Students whose FFN width differs from layer to layer, and how their widths were found."""

import json

import pytest

from components.report.plot import DECODE, PARAMETERS
from components.report.sections import quality_points
from components.report.step import report

MIX = {
    "budget": {"parameters": 1_250_000},
    "cost": 1_200_000,
    "loss": 3.1234,
    "best_uniform": "s",
    "best_uniform_loss": 3.25,
    "evaluated": 12,
    "combinations": 81,
    "ended": "evaluations spent",
}


@pytest.fixture
def reported(tmp_path, make_run, reseal):
    """A run in which m has another width in each layer, and is padded beyond xl, with and without its compact form."""
    run = make_run(tmp_path)
    family = json.loads((run["students"] / "family.json").read_text())

    def make(path):
        compact = {"parameters": 1_200_000, "flops_per_token": 2_400_000, **path}
        family["students"]["m"] |= {
            "parameters": 1_800_000, "intermediate_sizes": [64, 512, 128], "compact": compact, "mix": MIX,
        }  # fmt: skip
        reseal(run, "students", "family.json", family)
        artifact = report(**run, name="demo", output=tmp_path / f"report-{len(path)}")
        return json.loads((artifact.path / "summary.json").read_text()), (artifact.path / "summary.md").read_text()

    return make


def test_the_report_tells_widths_budget_and_how_far_the_search_looked(reported):
    summary, text = reported({})
    assert list(summary["students"]) == ["s", "m", "xl"], "by what they learnt with, not by padding"
    assert summary["students"]["m"]["mix"] == MIX
    for told in ("64, 512, 128", "parameters 1,200,000 of 1,250,000", "3.1234", "3.2500 (s)", "12 of 81"):
        assert told in text, told
    assert "evaluations spent" in text


def test_a_run_without_such_students_tells_nothing_of_it(tmp_path, make_run):
    artifact = report(**make_run(tmp_path), name="demo", output=tmp_path / "report")
    assert "Widths by layer" not in (artifact.path / "summary.md").read_text()


@pytest.mark.parametrize("path", [{}, {"path": "compact/m"}])
def test_a_compact_checkpoint_is_a_point_at_its_own_cost_where_there_is_one(reported, path):
    summary, _ = reported(path)
    points = {point.name: point for point in quality_points(summary, "matta_bits_per_byte", PARAMETERS)}
    assert points["m"].cost == 1_800_000
    assert ("m compact" in points) == bool(path)
    if path:
        assert points["m compact"].cost == 1_200_000
        assert points["m compact"].value == points["m"].value
    names = [point.name for point in quality_points(summary, "matta_bits_per_byte", DECODE)]
    assert "m compact" not in names, "its latency was not measured"
