"""Which span is the newest complete one, in a directory and on gs://."""

import os

import pytest

from components.common.storage.open_storage import open_storage
from components.find_data import spans
from components.find_data.spans import newest_span, parse_span, time_digits
from matta_core.errors import UserError
from matta_core.recipe import RetrainConfig


@pytest.fixture
def put(target):
    """Write files below the prefix, which is the target's."""
    storage = open_storage(target)

    def write(*names):
        for name in names:
            storage.write(name, b"{}", expected=None)

    return write


def newest(target, scheduled_time="", **settings):
    span = newest_span(RetrainConfig(prefix=target, **settings), scheduled_time)
    return span and span.name


def test_the_newest_complete_span_is_found(target, put, capsys):
    put("span=2024-11-22/_SUCCESS", "span=2024-11-23/_SUCCESS", "span=2024-11-24/a.jsonl", "other/_SUCCESS", "_SUCCESS")
    assert newest(target) == "span=2024-11-23"
    assert "span=2024-11-24 holds no _SUCCESS yet: left out" in capsys.readouterr().out
    assert newest(target, require_success_file=False) == "span=2024-11-24"
    put("span=2024-11-24/_SUCCESS")
    assert newest(target) == "span=2024-11-24"
    assert newest(f"{target}/") == "span=2024-11-24"


@pytest.mark.parametrize(
    ("scheduled_time", "expected"),
    [
        ("20241124020000", "span=2024-11-24"),  # what Kubeflow makes of [[ScheduledTime]]
        ("2024-11-23T23:59:59Z", "span=2024-11-23"),
        ("2024-11-23T05:59:00.25+00:00", "span=2024-11-23"),
        ("20241122", "span=2024-11-22"),
        ("2024-11-21T00:00:00Z", None),
    ],
)
def test_no_span_after_the_scheduled_time_is_taken(tmp_path, scheduled_time, expected):
    for day in (22, 23, 24):
        (tmp_path / f"span=2024-11-{day}").mkdir()
    assert newest(str(tmp_path), scheduled_time, require_success_file=False) == expected


def test_spans_of_hours_are_compared_to_the_hour(tmp_path):
    for hour in ("06", "07", "18"):
        (tmp_path / f"span=2024-11-24T{hour}").mkdir()
    assert newest(str(tmp_path), "20241124075900", require_success_file=False) == "span=2024-11-24T07"
    assert newest(str(tmp_path), require_success_file=False) == "span=2024-11-24T18"


def test_spans_are_ordered_by_time_however_it_is_spelt():
    names = ["span=2024-11-24T06", "span=20241123", "span=2024-11-24", "span=20241124T0630", "span=2024-12-01"]
    assert sorted(names, key=parse_span) == [names[1], names[2], names[0], names[3], names[4]]


@pytest.mark.parametrize("name", ["span=latest", "span=__HIVE_DEFAULT_PARTITION__", "day=2024-11-24", "span"])
def test_a_folder_without_a_date_is_no_span(tmp_path, capsys, name):
    (tmp_path / name).mkdir()
    (tmp_path / "span=2020-01-01").mkdir()
    assert newest(str(tmp_path), require_success_file=False) == "span=2020-01-01"
    assert (f"left out, as no date is in the name: {name}" in capsys.readouterr().out) is name.startswith("span=")


@pytest.mark.parametrize(
    "name",
    [
        "span=2024-13-01",
        "span=2024-11",
        "span=2024-1-5",
        "span=17",
        "span=1710123000",  # seconds since 1970
        "span=2024-11-24.staging",
        "span=2024-11-24T06%3A30%3A00%2B02%3A00",
        "span=2024-11-24 06%3A30%3A00.5",
        "span=2024-11-24T06%253A30",
        "Span=2024-11-24",
        "span%3d24 Nov 2024",
        "span=２０２４-11-24",  # noqa: RUF001 - digits of full width
    ],
)
def test_a_span_whose_time_cannot_be_told_is_refused_as_it_may_be_the_newest(tmp_path, name):
    for folder in (name, "span=2020-01-01"):
        (tmp_path / folder).mkdir()
    with pytest.raises(UserError, match=r"retrain.prefix = .* holds .*, of which no time can be told") as error:
        newest(str(tmp_path), require_success_file=False)
    assert name in str(error.value)


