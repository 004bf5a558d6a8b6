"""What an operator does: history, rollback, pins; and which versions are kept."""

import json
import os
import re
import subprocess
import sys
import time
from collections import namedtuple

import pytest

from components.common.served.pointer import HISTORY_LENGTH, move_pointer, read_pointer, withdrawal
from components.common.served.versions import content_digest, fetch, versions_there
from components.common.storage.open_storage import open_storage
from components.push import operations, retention, step
from matta_core.errors import UserError
from matta_core.recipe import PushConfig

Made = namedtuple("Made", "decision students evaluation")  # as in conftest.py


@pytest.fixture
def tried(monkeypatch):
    versions = []
    monkeypatch.setattr(
        operations, "validate", lambda queries, config, storage, size, version: versions.append(version)
    )
    return versions


@pytest.fixture
def pushed(target, make, push_to, queried, tmp_path):
    """A target to which four models of each size were pushed, and the versions of s, oldest first."""
    versions = []
    for content in ("first", "second", "third", "fourth"):
        made = make(content)
        push_to(target, made, tmp_path / f"record-{content}")
        versions.append(content_digest(made.students / "s")[:16])
    return PushConfig(target=target), versions


def current(config):
    return read_pointer(open_storage(config.target), "s")


def test_a_rollback_goes_to_the_version_before_after_it_was_tried_out_and_a_second_one_is_refused(pushed, tried):
    config, versions = pushed
    assert operations.rollback(config, "s").version == versions[2] == current(config).version
    assert (current(config).previous, current(config).history[-1].why) == (versions[3], "rollback")
    after = current(config)
    with pytest.raises(
        UserError, match=f"{versions[2]} is served, .* {versions[3]}, was rolled back at .* --to VERSION"
    ):
        operations.rollback(config, "s")
    assert current(config) == after
    assert operations.rollback(config, "s", versions[3]).version == versions[3]
    assert tried == [versions[2], versions[3]]


def test_a_rollback_to_a_version_can_be_repeated_without_harm(pushed, tried, capsys):
    config, versions = pushed
    operations.rollback(config, "s", versions[0])
    pointer = current(config)
    operations.rollback(config, "s", versions[0])
    assert current(config) == pointer
    assert f"{versions[0]} was current already" in capsys.readouterr().out
    assert tried == [versions[0]]


def test_a_version_that_was_rolled_back_is_not_pushed_again_until_a_person_says_so(
    pushed, tried, make, push_to, queried, tmp_path, capsys
):
    config, versions = pushed
    fourth = Made(*(tmp_path / f"{kind}-fourth" for kind in Made._fields))
    operations.rollback(config, "s")
    before = current(config)
    record = json.loads((push_to(config.target, fourth, tmp_path / "again").path / "push.json").read_text())
    assert record["students"]["s"]["pushed"] is False
    assert record["students"]["xl"]["pushed"] is True
    assert current(config) == before
    told = rf"s: not pushed, withdrawn: {versions[3]} was rolled back at .* by .*--rollback s --to {versions[3]}"
    assert re.search(told, capsys.readouterr().out)
    operations.rollback(config, "s", versions[3])
    record = json.loads((push_to(config.target, fourth, tmp_path / "allowed").path / "push.json").read_text())
    assert record["students"]["s"]["pushed"] is True
    push_to(config.target, make("fifth"), tmp_path / "fifth")  # another version was never withdrawn
    assert current(config).previous == versions[3]


def test_a_withdrawn_version_whose_files_are_gone_comes_back_by_a_push_and_a_rollback(
    target, pushed, tried, push_to, queried, tmp_path
):
    config, versions = pushed
    operations.rollback(config, "s")
    storage = open_storage(target)
    for entry in storage.list(f"s/versions/{versions[3]}"):
        storage.delete(entry)
    fourth = Made(*(tmp_path / f"{kind}-fourth" for kind in Made._fields))
    push_to(target, fourth, tmp_path / "again")
    assert current(config).version == versions[2]
    assert operations.rollback(config, "s", versions[3]).version == versions[3]


def test_a_rollback_that_undoes_another_withdraws_nothing(pushed, tried):
    config, versions = pushed
    operations.rollback(config, "s")
    assert withdrawal(current(config), versions[3]) is not None
    operations.rollback(config, "s", versions[3])
    assert withdrawal(current(config), versions[2]) is None
    assert withdrawal(current(config), versions[3]) is None


def test_a_rollback_to_what_does_not_load_moves_nothing(pushed, monkeypatch):
    config, _ = pushed

    def refuse(*arguments):
        raise UserError("it does not load any more")

    monkeypatch.setattr(operations, "validate", refuse)
    pointer = current(config)
    with pytest.raises(UserError, match="it does not load any more"):
        operations.rollback(config, "s")
    assert current(config) == pointer


