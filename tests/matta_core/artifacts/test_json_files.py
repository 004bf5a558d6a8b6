"""JSON that is read back is of its shape, or refused in one line that says where."""

import json
from dataclasses import dataclass
from typing import Any, Literal, NotRequired, TypedDict

import pytest
from hypothesis import given
from json_documents import changed

from matta_core.artifacts import json_files
from matta_core.artifacts.json_files import parse_json, read_json
from matta_core.errors import UserError


@dataclass(frozen=True)
class Move:
    id: str
    why: Literal["push", "rollback"]
    decision: str | None = None


class Document(TypedDict):
    size: str
    count: int
    share: float
    whole: bool
    moves: tuple[Move, ...]
    by_name: dict[str, list[int]]
    anything: Any
    note: NotRequired[str]


DOCUMENT = {
    "size": "s",
    "count": 3,
    "share": 0.5,
    "whole": True,
    "moves": [{"id": "1", "why": "push"}, {"id": "2", "why": "rollback", "decision": None}],
    "by_name": {"a": [1, 2]},
    "anything": {"deep": [None]},
}


def parse(value):
    return parse_json(json.dumps(value).encode(), Document)


def test_what_has_its_shape_is_made_into_it():
    found = parse(DOCUMENT | {"share": 1, "unknown": "kept"})
    assert found["moves"] == (Move("1", "push"), Move("2", "rollback"))
    assert (found["share"], found["by_name"], found["unknown"]) == (1, {"a": [1, 2]}, "kept")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"size": 7}, "size must be a text, got 7"),
        ({"count": 3.5}, "count must be a whole number, got 3.5"),
        ({"count": True}, "count must be a whole number, got true"),
        ({"share": "0.5"}, 'share must be a number, got "0.5"'),
        ({"share": None}, "share must be a number, got null"),
        ({"whole": 1}, "whole must be true or false, got 1"),
        ({"moves": {}}, "moves must be a list, got {}"),
        ({"moves": [[]]}, "moves[0] must be an object, got []"),
        ({"moves": [{"id": "1"}]}, "moves[0].why is missing"),
        ({"moves": [{"id": "1", "why": "gone"}]}, 'moves[0].why must be one of push, rollback, got "gone"'),
        ({"moves": [{"id": "1", "why": []}]}, "moves[0].why must be one of push, rollback, got []"),
        ({"moves": [{"id": "1", "why": "push", "x y": 1}]}, 'moves[0]."x y" is unknown here'),
        ({"by_name": {"a b": [1, "2"]}}, 'by_name."a b"[1] must be a whole number, got "2"'),
        ({"by_name": [["a", [1]]]}, 'by_name must be an object, got [["a", [1]]]'),
        ({"size": ["long"] * 100}, "size must be a text, got a list"),
        ({"note": 7}, "note must be a text, got 7"),
    ],
)
def test_another_shape_is_told_with_its_place(change, reason):
    with pytest.raises(ValueError) as error:
        parse(DOCUMENT | change)
    assert str(error.value) == reason


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "Expecting value: line 1 column 1 (char 0)"),
        (b'"\xff"', "it is no UTF-8 (invalid start byte at byte 1)"),
        (b"NaN", "it holds NaN, which is no number"),
        (b"[-Infinity]", "it holds -Infinity, which is no number"),
        (b"[1e999]", 'the number "1e999" is too large'),
        (b"[18446744073709551616]", 'the number "18446744073709551616" is too large'),
        (b"9" * 100_000, f'the number "{"9" * 40}\\u2026" is too large'),
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', 'the key "c" occurs twice'),
        (b'["\\ud800"]', 'the text "\\ud800" is no Unicode'),
        (b'{"\\ud800": 1}', 'the text "\\ud800" is no Unicode'),
        (b"[" * 100_000, "it is nested more than 50 deep"),
        (b'{"a":' * 100_000, "it is nested more than 50 deep"),
        (b"[" * 51 + b"]" * 51, "it is nested more than 50 deep"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_json_lets_through_is_refused(data, reason):
    with pytest.raises(ValueError) as error:
        parse_json(data, Any)
    assert str(error.value) == reason


def test_numbers_of_64_bits_and_fifty_levels_are_read():
    for value in (2**64 - 1, -(2**63), 1e308, json.loads("[" * 50 + "]" * 50)):
        assert parse_json(json.dumps(value).encode(), Any) == value


def test_a_file_is_told_with_its_path_and_the_remedy(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    with pytest.raises(UserError, match=rf"cannot read {path}: No such file or directory; make it again$"):
        read_json(path, dict, remedy="make it again")
    path.write_text("[]")
    with pytest.raises(
        UserError, match=rf"{path} is not to be believed: it must be an object, got \[\]; make it again$"
    ):
        read_json(path, dict, remedy="make it again")
    monkeypatch.setattr(json_files, "MAX_BYTES", 1)
    with pytest.raises(UserError, match=r"it has more than 1 bytes; make it again$"):
        read_json(path, list, remedy="make it again")


@given(changed(DOCUMENT))
def test_a_document_changed_anywhere_is_read_or_refused_in_one_line(document):
    try:
        found = parse(document)
    except ValueError as error:
        assert "\n" not in str(error)
        assert len(str(error)) < 300
    else:
        assert found["moves"] == tuple(Move(**move) for move in document["moves"])
        assert type(found["size"]) is str
