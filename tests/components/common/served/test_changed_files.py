"""Pointers and accounts of spans that somebody or something changed: read, or refused in one line."""

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from json_documents import changed_texts, fuzzed, in_one_line

from components.common.served.ledger import LEDGER, read_entry, take_lease
from components.common.served.pointer import move_pointer, read_pointer, withdrawal
from components.common.served.spans import parse_span
from components.common.storage.store import open_store
from matta_core.errors import UserError


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
