"""Pointers that somebody or something changed: read, or refused in one line."""

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from json_documents import changed_texts, fuzzed, in_one_line

from components.common.served.pointer import move_pointer, read_pointer, withdrawal
from components.common.storage.open_storage import open_storage
from matta_core.errors import UserError


@pytest.fixture
def pointer_document(tmp_path):
    storage, pointer = open_storage(str(tmp_path)), None
    for digit, why in (("a", "push"), ("b", "push"), ("a", "rollback")):
        pointer = move_pointer(storage, "s", pointer, digit * 64, why=why)
    values = dataclasses.asdict(dataclasses.replace(pointer, pinned=("a" * 16,), retired=("c" * 16,)))
    del values["generation"]
    return values


@fuzzed
@given(data=st.data())
def test_a_changed_pointer_is_read_or_refused_in_one_line(tmp_path, pointer_document, data):
    place = tmp_path / "s" / "current.json"
    place.write_bytes(data.draw(changed_texts(pointer_document)))

    def use():
        pointer = read_pointer(open_storage(str(tmp_path)), "s")
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
        read_pointer(open_storage(str(tmp_path)), "s")
    assert reason in str(error.value)
