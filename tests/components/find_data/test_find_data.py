"""find_data and record_span as a run calls them, and their command."""

import json
import subprocess
import sys

import pytest

from components.common.storage.open_storage import open_storage
from components.find_data.ledger import read_entry
from components.find_data.step import find_data, finish, give_up, renew, span_of, status
from matta_core.artifacts import finish_artifact
from matta_core.errors import UserError
from matta_core.recipe import PushConfig, Recipe, RetrainConfig


@pytest.fixture
def sections(target):
    """The prefix lies in the target's bucket or directory, beside what is pushed."""
    return {
        "config": RetrainConfig(prefix=f"{target}/data"),
        "push_config": PushConfig(target=f"{target}/pushed"),
        "name": "nightly",
    }


@pytest.fixture
def add_span(sections):
    def add(day, *names):
        storage = open_storage(sections["config"].prefix)
        for name in names or ("a.jsonl", "b.jsonl", "_SUCCESS"):
            storage.write(f"span=2024-11-{day}/{name}", b'{"text": "one"}', expected=None)

    return add


def test_two_nights_and_one_without_data(sections, add_span, capsys):
    add_span(23)
    first = find_data(**sections, run="run-1")
    prefix = sections["config"].prefix
    assert (first.span, first.source) == ("span=2024-11-23", f"{prefix}/span=2024-11-23/*.jsonl")
    assert span_of(sections["config"], first.source) == first.span
    assert "[find_data] span=2024-11-23 is new: 2 files; run run-1 holds the lease" in capsys.readouterr().out
    finish(**sections, run="run-1", span=first.span, pushed=["s"])
    assert "[record_span] span=2024-11-23 is processed; pushed: s\n" in capsys.readouterr().out

    idle = find_data(**sections, run="run-2")
    assert (idle.span, idle.source) == (None, None)
    assert "this run ends here, with nothing to do: nothing new: " in capsys.readouterr().out

    add_span(24)
    assert find_data(**sections, run="run-3").span == "span=2024-11-24"
    lines = status(**sections)
    assert lines[0].startswith("nightly in ")
    assert lines[1].startswith("  lease: run run-3 (")
    assert lines[2].startswith("  span=2024-11-23 processed at 20")
    assert lines[2].endswith("by run run-1; pushed: s")


def test_a_span_of_the_future_is_neither_noted_as_processed_nor_renewed(sections):
    for use in (lambda **given: finish(**given, pushed=[]), renew):
        with pytest.raises(UserError, match=r"span=2942-11-24 is dated in the future"):
            use(**sections, run="one", span="span=2942-11-24")
    assert read_entry(open_storage(sections["push_config"].target), "nightly")["processed"] == []


def test_without_a_complete_span_there_is_nothing_to_do(sections, add_span):
    add_span(24, "a.jsonl")
    assert find_data(**sections, run="one").why == f"no complete span under {sections['config'].prefix}"
    add_span(25)
    late = find_data(**sections, run="one", scheduled_time="20241123020000")
    assert late.why.endswith("/data up to 20241123020000")


def test_a_run_that_waits_for_no_one_ends_and_says_who_is_at_work(sections, add_span):
    add_span(23)
    find_data(**sections, run="one")
    assert find_data(**sections, run="two").why.startswith("another run of 'nightly' is at work: run one (")
    assert find_data(**sections, run="one").source is not None  # the same step, tried again


def test_a_span_without_a_matching_file_is_a_mistake_and_takes_no_lease(sections, add_span):
    add_span(23, "a.parquet", "_SUCCESS")
    with pytest.raises(UserError, match=r"span=2024-11-23 is complete, but \*.jsonl matches none of its files"):
        find_data(**sections, run="one")
    assert read_entry(open_storage(sections["push_config"].target), "nightly")["lease"] is None


def test_a_failed_runs_lease_can_be_given_back(sections, add_span, capsys):
    add_span(23)
    find_data(**sections, run="failed")
    give_up(**sections, run="other")
    assert "no lease of 'nightly' is held by run other" in capsys.readouterr().out
    give_up(**sections, run="failed")
    assert "released: run failed held the lease for span=2024-11-23" in capsys.readouterr().out
    assert find_data(**sections, run="next").source is not None


