"""The lease and the account of processed spans, in a directory and on gs://; with processes that race for them."""

import json
import multiprocessing
import os
import time
import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st
from json_documents import changed_texts, fuzzed, in_one_line

from components.common.storage.open_storage import open_storage
from components.find_data.ledger import LEDGER, read_entry, record_span, release_lease, renew_lease, take_lease
from components.find_data.spans import parse_span
from matta_core.errors import UserError

FIRST, SECOND = parse_span("span=2024-11-23"), parse_span("span=2024-11-24")


@pytest.fixture
def storage(target):
    return open_storage(target)


def take(storage, run="one", span=FIRST, name="nightly", seconds=1000.0):
    return take_lease(storage, name, run, span, seconds)


def test_of_two_runs_the_second_is_told_who_is_at_work(storage):
    assert take(storage, "one") is None
    told = take(storage, "two")
    assert told.startswith("another run of 'nightly' is at work: run one (")
    assert f"process {os.getpid()}) holds the lease for span=2024-11-23 since 20" in told
    assert read_entry(storage, "nightly")["lease"]["run"] == "one"


def test_a_run_of_another_name_does_not_wait(storage):
    assert take(storage, "one") is None
    assert take(storage, "two", name="weekly") is None


def test_a_step_that_is_tried_again_takes_its_own_lease_again_for_longer(storage):
    assert take(storage, "one", seconds=10) is None
    first = read_entry(storage, "nightly")["lease"]["expires_at"]
    time.sleep(0.01)
    assert take(storage, "one", seconds=10) is None
    assert read_entry(storage, "nightly")["lease"]["expires_at"] > first


def test_a_crashed_runs_lease_expires(storage):
    assert take(storage, "crashed", seconds=0.2) is None
    assert take(storage, "next") is not None
    time.sleep(0.25)
    assert take(storage, "next") is None


def renew(storage, run="one", span=FIRST, seconds=1000.0):
    return renew_lease(storage, "nightly", run, span, seconds)


def test_a_renewed_lease_lasts_from_then_on(storage):
    take(storage, "one", seconds=0.3)
    assert renew(storage, "one", seconds=1000) is None
    time.sleep(0.35)
    assert take(storage, "two") is not None
    lease = read_entry(storage, "nightly")["lease"]
    assert (lease["run"], lease["span"]) == ("one", FIRST.name)


def test_a_lease_that_expired_or_was_released_is_renewed_where_no_other_run_took_it(storage):
    take(storage, "one", seconds=0.1)
    time.sleep(0.15)
    assert renew(storage, "one") is None
    release_lease(storage, "nightly")
    assert renew(storage, "one") is None
    assert take(storage, "two") is not None


def test_a_lease_that_another_run_left_to_expire_is_renewed(storage):
    take(storage, "one", seconds=0.1)
    time.sleep(0.15)
    take(storage, "crashed", seconds=0.1)
    time.sleep(0.15)
    assert renew(storage, "one") is None
    assert read_entry(storage, "nightly")["lease"]["run"] == "one"


def test_a_run_that_lost_its_lease_is_told_who_holds_it_and_takes_nothing(storage):
    take(storage, "slow", FIRST, seconds=0.1)
    time.sleep(0.15)
    take(storage, "next", SECOND)
    before = read_entry(storage, "nightly")
    told = renew(storage, "slow", FIRST)
    assert told.startswith("run next (")
    assert "holds the lease for span=2024-11-24 since 20" in told
    assert read_entry(storage, "nightly") == before


@pytest.mark.parametrize("span", [FIRST, SECOND], ids=["the same", "a later one"])
def test_a_run_whose_span_another_one_has_processed_meanwhile_is_told(storage, span):
    take(storage, "slow", FIRST, seconds=0.1)
    time.sleep(0.15)
    take(storage, "next", span)
    record_span(storage, "nightly", "next", span, ["s"])
    assert renew(storage, "slow", FIRST).startswith(f"run next has processed {span.name} meanwhile, at 20")
    assert read_entry(storage, "nightly")["lease"] is None


def test_what_was_processed_before_or_by_the_run_itself_does_not_stop_it(storage):
    take(storage, "earlier", FIRST)
    record_span(storage, "nightly", "earlier", FIRST, [])
    take(storage, "one", SECOND)
    assert renew(storage, "one", SECOND) is None
    record_span(storage, "nightly", "one", SECOND, [])
    assert renew(storage, "one", SECOND) is None


