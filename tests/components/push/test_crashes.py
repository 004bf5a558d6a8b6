"""A pusher that is killed, at any write: its pointer names a whole version all the time, and trying again ends well."""

import json
import os
import shutil
import signal

import pytest
from support import in_a_child

from components.common.served.pointer import read_pointer
from components.common.served.versions import content_digest, fetch, versions_there
from components.common.storage.open_storage import open_storage
from components.push import step
from components.push.retention import retire

# The third push deletes the first one's version: 2 are the current and its previous.
SETTINGS = {"keep_versions": 2}


class Countdown:
    """Kills this process before the n-th of the writes that are announced to it."""

    def __init__(self, writes):
        self.left = writes

    def __call__(self):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


class KilledStorage:
    """A storage that announces every write, before it and after it."""

    def __init__(self, storage, announce):
        self._store, self._announce = storage, announce

    def __getattr__(self, name):
        method = getattr(self._store, name)
        if name not in ("write", "upload", "delete"):
            return method

        def announced(*arguments, **options):
            self._announce()
            result = method(*arguments, **options)
            self._announce()
            return result

        return announced


def in_a_process_killed_at(write, work):
    """Run `work(announce)` in a process of its own; its exit status, -9 where it was killed."""
    return in_a_child(lambda: work(Countdown(write)))


def announcing_every_write(monkeypatch, announce, *, flushes):
    real_open, real_fsync = step.open_storage, os.fsync
    monkeypatch.setattr(step, "open_storage", lambda target: KilledStorage(real_open(target), announce))
    if flushes:  # in the middle of a directory's writes as well: written and not yet in place

        def fsync(descriptor):
            announce()
            real_fsync(descriptor)

        monkeypatch.setattr(os, "fsync", fsync)


def record_of(artifact):
    return json.loads((artifact.path / "push.json").read_text())["students"]


def assert_pointers_are_sound(target, folder):
    """What a pointer names is there, whole, whoever comes to fetch it now."""
    storage = open_storage(target)
    for size in ("s", "xl"):
        if (pointer := read_pointer(storage, size)) is not None:
            assert content_digest(fetch(storage, size, pointer.version, folder)) == pointer.digest


def state_of(target):
    """What lies in a target and what its pointers say, but for times, processes and generations."""
    storage = open_storage(target)
    state = {}
    for size in ("s", "xl"):
        if (pointer := read_pointer(storage, size)) is None:
            continue
        moves = [(move.version, move.why, move.decision) for move in pointer.history]
        files = [entry.name for entry in storage.list(size)]
        state[size] = (pointer.version, pointer.previous, pointer.retired, moves, files)
    return state


@pytest.mark.slow
def test_a_push_killed_at_any_write_leaves_a_sound_pointer_and_the_next_one_ends_as_if_nothing_happened(
    target, make, push_to, queried, tmp_path, monkeypatch
):
    generations = [make(content, blessed=("s",)) for content in ("first", "second", "third")]
    reference = f"{target}-reference"
    for number, made in enumerate(generations):
        undisturbed = record_of(push_to(reference, made, tmp_path / f"reference-{number}", **SETTINGS))
    expected = state_of(reference)

    write, killed = 0, 0
    while True:
        write += 1
        place = f"{target}-{write}"
        if write == 1 or place.startswith("gs://"):
            for number, made in enumerate(generations[:2]):
                push_to(place, made, tmp_path / f"record-{write}-{number}", **SETTINGS)
            if not place.startswith("gs://"):
                shutil.copytree(place, f"{target}-before")
        else:
            shutil.copytree(f"{target}-before", place)

        def push_third(announce, place=place, write=write):
            announcing_every_write(monkeypatch, announce, flushes=not place.startswith("gs://"))
            push_to(place, generations[2], tmp_path / f"record-{write}", **SETTINGS)

        status = in_a_process_killed_at(write, push_third)
        assert_pointers_are_sound(place, tmp_path / f"fetched-{write}")
        if status == 0:
            break
        assert status == -signal.SIGKILL
        killed += 1
        retried = record_of(push_to(place, generations[2], tmp_path / f"record-{write}", **SETTINGS))
        assert_pointers_are_sound(place, tmp_path / f"fetched-{write}")
        assert state_of(place) == expected
        for size, entry in retried.items():
            assert {**entry, "path": None} == {**undisturbed[size], "path": None}
    # Before and after: two files, a reference, a manifest, a pointer; a mark, a deletion of each file, an unmark.
    assert killed >= 2 * (2 + 1 + 1 + 1) + 2 * (1 + 2 + 1 + 1 + 1)


def test_a_deletion_killed_halfway_is_never_taken_for_a_whole_version_and_the_next_push_finishes_it(
    target, make, push_to, queried, tmp_path, monkeypatch
):
    first, second, third = make("first"), make("second"), make("third")
    for number, made in enumerate((first, second, third)):
        push_to(target, made, tmp_path / f"record-{number}")
    storage, doomed = open_storage(target), content_digest(first.students / "s")[:16]

    def delete(announce):
        retire(KilledStorage(storage, announce), "s", keep=2)

    # Announced: marking (2), the manifest (2), and before the first of the model's files.
    assert in_a_process_killed_at(5, delete) == -signal.SIGKILL
    assert storage.read(f"s/versions/{doomed}/manifest.json") is None
    assert storage.read(f"s/versions/{doomed}/model.safetensors") is not None
    assert read_pointer(storage, "s").retired == (doomed,)
    push_to(target, third, tmp_path / "record-2", **SETTINGS)
    assert doomed not in versions_there(storage, "s")
    assert read_pointer(storage, "s").retired == ()
    assert [entry.name for entry in storage.list("s/references") if doomed in entry.name] == []


def test_a_version_whose_deletion_was_killed_can_be_pushed_again(target, make, push_to, queried, tmp_path):
    generations = [make("first"), make("second"), make("third")]
    for number, made in enumerate(generations):
        push_to(target, made, tmp_path / f"record-{number}")
    storage, digest = open_storage(target), content_digest(generations[0].students / "s")
    assert (
        in_a_process_killed_at(6, lambda announce: retire(KilledStorage(storage, announce), "s", 2)) == -signal.SIGKILL
    )
    record = record_of(push_to(target, generations[0], tmp_path / "again"))
    assert record["s"]["after"] == digest[:16]
    assert content_digest(fetch(storage, "s", digest[:16], tmp_path / "fetched")) == digest
    assert read_pointer(storage, "s").retired == ()
