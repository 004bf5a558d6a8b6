"""What a person took out of service stays out, whatever is pushed, rolled back, undone, pinned or deleted after it."""

import dataclasses
import json
import shutil
import tempfile
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from components.common.served import pointer
from components.common.served.moves import replay
from components.common.served.pointer import read_pointer, withdrawal
from components.common.served.versions import content_digest, versions_there
from components.common.storage.open_storage import open_storage
from components.push import operations, step
from components.push.release import push_version, roll_back
from components.push.retention import retire
from matta_core.errors import UserError
from matta_core.recipe import PushConfig


class Served:
    """A directory to which models of one file each are pushed, judged against what is served."""

    def __init__(self, folder, models="ABCD"):
        self.folder, self.config = folder, PushConfig(target=str(folder / "pushed"))
        self.storage = open_storage(self.config.target)
        (folder / "reference").write_text("logits")
        for name in models:
            (folder / name).mkdir()
            (folder / name / "weights").write_text(name)
        self.versions = {name: content_digest(folder / name)[:16] for name in models}
        self.names = {version: name for name, version in self.versions.items()}

    @property
    def pointer(self):
        return read_pointer(self.storage, "s")

    @property
    def current(self):
        return self.pointer and self.names[self.pointer.version]

    def push(self, name):
        push_version(
            self.storage,
            "s",
            self.folder / name,
            self.folder / "reference",
            may_replace=lambda served: step._may_replace(
                self.storage, "s", self.versions[name], served and served.version, served
            ),
            try_out=lambda version: None,
            inputs={},
            metadata={},
            decision=None,
        )

    def roll_back(self, to=None):
        roll_back(self.storage, "s", to and self.versions[to], try_out=lambda version: None)

    def withdrawn(self):
        return {name for name, version in self.versions.items() if withdrawal(self.pointer, version)}


def withdrawn_by(moves):
    """As docs/operations.md says it. A move is (why, from, to)."""
    if not moves:
        return set()
    *before, (why, left, taken) = moves
    if why == "push":
        return withdrawn_by(before)
    if before and before[-1] == ("rollback", taken, left):  # straight back on a rollback: as it stood before that
        return withdrawn_by(before[:-1])
    return withdrawn_by(before) - {taken} | {left}


class Serving(RuleBasedStateMachine):
    """Pushes, rollbacks, pins and deletions of four models, with a pointer that remembers the last two moves only."""

    models = st.sampled_from("ABCD")

    @initialize()
    def begin(self):
        self.moves = []
        self.folder = Path(tempfile.mkdtemp())
        self.served = Served(self.folder)
        self.short_history = mock.patch.object(pointer, "HISTORY_LENGTH", 2)
        self.short_history.start()

    def teardown(self):
        self.short_history.stop()
        shutil.rmtree(self.folder)

    def moved(self, why, before):
        after = self.served.current
        if after != before:
            self.moves.append((why, before, after))

    @rule(name=models)
    def push(self, name):
        before, withdrawn = self.served.current, withdrawn_by(self.moves)
        if name in withdrawn and name != before:
            with pytest.raises(UserError, match="was rolled back at"):
                self.served.push(name)
            assert self.served.current == before
        else:
            self.served.push(name)
            assert self.served.current == name
        self.moved("push", before)

    @precondition(lambda self: self.moves)
    @rule()
    def roll_back(self):
        _, previous, before = self.moves[-1]
        if previous is None or previous in withdrawn_by(self.moves):
            with pytest.raises(UserError, match=r"was rolled back at|is the first version"):
                self.served.roll_back()
            assert self.served.current == before
        else:
            self.served.roll_back()
            assert self.served.current == previous
        self.moved("rollback", before)

    @precondition(lambda self: self.moves)
    @rule(name=models)
    def roll_back_to(self, name):
        before = self.served.current
        if self.served.versions[name] in versions_there(self.served.storage, "s"):
            self.served.roll_back(name)
            assert self.served.current == name
        else:
            with pytest.raises(UserError, match="is no whole version"):
                self.served.roll_back(name)
        self.moved("rollback", before)

    @precondition(lambda self: self.moves)
    @rule(name=models)
    def pin_or_unpin(self, name):
        version = self.served.versions[name]
        if version in self.served.pointer.pinned:
            operations.unpin(self.served.config, "s", version)
        elif version in versions_there(self.served.storage, "s"):
            operations.pin(self.served.config, "s", version)

    @precondition(lambda self: self.moves)
    @rule()
    def delete_old_versions(self):
        retire(self.served.storage, "s", keep=1)

    @invariant()
    def what_a_person_withdrew_last_is_withdrawn_and_nothing_else(self):
        if self.moves:
            assert self.served.withdrawn() == withdrawn_by(self.moves) - {self.served.current}
            assert self.served.current not in withdrawn_by(self.moves)


TestServing = Serving.TestCase
TestServing.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)


@pytest.fixture
def served(tmp_path):
    return Served(tmp_path)


def test_an_undo_that_is_undone_withdraws_again_what_the_first_rollback_withdrew(served):
    served.push("A")
    served.push("B")
    served.roll_back()
    served.roll_back("B")
    assert served.withdrawn() == set()
    served.roll_back("A")
    assert served.withdrawn() == {"B"}
    with pytest.raises(UserError, match=r"withdrawn: .* was rolled back at"):
        served.push("B")
    assert served.current == "A"


def test_an_undo_leaves_withdrawn_what_was_so_before_the_rollback_that_it_undoes(served):
    for name in "ABC":
        served.push(name)
    served.roll_back("A")  # C is withdrawn
    served.roll_back("B")  # and A
    served.roll_back("C")  # C is served again, in place of B
    assert served.withdrawn() == {"A", "B"}
    served.roll_back("A")
    served.roll_back("C")  # an undo: of A too
    assert served.withdrawn() == {"A", "B"}


def test_a_withdrawal_outlives_the_history(served, monkeypatch):
    monkeypatch.setattr(pointer, "HISTORY_LENGTH", 3)
    served.push("A")
    served.push("B")
    served.roll_back()
    for name in "CDCDCD":
        served.push(name)
    assert served.versions["B"] not in [move.version for move in served.pointer.history]
    with pytest.raises(UserError, match=r"withdrawn: .* was rolled back at"):
        served.push("B")
    (line,) = [line for line in operations.history(served.config, "s") if "withdrawn" in line]
    assert line.startswith(f"  withdrawn before this history: {served.versions['B']} (rolled back at 20")


def test_a_pointer_without_withdrawals_has_those_of_its_history(served):
    """As programs wrote it that did not keep them."""
    for name in "ABC":
        served.push(name)
    served.roll_back("A")
    served.roll_back("B")
    served.roll_back("A")
    before = served.pointer
    values = dataclasses.asdict(before)
    del values["withdrawn"], values["generation"]
    served.storage.write("s/current.json", json.dumps(values).encode(), expected=before.generation)
    assert served.pointer.withdrawn == before.withdrawn == replay(before.history)
    assert served.withdrawn() == {"C"}
