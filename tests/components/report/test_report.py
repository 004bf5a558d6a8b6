"""The page and the tables in Markdown: for people, and without a network."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from kfp import dsl

import components.report
from components.report.component import report as wrapper
from components.report.step import report
from matta_core.artifacts import MANIFEST, finish_artifact
from matta_core.errors import UserError

STYLE = Path(components.report.__file__).with_name("style.css.jinja")


def files_of(run, folder):
    artifact = report(**run, name="demo", output=folder / "report")
    return [(artifact.path / name).read_text() for name in ("report.html", "summary.md")]


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


def test_the_page_is_one_sound_file_that_asks_for_nothing_else(tmp_path, make_run, further_tasks):
    text, _ = files_of(make_run(tmp_path, tasks=further_tasks), tmp_path)
    page = Page(text)
    names = {name for name, _ in page.tags}
    assert not names & {"script", "link", "img", "iframe", "object"}
    assert not re.search(r"url\((?!#)|@import|https?:", text)


@pytest.mark.slow
def test_twenty_sizes_with_twelve_tasks_and_hundreds_of_slices_stay_below_two_megabytes(tmp_path, make_run):
    sizes = {f"size-{number}": 10**6 * (number + 1) for number in range(19)} | {"xl": 10**8}
    bits = {size: 3 - number / 50 for number, size in enumerate(sizes)} | {"teacher": 2.0}
    tasks = {f"task_{number}": ("acc", True, "accuracy", 0.02, 300) for number in range(12)}
    slices = [f"package_{number}" for number in range(300)]
    run = make_run(tmp_path, sizes=sizes, bits=bits, tasks=tasks, served=tuple(sizes), slices=slices)
    text, tables = files_of(run, tmp_path)
    assert len(text.encode()) < 2_000_000
    assert "288 more slices, of fewer documents" in tables


def test_ids_are_unique_and_figures_tables_and_regions_have_names(tmp_path, make_run, further_tasks):
    text, _ = files_of(make_run(tmp_path, tasks=further_tasks), tmp_path)
    page = Page(text)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    figures = page.attributes("svg")
    assert len(figures) == 2 * 4 + 1
    for figure in figures:
        assert figure["role"] == "img"
        assert {figure["aria-labelledby"], figure["aria-describedby"]} <= set(ids)
    assert len(page.attributes("caption")) == len(page.attributes("table"))
    assert all(attributes.get("scope") for attributes in page.attributes("th"))
    regions = [attributes for attributes in page.attributes("div") if attributes.get("role") == "region"]
    assert len(regions) == len(page.attributes("table")) + len(figures)
    assert all(region["tabindex"] == "0" for region in regions)
    assert all(region.get("aria-label") or region["aria-labelledby"] in ids for region in regions)
    names = [region.get("aria-label") or region["aria-labelledby"] for region in regions]
    assert len(names) == len(set(names))
    assert page.attributes("html") == [{"lang": "en"}]
    assert {link["href"].removeprefix("#") for link in page.attributes("a")} <= set(ids)


def test_both_tell_the_gates_reasons_and_escape_them(tmp_path, make_run):
    page, tables = files_of(make_run(tmp_path), tmp_path)
    assert "m was held: bits &lt; NaN &amp; worse" in page
    assert "2 of 3 students blessed, 2 pushed" in page
    assert r"m was held: bits \< NaN & worse" in tables
    assert "**2 of 3 students blessed, 2 pushed.**" in tables


def test_of_a_student_what_it_failed_comes_first(tmp_path, make_run):
    _, tables = files_of(make_run(tmp_path), tmp_path)
    section = tables.partition("## The gate's reasons")[2]
    first = next(line for line in section.splitlines() if line.startswith("| m |"))
    assert first.startswith("| m | non inferior, bits per byte, length=long | 0.05 | nan | **no** |")


def test_noise_is_called_noise_and_an_improvement_better(tmp_path, make_run):
    page, tables = files_of(make_run(tmp_path), tmp_path)
    assert '<span class="noise">noise</span>' in page
    row = next(line for line in tables.splitlines() if line.startswith("| s | bits per byte | all"))
    assert row == "| s | bits per byte | all | better | 2.340 | 2.310 | +0.031 | +0.004 to +0.058 | \\< 0.001 | 32 |"
    assert "for all 4 comparisons of this decision" in tables


def test_a_size_that_nothing_is_served_as_is_named(tmp_path, make_run):
    page, tables = files_of(make_run(tmp_path), tmp_path)
    assert "Nothing else was served as m: there was nothing to compare with." in page
    assert "Nothing else was served as m" in tables


def test_a_first_run_has_no_comparisons_but_all_else(tmp_path, make_run):
    page, _ = files_of(make_run(tmp_path, served=()), tmp_path)
    assert "Nothing else was served as s, m, xl" in page
    assert 'id="served-caption"' not in page
    assert 'class="mark served"' not in page


def test_where_nothing_was_pushed_the_headline_says_so(tmp_path, make_run, reseal):
    run = make_run(tmp_path)
    decision = json.loads((run["decision"] / "decision.json").read_text())
    record = json.loads((run["push_record"] / "push.json").read_text())
    for size in decision["students"]:
        decision["students"][size]["blessed"] = False
        record["students"][size] = record["students"]["m"]
    reseal(run, "decision", "decision.json", decision)
    reseal(run, "push_record", "push.json", record)
    page, tables = files_of(run, tmp_path)
    assert "<h1>No student was blessed, and none was pushed</h1>" in page
    assert "KServe" not in tables


def test_that_the_setting_for_a_first_push_is_left_on_stands_in_the_first_line(tmp_path, make_run, reseal):
    run = make_run(tmp_path)
    decision = json.loads((run["decision"] / "decision.json").read_text())
    reseal(run, "decision", "decision.json", decision | {"left_on": True})
    page, tables = files_of(run, tmp_path)
    headline = "2 of 3 students blessed, 2 pushed; gate.without_baseline is left on bless_on_thresholds"
    assert f"<h1>{headline}</h1>" in page
    assert tables.splitlines()[2].replace("\\", "") == f"**{headline}.**"


def test_a_decision_from_before_that_was_noted_is_reported(tmp_path, make_run, reseal):
    run = make_run(tmp_path)
    decision = json.loads((run["decision"] / "decision.json").read_text())
    del decision["left_on"]
    reseal(run, "decision", "decision.json", decision)
    page, _ = files_of(run, tmp_path)
    assert "<h1>2 of 3 students blessed, 2 pushed</h1>" in page


def test_paths_of_manifest_and_card_are_told_whole(tmp_path, make_run):
    page, tables = files_of(make_run(tmp_path), tmp_path)
    for path in ("/pushed/xl/versions/fedcba9876543210", tmp_path / "push_record" / "serving" / "xl.yaml"):
        assert f"<code>{path}</code>" in page
        assert f"`{path}`" in tables


def test_warnings_of_the_gate_and_failures_to_register_are_told(tmp_path, make_run):
    for text in files_of(make_run(tmp_path), tmp_path):
        assert "Warning: nothing but certificate is asked of xl, whatever its quality." in text
        assert "NOT registered: the registry answered 503" in text


def test_both_show_the_lineage_by_digest(tmp_path, make_run):
    run = make_run(tmp_path)
    for text in files_of(run, tmp_path):
        for path in run.values():
            assert json.loads((path / MANIFEST).read_text())["digest"] in text
        assert "e" * 64 in text


def test_a_table_in_markdown_has_as_many_cells_in_every_row(tmp_path, make_run, further_tasks):
    _, tables = files_of(make_run(tmp_path, tasks=further_tasks), tmp_path)
    blocks = re.findall(r"(?:^\|.*\n)+", tables, flags=re.MULTILINE)
    assert len(blocks) >= 12
    for block in blocks:
        lines = block.strip().splitlines()
        assert re.fullmatch(r"\|( ---:? \|)+", lines[1])
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1


def test_artifacts_of_different_runs_are_refused(tmp_path, make_run):
    run = make_run(tmp_path / "a")
    other = make_run(tmp_path / "b", sizes={"s": 1, "xl": 2})
    with pytest.raises(UserError, match=r"evaluation was not made from .*students: a report is of one run"):
        report(**run | {"evaluation": other["evaluation"]}, name="demo", output=tmp_path / "report")
    (other["dataset"] / "stats.json").write_text("[]")
    finish_artifact(other["dataset"], "TokenizedDataset", key="other")
    with pytest.raises(UserError, match=r"was not made from .*b/dataset: a report is of one run"):
        report(**run | {"dataset": other["dataset"]}, name="demo", output=tmp_path / "report")


def test_a_finished_report_is_reused_and_one_of_a_moved_run_is_made_anew(tmp_path, make_run, capsys):
    run = make_run(tmp_path / "a")
    first = report(**run, name="demo", output=tmp_path / "report-{key}")
    assert report(**run, name="demo", output=tmp_path / "report-{key}") == first
    assert "reused" in capsys.readouterr().out
    (tmp_path / "a").rename(tmp_path / "b")
    moved = {name: tmp_path / "b" / path.name for name, path in run.items()}
    again = report(**moved, name="demo", output=tmp_path / "report-{key}")
    summary = json.loads((again.path / "summary.json").read_text())
    assert summary["students"]["s"]["path"] == str(tmp_path / "b" / "students" / "s")


def test_kubeflow_gets_the_page_the_tables_and_scalars(tmp_path, make_run):
    run = make_run(tmp_path)
    given = {"push_record": "record"}
    inputs = {given.get(name, name): dsl.Artifact(uri=str(path)) for name, path in run.items()}
    page, tables, metrics, made = dsl.HTML(), dsl.Markdown(), dsl.Metrics(), dsl.Artifact()
    for output, name in ((page, "page"), (tables, "tables"), (made, "made")):
        output.uri = str(tmp_path / name)
    wrapper.python_func(
        store="", name="demo", **inputs, page=page, tables=tables, metrics=metrics, report=made,
        teacher_checkpoint=None, scores=None,
    )  # fmt: skip
    assert (tmp_path / "page").read_text() == (tmp_path / "made" / "report.html").read_text()
    assert (tmp_path / "tables").read_text().startswith("# MatTA: demo")
    assert metrics.metadata["matta_bits_per_byte/s"] == 2.31
    assert (metrics.metadata["pushed/s"], metrics.metadata["pushed/m"]) == (1.0, 0.0)
    assert made.metadata["kind"] == "Report"


def luminance(colour):
    """Relative luminance, WCAG 2.2."""
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a, b):
    light, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_text_has_a_contrast_of_4_5_and_marks_of_3(scheme):
    colours = [
        dict(re.findall(r"--(\w+): (#\w{6})", block))
        for block in re.findall(r":root \{(.*?)\}", STYLE.read_text(), re.DOTALL)
    ]
    assert len(colours) == 2
    assert colours[0].keys() == colours[1].keys()
    palette = colours[scheme]
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    for text in ("ink", "quiet", "good", "bad", "student"):  # links are in the students' colour
        assert contrast(palette[text], palette["paper"]) >= 4.5, text
    for mark in ("student", "teacher", "served", "small", "large", "axis"):
        assert contrast(palette[mark], palette["paper"]) >= 3, mark


def test_the_style_uses_only_the_colours_that_are_checked():
    rules = re.sub(r":root \{.*?\}", "", STYLE.read_text(), flags=re.DOTALL)
    assert not re.search(r"#[0-9a-fA-F]{3,8}\b|rgba?\(|hsla?\(|opacity", rules)