def test_a_processed_span_is_not_new_and_the_lease_is_free_for_the_next(storage):
    take(storage, "one", FIRST)
    assert record_span(storage, "nightly", "one", FIRST, ["s", "m"]) is None
    told = take(storage, "two", FIRST)
    assert told.startswith("nothing new: the newest complete span is span=2024-11-23, and span=2024-11-23 was")
    assert "by run one" in told
    assert take(storage, "two", SECOND) is None
    record_span(storage, "nightly", "two", SECOND, [])
    assert take(storage, "late", FIRST).startswith(
        "nothing new: the newest complete span is span=2024-11-23, and span="
    )
    processed = read_entry(storage, "nightly")["processed"]
    assert [(done["span"], done["run"], done["pushed"]) for done in processed] == [
        ("span=2024-11-23", "one", ["s", "m"]),
        ("span=2024-11-24", "two", []),
    ]


def test_to_record_a_span_again_changes_nothing(storage):
    take(storage, "one")
    for _ in range(2):
        record_span(storage, "nightly", "one", FIRST, ["s"])
    assert len(read_entry(storage, "nightly")["processed"]) == 1


def test_a_run_whose_lease_expired_records_its_span_and_leaves_the_next_ones_lease(storage):
    take(storage, "slow", FIRST, seconds=0.1)
    time.sleep(0.15)
    assert take(storage, "next", SECOND) is None
    assert record_span(storage, "nightly", "slow", FIRST, []).startswith("run next (")
    entry = read_entry(storage, "nightly")
    assert entry["lease"]["run"] == "next"
    assert [done["span"] for done in entry["processed"]] == ["span=2024-11-23"]


def test_only_the_holder_gives_a_lease_back_unless_a_person_takes_it_away(storage):
    take(storage, "one")
    assert release_lease(storage, "nightly", "two") is None
    assert read_entry(storage, "nightly")["lease"] is not None
    assert release_lease(storage, "nightly", "one")["run"] == "one"
    assert read_entry(storage, "nightly") == {"lease": None, "processed": []}
    take(storage, "two")
    assert release_lease(storage, "nightly")["run"] == "two"
    assert release_lease(storage, "nightly") is None


LEASE = {"run": "one", "holder": "me", "span": FIRST.name, "taken_at": "x", "expires_at": "2024-11-24T00:00:00Z"}
DONE = {"span": FIRST.name, "order": FIRST.order, "run": "one", "finished_at": "x", "pushed": []}


def entry(lease=LEASE, done=DONE, **others):
    return json.dumps({"nightly": {"lease": lease, "processed": [done]} | others})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "Expecting value"),
        ("{", "Expecting property name"),
        ("[]", "it must be an object, got "),
        ("[" * 100_000, "it is nested more than 50 deep"),
        ('{"nightly": ' * 60 + "1" + "}" * 60, "it is nested more than 50 deep"),
        ("9" * 5000, "the number .* is too large"),
        ('{"nightly": {}}', "nightly.lease is missing"),
        ('{"nightly": {"lease": null, "processed": []}, "nightly": 7}', 'the key "nightly" occurs twice'),
        (entry(lease=LEASE | {"run": 7}), "nightly.lease.run must be a text, got 7"),
        (entry(lease={"run": "one"}), "nightly.lease.expires_at is missing"),
        (entry(lease=LEASE | {"expires_at": "soon"}), "Invalid isoformat string: 'soon'"),
        (entry(lease=LEASE | {"expires_at": "2024-11-24T00:00:00"}), "has no time zone"),
        (entry(done=DONE | {"order": 20241123}), r"processed\[0\].order must be a text, got 20241123"),
        (entry(done=DONE | {"order": "9"}), "with the order '9' is no span"),
        (entry(done=DONE | {"pushed": "s"}), r"pushed must be a list, got \"s\""),
        (entry(done=DONE | {"pushed": ["\ud800"]}), "is no Unicode"),
        (entry(note=float("nan")), "it holds NaN, which is no number"),
    ],
)
def test_a_damaged_account_is_one_line_with_its_place_and_the_reason(tmp_path, text, reason):
    storage = open_storage(str(tmp_path))
    storage.write(LEDGER, text.encode(), expected=None)
    for use in (
        take,
        renew,
        lambda storage: release_lease(storage, "nightly"),
        lambda storage: read_entry(storage, "nightly"),
    ):
        with pytest.raises(UserError, match=rf"{storage.location(LEDGER)} is no record of spans \(.*{reason}") as error:
            use(storage)
        assert "\n" not in str(error.value)
        assert len(str(error.value)) < 500 + len(str(tmp_path))