def test_a_run_under_way_renews_its_lease_or_ends_naming_the_other_run(sections, add_span, capsys):
    add_span(23)
    found = find_data(**sections, run="slow")
    renew(**sections, run="slow", span=found.span)
    assert "[renew_lease] run slow holds the lease for span=2024-11-23 for 72000 s more" in capsys.readouterr().out
    give_up(**sections, run=None)
    add_span(24)
    find_data(**sections, run="next")
    message = (
        r"run slow has lost the lease of 'nightly' for span=2024-11-23, which expired or was released: run next \(.*\) "
        r"holds the lease for span=2024-11-24 since .* set a longer retrain.lease_seconds than 72000"
    )
    with pytest.raises(UserError, match=message):
        renew(**sections, run="slow", span=found.span)


def test_a_run_that_took_longer_than_its_lease_is_told(sections, add_span, capsys):
    add_span(23)
    found = find_data(**sections, run="slow")
    give_up(**sections, run=None)
    add_span(24)
    find_data(**sections, run="next")
    finish(**sections, run="slow", span=found.span, pushed=[])
    assert "this run's lease had expired, and run next (" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"prefix": "s3://bucket/data"},
            "prefix must be a local directory or gs://bucket/path, got 's3://bucket/data'",
        ),
        ({"prefix": "data/*"}, r"prefix must be a folder's name without wildcards, got 'data/\*'"),
        ({"prefix": "it's"}, 'prefix must be without quotes and backslashes, got "it\'s"'),
        ({"files": "../*.jsonl"}, r"files must be a glob below the span's folder, got '../\*.jsonl'"),
        ({"files": ""}, "files must be a glob below the span's folder, got ''"),
        ({"lease_seconds": 0}, "lease_seconds must be > 0.0 and <= 31536000.0 seconds, got 0"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(ValueError, match=message):
        RetrainConfig(**{"prefix": "data"} | settings)


RECIPE = """
name: nightly
retrain: {prefix: data}
prepare_data: {tokenizer: gpt2}
score_teacher: {teacher: gpt2}
train: {model: {model_type: gpt2}, sizes: {s: 8}, student: s, steps: 1, warmup_steps: 0}
push: {target: pushed}
"""


def test_a_recipe_names_its_data_once_and_its_tokenizer_for_all_nights():
    values = {
        "name": "n",
        "retrain": {"prefix": "data"},
        "prepare_data": {"source": "docs/*"},
        "score_teacher": {"teacher": "gpt2"},
        "train": {"model": {}, "sizes": {"s": 8}, "student": "s", "steps": 100},
        "push": {"target": "pushed"},
    }
    with pytest.raises(UserError, match=r"prepare_data.source is found by retrain: leave one of the two out"):
        Recipe.from_dict(values)
    with pytest.raises(UserError, match=r"prepare_data.tokenizer must be set where retrain is"):
        Recipe.from_dict(values | {"prepare_data": {}})


def test_the_command_finds_records_and_tells(tmp_path):
    (tmp_path / "nightly.yaml").write_text(RECIPE)
    (tmp_path / "data" / "span=2024-11-24").mkdir(parents=True)
    for name in ("a.jsonl", "_SUCCESS"):
        (tmp_path / "data" / "span=2024-11-24" / name).touch()
    (tmp_path / "record").mkdir()
    finish_artifact(tmp_path / "record", "PushRecord", key="p", metadata={"pushed": ["s"]})

    def run(*arguments):
        command = [sys.executable, "-m", "components.find_data", "--recipe", "nightly.yaml", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    found = json.loads(run("--run", "one").stdout.splitlines()[-1])
    assert found == {"span": "span=2024-11-24", "source": "data/span=2024-11-24/*.jsonl", "why": None}
    renewed = run("--run", "one", "--renew", "span=2024-11-24")
    assert renewed.stdout == "[renew_lease] run one holds the lease for span=2024-11-24 for 72000 s more\n", renewed
    recorded = run("--run", "one", "--record", "span=2024-11-24", "--push-record", "record")
    assert recorded.stdout == "[record_span] span=2024-11-24 is processed; pushed: s\n", recorded.stderr
    told = run("--status").stdout.splitlines()
    assert told[1] == "  lease: held by no run"
    assert told[2].startswith("  span=2024-11-24 processed at 20")
    refused = run("--run", "two", "--renew", "span=2024-11-24")
    assert (refused.returncode, refused.stderr[:41]) == (2, "error: run two has lost the lease of 'nightl"[:41])
    assert run("--release").stdout == "[find_data] no lease of 'nightly' is held\n"
    assert run().returncode == 2
