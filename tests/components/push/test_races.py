"""Two pushers at once, as processes: one wins, the other is told, neither corrupts, and nothing is lost."""

import json
import multiprocessing
import os
import traceback

import pytest

from components.common.served.pointer import read_pointer
from components.common.served.versions import content_digest, fetch, versions_there
from components.common.storage.open_storage import open_storage
from components.push.operations import history
from components.push.release import push_version, roll_back
from components.push.retention import retire
from matta_core.errors import UserError
from matta_core.recipe import PushConfig

FORK = multiprocessing.get_context("fork")
ROUNDS = 200


def push(storage, folder, content, try_out=lambda version: None):
    """Push a model of a file; its version."""
    model = folder / content
    model.mkdir(parents=True, exist_ok=True)
    (model / "weights").write_text(content)
    reference = folder / "reference"
    reference.write_text("logits")
    return push_version(
        storage,
        "s",
        model,
        reference,
        may_replace=lambda served: None,
        try_out=try_out,
        inputs={},
        metadata={"size": "s"},
        decision=None,
    ).version


def in_two_processes(work, folder):
    """Run `work(number)` in two processes at once; what each returned (JSON)."""
    children = []
    for number in range(2):
        child = os.fork()
        if child == 0:
            try:
                (folder / f"outcome-{number}").write_text(json.dumps(work(number)))
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        children.append(child)
    statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert statuses == [0, 0]
    return [json.loads((folder / f"outcome-{number}").read_text()) for number in range(2)]


@pytest.mark.slow
def test_two_racing_pushers_lose_nothing_in_hundreds_of_rounds(target, tmp_path):
    """Both try out their version before either moves the pointer, so that every round is a race for the same swap. In
    a bucket, whose server answers slowly here, fewer rounds."""
    rounds = ROUNDS // 4 if target.startswith("gs://") else ROUNDS
    meeting = FORK.Barrier(2)

    def race(number):
        storage, won, told = open_storage(target), [], []
        for turn in range(rounds):
            try:
                won.append(push(storage, tmp_path / str(number), f"{turn}-{number}", lambda _: meeting.wait(60)))
            except UserError as error:
                told.append(str(error))
            if turn % 4 == 3:
                retire(storage, "s", keep=3)
            meeting.wait(60)
        return won, told

    outcomes = in_two_processes(race, tmp_path)
    won = [outcome[0] for outcome in outcomes]
    told = [error for outcome in outcomes for error in outcome[1]]
    storage = open_storage(target)
    pointer = read_pointer(storage, "s")
    moves = [move.version for move in pointer.history]
    assert len(won[0]) + len(won[1]) == rounds == len(told)  # one each round, and the other was told
    assert sorted(moves) == sorted(won[0] + won[1])  # every move that was reported, no other, each once
    assert [move for move in moves if move in won[0]] == won[0]
    assert all("was moved while" in error and "won. Nothing is lost" in error for error in told)
    winners = {error.split(" was expected, ")[1].split()[0] for error in told}
    assert winners == set(moves)  # each loser was told who won
    assert (pointer.version, pointer.previous) == (moves[-1], moves[-2])
    retire(storage, "s", keep=3)
    for version in moves[-3:]:
        assert content_digest(fetch(storage, "s", version, tmp_path / "fetched"))[:16] == version
    # Losers' versions were moved to by nobody: they are kept for a day, lest a push that is under way loses its own.
    assert set(versions_there(storage, "s")) & set(moves) == set(moves[-3:])
    assert len(list(history(PushConfig(target=target), "s"))) >= rounds


@pytest.mark.slow
def test_two_pushers_of_the_same_model_both_succeed_and_move_the_pointer_once(target, tmp_path):
    meeting = FORK.Barrier(2)

    def race(number):
        storage = open_storage(target)
        versions = []
        for turn in range(50):
            meeting.wait(60)
            versions.append(push(storage, tmp_path / str(number), f"{turn}"))
            meeting.wait(60)
        return versions

    one, other = in_two_processes(race, tmp_path)
    assert one == other
    assert [move.version for move in read_pointer(open_storage(target), "s").history] == one


@pytest.mark.slow
def test_rollbacks_beside_pushes_that_delete_never_leave_a_pointer_to_what_is_gone(tmp_path):
    """A directory only: fake-gcs-server deletes what is newer than the generation that was asked for."""
    target = str(tmp_path / "pushed")
    storage = open_storage(target)
    for number in range(3):
        push(storage, tmp_path / "start", f"start-{number}")

    def race(number):
        storage, done = open_storage(target), 0
        for turn in range(ROUNDS):
            try:
                if number == 0:  # five models in turn: each comes back after it was deleted
                    push(storage, tmp_path / "0", f"model-{turn % 5}")
                    retire(storage, "s", keep=1)
                else:
                    moves = read_pointer(storage, "s").history
                    roll_back(storage, "s", moves[-1 - turn % min(4, len(moves))].version, try_out=lambda version: None)
                done += 1
            except UserError as error:
                assert "was moved" in str(error) or "no whole version" in str(error) or "is being deleted" in str(error)
            assert_what_is_served_is_whole(storage)
        return done

    def assert_what_is_served_is_whole(storage):
        """Unless the pointer has moved on since it was read."""
        pointer = read_pointer(storage, "s")
        try:
            fetch(storage, "s", pointer.version, tmp_path)
        except UserError:
            assert read_pointer(storage, "s").history[-1].id != pointer.history[-1].id, (
                f"{pointer.version} is not whole"
            )

    pushed, rolled_back = in_two_processes(race, tmp_path)
    assert pushed > ROUNDS / 4
    assert rolled_back > ROUNDS / 10
    pointer = read_pointer(storage, "s")
    assert content_digest(fetch(storage, "s", pointer.version, tmp_path)) == pointer.digest