def test_a_rollback_that_another_move_overtakes_is_told_who_won(pushed, monkeypatch, make, push_to, tmp_path):
    config, versions = pushed
    other = make("fifth")
    monkeypatch.setattr(operations, "validate", lambda *arguments: push_to(config.target, other, tmp_path / "other"))
    winner = content_digest(other.students / "s")[:16]
    with pytest.raises(UserError, match=rf"moved during the rollback: {versions[3]} .* was expected, {winner} .* won"):
        operations.rollback(config, "s")
    assert current(config).version == winner


def test_a_pin_that_comes_during_a_rollback_does_not_stop_it(pushed, monkeypatch):
    config, versions = pushed
    monkeypatch.setattr(operations, "validate", lambda *arguments: operations.pin(config, "s", versions[0]))
    assert operations.rollback(config, "s").version == versions[2]
    assert current(config).pinned == (versions[0],)


def test_there_is_nothing_to_roll_back_to_before_the_first_push_and_after_it(
    target, make, push_to, queried, tried, tmp_path
):
    config = PushConfig(target=target)
    with pytest.raises(UserError, match=r"nothing of size 's' was pushed to .* yet; no pointer of any size is there"):
        operations.rollback(config, "s")
    push_to(target, make("first"), tmp_path / "record")
    with pytest.raises(UserError, match=r"is the first version of size 's': there is none before it"):
        operations.rollback(config, "s")
    with pytest.raises(UserError, match=r"0000000000000000 is no whole version of size 's'"):
        operations.rollback(config, "s", "0" * 16)
    with pytest.raises(UserError, match=r"a version is named by 16 hexadecimal digits, got ''"):
        operations.rollback(config, "s", "")
    assert tried == []


def test_the_history_tells_every_move_with_its_time_mover_reason_and_decision(pushed, tried):
    config, versions = pushed
    operations.rollback(config, "s")
    operations.pin(config, "s", versions[0])
    lines = list(operations.history(config, "s"))
    assert len(lines) == 6
    for line, version in zip(lines[1:], [*versions, versions[2]], strict=True):
        assert re.match(
            rf"  \d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\dZ  {version}  (push|rollback) by .*process {os.getpid()}", line
        )
    assert all(re.search(r", decision [0-9a-f]{16}", line) for line in lines[1:5])
    assert lines[1].endswith("[pinned]")
    assert "rollback by" in lines[5]
    assert lines[5].endswith("[current]")


def test_the_history_says_what_was_deleted_and_what_was_never_served(pushed):
    config, _ = pushed
    storage = open_storage(config.target)
    retention.retire(storage, "s", keep=2)
    storage.write("s/versions/00000000000000aa/config.json", b"{}", expected=None)
    lines = list(operations.history(config, "s"))
    assert [line.endswith("[deleted]") for line in lines[1:5]] == [True, True, False, False]
    assert lines[5] == "  there, but served at no time in this history: 00000000000000aa"


def test_the_newest_versions_are_kept_and_with_them_the_current_its_previous_and_the_pinned(pushed, tried):
    config, versions = pushed
    storage = open_storage(config.target)
    operations.pin(config, "s", versions[0])
    assert retention.retire(storage, "s", keep=2) == [versions[1]]  # the pinned one does not count
    assert set(versions_there(storage, "s")) == {versions[0], versions[2], versions[3]}
    operations.rollback(config, "s", versions[0])
    assert retention.retire(storage, "s", keep=1) == [versions[2]]
    assert set(versions_there(storage, "s")) == {versions[0], versions[3]}
    operations.unpin(config, "s", versions[0])
    assert retention.retire(storage, "s", keep=1) == []  # still current


def test_a_push_deletes_beyond_the_versions_to_keep_and_says_which(pushed, make, push_to, tmp_path, capsys):
    config, versions = pushed
    push_to(config.target, make("fifth"), tmp_path / "record", keep_versions=3)
    there = versions_there(open_storage(config.target), "s")
    assert set(versions) & set(there) == set(versions[2:])
    gone = ", ".join(sorted(versions[:2]))
    assert f"[push] s: deleted {gone} (push.keep_versions = 3)" in capsys.readouterr().out


def test_what_is_deleted_is_gone_with_its_reference(pushed):
    config, versions = pushed
    storage = open_storage(config.target)
    retention.retire(storage, "s", keep=2)
    left = [entry.name for entry in storage.list("s")]
    assert not [name for name in left if versions[0] in name or versions[1] in name]
    assert f"s/references/{versions[3]}.safetensors" in left


def test_a_version_that_never_was_served_is_deleted_a_day_after_its_last_file(pushed, monkeypatch):
    config, versions = pushed
    storage = open_storage(config.target)
    storage.write("s/references/00000000000000aa.safetensors", b"", expected=None)  # as a push does, before all else
    storage.write("s/versions/00000000000000aa/config.json", b"{}", expected=None)
    assert retention.retire(storage, "s", keep=9) == []
    now = time.time()
    monkeypatch.setattr(retention.time, "time", lambda: now + 25 * 3600)
    assert retention.retire(storage, "s", keep=9) == ["00000000000000aa"]
    assert set(versions_there(storage, "s")) == set(versions)


