"""A hub that cannot be reached: how long it costs, what is told, and that a slow one is waited for."""

import socket
import subprocess
import sys
import time

import pytest
from huggingface_hub import constants
from huggingface_hub.utils import httpx

from matta_core import hub, pretrained
from matta_core.errors import UserError


@pytest.fixture
def deaf():
    """An address whose connections are never made: the queue of those that wait is full."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(server.getsockname())
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        for one in waiting:
            one.close()


@pytest.mark.slow
def test_a_hub_that_cannot_be_reached_costs_a_quarter_of_a_minute_at_most(deaf, monkeypatch, tmp_path):
    code = "from matta_core.pretrained import load_tokenizer\nload_tokenizer('owner/name')"
    environment = {"HF_ENDPOINT": deaf, "HF_HOME": str(tmp_path), "PYTHONPATH": ":".join(sys.path), "PATH": "/bin"}
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    seconds = time.monotonic() - started
    assert (
        f"UserError: cannot load a tokenizer from owner/name: nothing of it was kept, and {deaf} cannot be reached "
        "(timed out). Give a folder with tokenizer.json"
    ) in done.stderr
    assert seconds < 11 + 10, "two tries of 5 seconds, one between; the rest is Python's start on a busy machine"


def test_only_the_connection_has_less_time_than_the_user_says(monkeypatch):
    given = []

    def ask(method, url, *, timeout, **_):
        given.append(timeout)

    monkeypatch.setattr(hub, "http_backoff", ask)
    for seconds in (10, 60):  # the second by HF_HUB_ETAG_TIMEOUT
        monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", seconds)
        monkeypatch.setattr(constants, "ENDPOINT", f"https://slow-{seconds}.example")
        with hub.or_what_was_kept() as unreachable:
            assert unreachable is None
    assert [(timeout.connect, timeout.read) for timeout in given] == [(5, 10), (30, 60)]


def test_a_process_asks_once(monkeypatch):
    asked = []

    def refuse(method, url, **_):
        asked.append(url)
        raise httpx.ConnectError("refused")

    monkeypatch.setattr(hub, "http_backoff", refuse)
    monkeypatch.setattr(constants, "ENDPOINT", "https://asked-once.example")
    for name in ("owner/name", "owner/other"):
        with pytest.raises(UserError, match=rf"from {name}: nothing of it was kept, and .* \(refused\)"):
            pretrained.load_config(name)
    assert asked == ["https://asked-once.example"]


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "a/b/c"])
def test_a_path_is_not_looked_up_on_the_hub(monkeypatch, name):
    monkeypatch.setattr(hub, "_unreachable", lambda endpoint: pytest.fail("asked"))
    with pytest.raises(UserError, match="cannot load a config from"):
        pretrained.load_config(name)
