"""A directory that several machines share: their locks are the server's, what they know of it may be old."""

import errno
import io
import json
import os
import subprocess
import time
from pathlib import Path

import pytest
from support import in_a_child

from components.common.storage.open_storage import open_storage
from components.common.storage.storage import ConflictError

SWAPS = 60


class Machine:
    """What an NFS client does between a program and its server: names and attributes are asked for once and kept.

    nfs(5), "Close-to-open cache consistency": it asks again when a folder or file is opened. A name that was not there
    is kept as well, until its folder is opened or this machine changes it.
    """

    def __init__(self, root):
        self._root, self._kept = os.fspath(root), {}

    def install(self, monkeypatch):
        for name in ("rename", "replace", "unlink", "rmdir", "mkdir", "utime"):
            monkeypatch.setattr(os, name, self._changing(getattr(os, name)))
        for name in ("listdir", "scandir"):
            monkeypatch.setattr(os, name, self._listing(getattr(os, name)))
        real_stat, real_open, real_io_open = os.stat, os.open, io.open

        def stat(path, **options):
            if not self._is_there(path) or options.get("dir_fd") is not None:
                return real_stat(path, **options)
            if (key := _key(path)) not in self._kept:
                self._kept[key] = real_stat(path, **options) if os.path.lexists(path) else None
            self._refuse_what_was_missing(path)
            return self._kept[key]

        def open_(path, flags, *arguments, **options):
            if self._is_there(path):
                if flags & os.O_DIRECTORY:
                    self._forget_names(path)
                elif not flags & os.O_CREAT:
                    self._refuse_what_was_missing(path)
                self._kept.pop(_key(path), None)
            return real_open(path, flags, *arguments, **options)

        def io_open(path, mode="r", *arguments, **options):
            if self._is_there(path) and "r" in mode:
                self._refuse_what_was_missing(path)
            file = real_io_open(path, mode, *arguments, **options)
            if self._is_there(path):
                self._kept[_key(path)] = os.fstat(file.fileno())
            return file

        # os.path.lexists is what asks the server here: it must not come back to us.
        real_lstat = os.lstat
        monkeypatch.setattr(os.path, "lexists", lambda path: _answers(real_lstat, path))
        monkeypatch.setattr(os, "stat", stat)
        monkeypatch.setattr(os, "open", open_)
        monkeypatch.setattr(io, "open", io_open)

    def _is_there(self, path):
        return isinstance(path, str | os.PathLike) and _key(path).startswith(self._root)

    def _refuse_what_was_missing(self, path):
        if self._kept.get(_key(path), path) is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), os.fspath(path))

    def _forget_names(self, folder):
        for key in [key for key in self._kept if str(Path(key).parent) == _key(folder)]:
            del self._kept[key]

    def _changing(self, real):
        def call(*arguments, **options):
            result = real(*arguments, **options)
            for argument in arguments:
                if self._is_there(argument):
                    self._kept.pop(_key(argument), None)
            return result

        return call

    def _listing(self, real):
        def call(folder="."):
            if self._is_there(folder):
                self._forget_names(folder)
            return real(folder)

        return call


def _key(path):
    return str(Path(path).absolute())


def _answers(ask, path):
    try:
        ask(path)
    except OSError:
        return False
    return True


def swap_many(target, number, outcomes):
    """Add one to a number in the storage, often, and note each swap that was told to have been done; and try to be the
    first to make files that the other process makes as well."""
    storage, done, first = open_storage(target), 0, []
    while done < SWAPS:
        found = storage.read("s/current.json")
        value = 0 if found is None else int(found[0])
        try:
            storage.write("s/current.json", b"%d" % (value + 1), expected=found and found[1])
            done += 1
        except ConflictError:
            continue
        if done % 3 == 0:
            try:
                storage.write(f"m/versions/{done}/manifest.json", b"%d" % number, expected=None)
                first.append(done)
            except ConflictError:
                assert storage.read(f"m/versions/{done}/manifest.json") is not None
    outcomes.joinpath(str(number)).write_text(json.dumps(first))