def test_a_version_that_is_marked_cannot_be_pinned_or_rolled_back_to(pushed, tried, monkeypatch):
    config, versions = pushed
    storage = open_storage(config.target)
    monkeypatch.setattr(retention, "finish_deletion", lambda *arguments: None)
    retention.retire(storage, "s", keep=3)
    assert current(config).retired == (versions[0],)
    for operation in (operations.pin, operations.rollback):
        with pytest.raises(UserError, match=rf"{versions[0]} of size 's' is being deleted"):
            operation(config, "s", versions[0])


def test_a_version_that_is_deleted_while_it_is_pushed_is_put_back_whole(
    pushed, make, push_to, tmp_path, monkeypatch, queried
):
    """Of the oldest model, which is pushed again just when it is the next to be deleted."""
    config, versions = pushed
    storage, deleted = open_storage(config.target), []

    def delete_once(queries, config, storage, size, version):
        if size == "s" and not deleted:
            deleted.extend(retention.retire(storage, "s", keep=2))

    monkeypatch.setattr(step, "validate", delete_once)
    record = push_to(config.target, Made(*(tmp_path / f"{kind}-first" for kind in Made._fields)), tmp_path / "again")
    assert deleted == sorted(versions[:2])
    assert record.metadata["pushed"] == ["s", "xl"]
    assert current(config).version == versions[0]
    assert content_digest(fetch(storage, "s", versions[0], tmp_path / "fetched"))[:16] == versions[0]
    assert current(config).retired == ()


def test_a_pin_that_comes_during_a_push_does_not_stop_it(pushed, make, push_to, tmp_path, monkeypatch):
    config, versions = pushed
    pins = []

    def pin_once(queries, config, storage, size, version):
        if size == "s":
            pins.append(operations.pin(config, "s", versions[0]))

    monkeypatch.setattr(step, "validate", pin_once)
    push_to(config.target, make("fifth"), tmp_path / "record")
    assert len(pins) == 1, "it was tried out once: nothing of it changed"
    assert current(config).previous == versions[3]
    assert current(config).pinned == (versions[0],)


def test_what_is_not_marked_any_more_is_not_deleted(pushed, tmp_path):
    config, versions = pushed
    storage = open_storage(config.target)
    retention.finish_deletion(storage, "s", versions[0])
    assert content_digest(fetch(storage, "s", versions[0], tmp_path)).startswith(versions[0])


def test_pins_of_what_is_not_there_and_unpins_of_what_is_not_pinned_are_refused(pushed):
    config, versions = pushed
    with pytest.raises(UserError, match=r"0000000000000000 is no whole version"):
        operations.pin(config, "s", "0" * 16)
    operations.pin(config, "s", versions[1])
    with pytest.raises(UserError, match=rf"{versions[0]} of size 's' is not pinned; pinned are: {versions[1]}"):
        operations.unpin(config, "s", versions[0])


def test_the_history_keeps_the_newest_moves_when_it_is_full(tmp_path, monkeypatch):
    from components.common.served import pointer

    monkeypatch.setattr(pointer, "HISTORY_LENGTH", 3)
    storage, before = open_storage(str(tmp_path)), None
    for number in range(5):
        before = move_pointer(storage, "s", before, f"{number:016d}" + "0" * 48, why="push")
    assert [int(move.version) for move in read_pointer(storage, "s").history] == [2, 3, 4]
    assert HISTORY_LENGTH >= 1000


@pytest.mark.slow
def test_the_command_works_on_a_target_alone(gcs_target, make, push_to, queried, tmp_path):
    for content in ("first", "second"):
        push_to(gcs_target, make(content), tmp_path / content)
    version = current(PushConfig(target=gcs_target)).previous

    def command(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "components.push", "--target", gcs_target, *arguments],
            capture_output=True,
            text=True,
        )

    assert f"{version} is pinned" in command("--pin", "s", version).stdout
    history = command("--history", "s")
    assert (history.returncode, len(history.stdout.splitlines())) == (0, 3)
    assert history.stdout.splitlines()[1].endswith("[pinned]")
    assert f"{version} is not pinned any more" in command("--unpin", "s", version).stdout
    refused = command("--rollback", "s")
    assert refused.returncode == 2
    assert re.search(
        r"error: gs://.* does not load and generate .*The pointer was not moved\.$", refused.stderr.strip()
    )
    missing = command("--decision", "x")
    assert missing.returncode == 2
    assert "required: --students, --evaluation, --output" in missing.stderr
    assert "--to goes with --rollback" in command("--to", version).stderr