def test_what_a_person_adds_to_the_account_is_kept(tmp_path):
    storage = open_storage(str(tmp_path))
    storage.write(LEDGER, entry(note="by hand").encode(), expected=None)
    take(storage, "two", SECOND)
    assert json.loads(storage.read(LEDGER)[0])["nightly"]["note"] == "by hand"


def test_a_span_of_the_future_is_not_taken_and_does_not_count_as_processed(storage, capsys):
    future = parse_span("span=2942-11-24")
    assert take(storage, "one", future).startswith("span=2942-11-24 is dated in the future")
    record_span(storage, "nightly", "old", future, [])
    assert take(storage, "one", FIRST) is None
    assert renew(storage, "one", FIRST) is None
    told = f"{storage.location(LEDGER)} says that span=2942-11-24 was processed by run old, which lies in the future"
    assert told in capsys.readouterr().out


def test_a_run_takes_again_the_lease_of_its_earlier_ids_and_those_lose_it(storage):
    assert take(storage, "start-1") is None
    assert take_lease(storage, "nightly", "start-2", FIRST, 1000.0, earlier=["start-0"]) is not None
    assert take_lease(storage, "nightly", "start-2", FIRST, 1000.0, earlier=["start-0", "start-1"]) is None
    assert read_entry(storage, "nightly")["lease"]["run"] == "start-2"
    assert take_lease(storage, "nightly", "copy", FIRST, 1000.0, earlier=["start-0", "start-1"]) is not None


def race(target, folder, number_of_processes, work):
    """`work(number, storage)` in several processes at once; what each returned."""
    children = []
    for number in range(number_of_processes):
        if (child := os.fork()) == 0:
            try:
                (folder / f"outcome-{number}").write_text(json.dumps(work(number, open_storage(target))))
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * number_of_processes
    return [json.loads((folder / f"outcome-{number}").read_text()) for number in range(number_of_processes)]


def test_of_racing_runs_one_processes_each_span_and_no_account_is_lost(target, tmp_path):
    """Every round is a race of four for the same span. Who holds the lease makes a file that must not be there yet."""
    rounds, processes = 50, 4
    meeting = multiprocessing.get_context("fork").Barrier(processes)
    hours = [parse_span(f"span=2024-11-{hour // 24 + 1:02d}T{hour % 24:02d}") for hour in range(rounds)]

    def work(number, storage):
        won = []
        for hour in hours:
            meeting.wait(60)
            if take_lease(storage, "nightly", f"run-{number}", hour, 1000.0) is None:
                alone = tmp_path / "at-work"
                alone.touch(exist_ok=False)  # fails where another one is at work
                won.append(hour.name)
                take_lease(storage, f"other-{number}", f"run-{number}", hour, 1000.0)  # beside: another name's entry
                alone.unlink()
                record_span(storage, "nightly", f"run-{number}", hour, [])
            meeting.wait(60)
        return won

    outcomes = race(target, tmp_path, processes, work)
    assert sorted(span for spans in outcomes for span in spans) == [hour.name for hour in hours]
    processed = read_entry(open_storage(target), "nightly")["processed"]
    assert [done["span"] for done in processed] == [hour.name for hour in hours]
    assert {(done["run"], done["span"]) for done in processed} == {
        (f"run-{number}", span) for number, spans in enumerate(outcomes) for span in spans
    }


@fuzzed
@given(data=st.data())
def test_a_changed_account_of_spans_is_used_or_refused_in_one_line(tmp_path, data):
    lease = {"run": "one", "holder": "me", "span": "span=2024-11-24", "taken_at": "x"}
    lease["expires_at"] = "2024-11-25T00:00:00Z"
    done = {"span": "span=2024-11-23", "order": "20241123", "run": "one", "finished_at": "x", "pushed": ["s"]}
    document = {"nightly": {"lease": lease, "processed": [done]}}
    place = tmp_path / LEDGER
    place.write_bytes(data.draw(changed_texts(document)))
    storage = open_storage(str(tmp_path))
    in_one_line(lambda: read_entry(storage, "nightly"), place)
    in_one_line(lambda: take_lease(storage, "nightly", "two", parse_span("span=2024-11-24"), 10.0), place)
