"""A headless Chromium, driven over the DevTools protocol: what a page really draws, asks for, and complains about."""

import base64
import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest
import websocket
from PIL import Image

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage --remote-debugging-port=0 "
    "--remote-allow-origins=* --hide-scrollbars about:blank"
)
START_SECONDS = 90  # on a machine busy with other work


def executable():
    """Path of a Chromium or Chrome, or None."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@contextlib.contextmanager
def browser(profile: Path):
    """A running Chromium with an empty profile; yields its first page. Skips the test where there is none."""
    path = executable()
    if path is None:
        pytest.skip(f"none of {', '.join(NAMES)} is on the PATH")
    profile.mkdir(parents=True, exist_ok=True)
    log = (profile / "chromium.log").open("w")
    process = subprocess.Popen(
        [path, *FLAGS.split(), f"--user-data-dir={profile}"], stdout=log, stderr=log, start_new_session=True
    )
    try:
        port_file = profile / "DevToolsActivePort"
        deadline = time.monotonic() + START_SECONDS
        while not port_file.is_file() or not port_file.read_text().strip():
            assert process.poll() is None, (profile / "chromium.log").read_text()
            assert time.monotonic() < deadline, f"Chromium did not start within {START_SECONDS} s"
            time.sleep(0.1)
        port = port_file.read_text().split()[0]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json") as answer:
            targets = json.load(answer)
        url = next(target["webSocketDebuggerUrl"] for target in targets if target["type"] == "page")
        page = Page(url)
        try:
            yield page
        finally:
            page.close()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        log.close()


class Page:
    """One tab. `requests` and `complaints` are of the page that was opened last."""

    def __init__(self, url):
        self._socket = websocket.create_connection(url, timeout=START_SECONDS)
        self._number = 0
        self.requests, self.complaints, self._loaded = [], [], False
        for domain in ("Page", "Runtime", "Log", "Network", "Accessibility", "DOM"):
            self.send(f"{domain}.enable")

    def close(self):
        self._socket.close()

    def send(self, method, **parameters):
        """Call a DevTools method, return its result. Raises: AssertionError with the protocol's message."""
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while True:
            message = self._receive()
            if message.get("id") == self._number:
                assert "error" not in message, f"{method}: {message['error']}"
                return message["result"]

    def open(self, file: Path, *, width=1280, height=900, dark=False, media="screen"):
        """Load a local file in a window of `width` x `height` pixels; return when it has loaded and been drawn."""
        self.requests, self.complaints, self._loaded = [], [], False
        self.resize(width, height)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", media=media, features=[scheme])
        self.send("Page.navigate", url=file.resolve().as_uri())
        while not self._loaded:
            self._receive()
        self.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def resize(self, width, height=900):
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )

    def evaluate(self, expression):
        """The JSON value of a JavaScript expression in the page."""
        result = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def screenshot(self, file: Path | None = None, *, whole=False):
        """The window, or the whole page, as a PIL image."""
        png = base64.b64decode(self.send("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"])
        if file is not None:
            file.write_bytes(png)
        return Image.open(io.BytesIO(png)).convert("RGB")

    def press_tab(self):
        for kind in ("rawKeyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab", windowsVirtualKeyCode=9)

    def accessibility_tree(self):
        """(role, name, description) of every node that a screen reader is told of."""
        nodes = self.send("Accessibility.getFullAXTree")["nodes"]
        return [
            tuple(node.get(part, {}).get("value", "") for part in ("role", "name", "description"))
            for node in nodes
            if not node.get("ignored")
        ]

    def _receive(self):
        message = json.loads(self._socket.recv())
        parameters = message.get("params", {})
        match message.get("method"):
            case "Page.loadEventFired":
                self._loaded = True
            case "Network.requestWillBeSent":
                self.requests.append(parameters["request"]["url"])
            case "Log.entryAdded":
                self.complaints.append(parameters["entry"]["text"])
            case "Runtime.exceptionThrown":
                self.complaints.append(parameters["exceptionDetails"]["text"])
            case "Runtime.consoleAPICalled":
                self.complaints.append(str(parameters["args"]))
        return message
