"""Pointers, accounts of spans and decisions that somebody or something changed: read, or refused in one line."""

import dataclasses
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from json_documents import changed_texts

from components.common.records import contradiction, read_decision, read_family
from components.common.served.pointer import move_pointer, read_pointer, withdrawal
from components.common.storage.open_store import open_store
from components.find_data.ledger import LEDGER, read_entry, take_lease
from components.find_data.spans import parse_span
from components.gate.explain import explained
from matta_core.errors import UserError

COMPARISON = {
    "task": "bits",
    "slice": None,
    "difference": 0.1,
    "interval": [-0.1, 0.3],
    "p_value": 0.2,
    "p_adjusted": 0.4,
    "verdict": "noise",
    "documents": 30,
    "baseline_value": 2.0,
    "value": 1.9,
}
CHECK = {"check": "minimum", "task": "bits", "slice": None, "threshold": 1, "value": "nan", "passed": True, "why": "so"}
DECISION = {
    "evaluation_set": "ab" * 32,
    "config": {"confidence": 0.95},
    "policies": {},
    "confidence": 0.95,
    "hypotheses": 1,
    "students": {"s": {"blessed": True, "baseline": "b", "checks": [CHECK], "comparisons": [COMPARISON]}},
    "blessed": ["s"],
    "warnings": ["one"],
}


def in_one_line(use, place):
    try:
        use()
    except UserError as error:
        assert str(place) in str(error)
        assert "\n" not in str(error)


fuzzed = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def pointer_document(tmp_path):
    store, pointer = open_store(str(tmp_path)), None
    for digit, why in (("a", "push"), ("b", "push"), ("a", "rollback")):
        pointer = move_pointer(store, "s", pointer, digit * 64, why=why)
    values = dataclasses.asdict(dataclasses.replace(pointer, pinned=("a" * 16,), retired=("c" * 16,)))
    del values["generation"]
    return values


@fuzzed
@given(data=st.data())
def test_a_changed_pointer_is_read_or_refused_in_one_line(tmp_path, pointer_document, data):
    place = tmp_path / "s" / "current.json"
    place.write_bytes(data.draw(changed_texts(pointer_document)))

    def use():
        pointer = read_pointer(open_store(str(tmp_path)), "s")
        assert pointer.history[-1].version == pointer.version == "a" * 16
        assert withdrawal(pointer, "a" * 16) is None

    in_one_line(use, place)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"history": []}, "its history is empty"),
        ({"size": "m"}, "it says aaaaaaaaaaaaaaaa of 'm', its last move aaaaaaaaaaaaaaaa, its folder 's'"),
        ({"version": "b" * 16}, "it says bbbbbbbbbbbbbbbb of 's', its last move aaaaaaaaaaaaaaaa"),
        ({"path": "../m/versions/aaaaaaaaaaaaaaaa"}, "path and digest are not those of aaaaaaaaaaaaaaaa"),
        ({"pinned": ["../x"]}, "a version is named by 16 hexadecimal digits, got '../x'"),
        ({"previous": "../x"}, "a version is named by 16 hexadecimal digits, got '../x'"),
        ({"later": 1}, "later is unknown here"),
    ],
)
def test_a_pointer_that_contradicts_itself_is_refused(tmp_path, pointer_document, change, reason):
    (tmp_path / "s" / "current.json").write_text(json.dumps(pointer_document | change))
    with pytest.raises(UserError, match=r"s/current.json is no pointer \(") as error:
        read_pointer(open_store(str(tmp_path)), "s")
    assert reason in str(error.value)


@fuzzed
@given(data=st.data())
def test_a_changed_account_of_spans_is_used_or_refused_in_one_line(tmp_path, data):
    lease = {"run": "one", "holder": "me", "span": "span=2024-11-24", "taken_at": "x"}
    lease["expires_at"] = "2024-11-25T00:00:00Z"
    done = {"span": "span=2024-11-23", "order": "20241123", "run": "one", "finished_at": "x", "pushed": ["s"]}
    document = {"nightly": {"lease": lease, "processed": [done]}}
    place = tmp_path / LEDGER
    place.write_bytes(data.draw(changed_texts(document)))
    store = open_store(str(tmp_path))
    in_one_line(lambda: read_entry(store, "nightly"), place)
    in_one_line(lambda: take_lease(store, "nightly", "two", parse_span("span=2024-11-24"), 10.0), place)


@fuzzed
@given(data=st.data())
def test_a_changed_decision_is_explained_or_refused_in_one_line(tmp_path, data):
    place = tmp_path / "decision.json"
    place.write_bytes(data.draw(changed_texts(DECISION)))

    def use():
        decision = read_decision(tmp_path)
        assert "\n".join(explained(decision))
        contradiction(decision)

    in_one_line(use, place)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"blessed": []}, "blessed names , but students bless s"),
        ({"blessed": ["s", "m"]}, "blessed names s, m, but students bless s"),
        (
            {"students": {"s": DECISION["students"]["s"] | {"checks": [CHECK | {"passed": False}]}}},
            "s is blessed, though its check minimum failed",
        ),
        ({"students": {"s": DECISION["students"]["s"] | {"checks": []}}}, "s is blessed without a check"),
    ],
)
def test_a_decision_that_does_not_follow_from_its_checks_is_found_out(change, reason):
    assert contradiction(DECISION) is None
    assert contradiction(DECISION | change) == reason


@pytest.mark.parametrize("name", ["../s", "/s", "", "a/../../s"])
@pytest.mark.parametrize("key", ["path", "reference"])
def test_a_family_whose_students_lie_elsewhere_is_refused(tmp_path, key, name):
    member = {"path": "s", "reference": "references/s", "parameters": 1, "bytes": 4, "flops_per_token": 2}
    (tmp_path / "family.json").write_text(json.dumps({"ta": "s", "students": {"s": member | {key: name}}}))
    with pytest.raises(UserError, match=r"family.json names the file .*, which is no plain relative name"):
        read_family(tmp_path)


@pytest.mark.parametrize("size", ["../s", "/s", "", "a/s", ".", "s\n"])
def test_a_family_whose_sizes_are_no_names_is_refused(tmp_path, size):
    member = {"path": "s", "reference": "references/s", "parameters": 1, "bytes": 4, "flops_per_token": 2}
    (tmp_path / "family.json").write_text(json.dumps({"ta": "s", "students": {size: member}}))
    with pytest.raises(UserError, match=r"family.json is not to be believed: no size is named .*run extract_students"):
        read_family(tmp_path)