@pytest.mark.parametrize(
    "name",
    [
        "span=2024-11-24T06%3A30",
        "span=2024-11-24 06%3A30%3A00",
        "span=2024-11-24 06%3A30%3A00.0",
        "span=2024-11-24%2006%3A30",
        "span%3D2024-11-24",
        "span=2024-11-24T06%3A30%3A00%2B00%3A00",
    ],
)
def test_a_span_whose_name_a_writer_has_escaped_is_read_and_kept_as_it_is_named(target, put, name):
    """Spark and Hive escape colons in the names of partitions."""
    put("span=2024-11-23/_SUCCESS", f"{name}/_SUCCESS")
    assert newest(target) == name
    assert parse_span(name).order.startswith("20241124")


def test_two_spans_of_one_time_are_refused(tmp_path):
    for name in ("span=2024-11-24T06-30", "span=2024-11-24T06%3A30", "span=2024-11-23"):
        (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=r"24T06%3A30, span=2024-11-24T06-30, which are of one time"):
        newest(str(tmp_path), require_success_file=False)


def test_a_span_dated_in_the_future_is_left_out_with_a_warning(tmp_path, capsys, monkeypatch):
    for name in ("span=2024-11-24", "span=2024-11-24T07", "span=2042-11-24"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(spans, "_now", lambda: "20241124065959")
    assert newest(str(tmp_path), require_success_file=False) == "span=2024-11-24"
    told = capsys.readouterr().out
    assert "WARNING: left out span=2024-11-24T07, span=2042-11-24, dated after now (20241124065959 in UTC)" in told
    monkeypatch.setattr(spans, "_now", lambda: "20241124070000")
    assert newest(str(tmp_path), require_success_file=False) == "span=2024-11-24T07"
    assert newest(str(tmp_path), "20420101000000", require_success_file=False) == "span=2024-11-24T07"


def test_a_prefix_with_spans_of_the_future_only_is_refused(tmp_path):
    (tmp_path / "span=2942-11-24").mkdir()
    with pytest.raises(
        UserError, match=r"holds only span=2942-11-24, dated after now \(20.*: correct the name, or the"
    ):
        newest(str(tmp_path), require_success_file=False)


def test_a_scheduled_time_that_is_none_is_refused():
    assert time_digits("") == ""
    with pytest.raises(UserError, match=r"scheduled_time 'tonight' is no time: write 20261124020000 or 2026-11-24T02"):
        time_digits("tonight")
    for macro in ("[[ScheduledTime]]", "{{$.pipeline_job_schedule_time_utc}}"):
        with pytest.raises(UserError, match=r"this Kubeflow does not fill in the macro .*: leave the parameter empty"):
            time_digits(macro)


def test_a_prefix_with_spans_of_which_none_is_complete_has_no_newest_one(target, put):
    put("span=2024-11-23/a.jsonl")
    assert newest(target) is None


def test_a_prefix_without_a_span_is_not_taken_for_a_night_without_data(target, put):
    """On gs:// nothing tells a prefix that is not there from an empty one."""
    put("nightly/other/a.jsonl", "nightly/_SUCCESS", "nightly/span=latest/_SUCCESS")
    message = (
        r"retrain.prefix = '.*/nightly' holds no folder named span= and a date: correct it, or write the first span "
        r"there, such as span=2026-11-24"
    )
    with pytest.raises(UserError, match=message):
        newest(f"{target}/nightly")
    missing = message.replace("nightly'", "nigthly'") if target.startswith("gs://") else "'.*/nigthly' is no folder"
    with pytest.raises(UserError, match=missing):
        newest(f"{target}/nigthly")


def test_a_prefix_that_is_no_folder_here_is_told_with_where_it_was_looked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    for name in ("missing", "file", "file/below"):
        message = rf"retrain.prefix = '{name}' is no folder \(from {tmp_path}\): correct it, or make the folder"
        with pytest.raises(UserError, match=message):
            newest(name)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads all")
def test_a_prefix_that_must_not_be_read_is_told(tmp_path):
    (tmp_path / "data").mkdir(mode=0)
    with pytest.raises(UserError, match=r"cannot read retrain.prefix = '.*/data': Permission denied; let this user"):
        newest(str(tmp_path / "data"))


def test_a_bucket_that_is_not_there_is_not_taken_for_an_empty_one(gcs_server):
    with pytest.raises(UserError, match=r"gs://no-such-bucket/data: there is no such bucket"):
        newest("gs://no-such-bucket/data")
