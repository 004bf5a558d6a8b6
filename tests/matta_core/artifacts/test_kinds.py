"""Decisions and families that somebody or something changed: read, or refused in one line."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from json_documents import changed_texts, fuzzed, in_one_line

from components.gate.explain import explained
from matta_core.artifacts.kinds.decision import contradiction, read_decision
from matta_core.artifacts.kinds.family import read_family
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