def race(targets, tmp_path, begin=lambda: None):
    """Two processes at once, each with its own target; asserts that no swap was lost and each file made once."""
    children = []
    for number, target in enumerate(targets):
        child = os.fork()
        if child == 0:

            def work(target=target, number=number):
                begin()
                swap_many(target, number, tmp_path)

            os._exit(in_a_child(work))
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0]
    made = [json.loads((tmp_path / str(number)).read_text()) for number in range(2)]
    storage = open_storage(targets[0])
    assert int(storage.read("s/current.json")[0]) == 2 * SWAPS
    assert sorted(made[0] + made[1]) == list(range(3, SWAPS + 1, 3))
    for number in range(2):
        for turn in made[number]:
            assert storage.read(f"m/versions/{turn}/manifest.json")[0] == b"%d" % number


def elsewhere(commands, folder):
    """Shell commands, which go past what this process keeps."""
    subprocess.run(commands, shell=True, cwd=folder, check=True)


@pytest.fixture
def client(tmp_path, monkeypatch):
    def install():
        Machine(tmp_path / "pushed").install(monkeypatch)

    return install


def test_the_stand_in_keeps_what_it_knows_until_something_is_opened(tmp_path, client):
    folder = tmp_path / "pushed"
    folder.mkdir()

    def on_one_machine():
        (folder / "there").write_text("1")
        client()
        size = (folder / "there").stat().st_size
        assert not (folder / "new").exists()
        elsewhere("printf 123 > there.tmp; mv there.tmp there; touch new", folder)
        assert (folder / "there").stat().st_size == size
        with pytest.raises(FileNotFoundError):
            (folder / "new").open()
        with (folder / "there").open() as file:
            assert os.fstat(file.fileno()).st_size == (folder / "there").stat().st_size == 3
        os.close(os.open(folder, os.O_RDONLY | os.O_DIRECTORY))
        assert (folder / "new").exists()

    assert in_a_child(on_one_machine) == 0


def test_two_machines_that_know_old_names_and_attributes_lose_no_swap(tmp_path, client):
    race([str(tmp_path / "pushed")] * 2, tmp_path, begin=client)


def test_two_processes_on_a_file_system_that_hides_open_files_lose_no_swap(tmp_path, mounted):
    race([str(mounted() / "pushed")] * 2, tmp_path)


def test_two_places_where_one_file_system_is_mounted_lose_no_swap(tmp_path, mounted):
    race([str(mounted(name) / "pushed") for name in ("one", "other")], tmp_path)


def test_a_deletion_by_one_machine_spares_what_another_wrote_since(tmp_path, client):
    target = tmp_path / "pushed"
    storage = open_storage(str(target))
    storage.write("s/x", b"old", expected=None)

    def on_one_machine():
        client()
        (entry,) = storage.list("s")
        elsewhere("sleep 0.01; cp s/x t; printf new > t; mv t s/x", target)
        storage.delete(entry)

    assert in_a_child(on_one_machine) == 0
    assert storage.read("s/x")[0] == b"new"


def test_a_file_that_another_machine_replaces_while_it_is_read_is_read_again(tmp_path, monkeypatch):
    storage = open_storage(str(tmp_path / "pushed"))
    storage.write("s/x", b"one", expected=None)
    real, stale = os.fstat, [OSError(errno.ESTALE, os.strerror(errno.ESTALE))] * 3

    def fstat(descriptor):
        if stale:
            raise stale.pop()
        return real(descriptor)

    monkeypatch.setattr(os, "fstat", fstat)
    assert storage.read("s/x")[0] == b"one"
    assert stale == []


def test_times_kept_to_the_second_still_tell_one_write_from_the_next(tmp_path, monkeypatch):
    real = os.utime

    def utime(path, *, ns):
        real(path, ns=tuple(time_ns // 10**9 * 10**9 for time_ns in ns))

    monkeypatch.setattr(os, "utime", utime)
    storage = open_storage(str(tmp_path / "pushed"))
    generations = [storage.write("s/x", b"0", expected=None)]
    for number in range(4):
        generations.append(storage.write("s/x", b"%d" % number, expected=generations[-1]))
        with pytest.raises(ConflictError):
            storage.write("s/x", b"!", expected=generations[-2])
    assert len(set(generations)) == 5
    assert Path(tmp_path, "pushed/s/x").stat().st_mtime < time.time() + 60
