"""Infra validation: does a version, as it lies in the target, load and answer where only stock libraries are?"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from components.push.store import Store
from components.push.versions import fetch, reference_name, version_name
from components.step import say
from matta_core.config import PushConfig
from matta_core.errors import UserError

QUERY = Path(__file__).with_name("query.py")
_POLL_SECONDS = 0.05


def validate(config: PushConfig, store: Store, size: str, version: str) -> None:
    """Load a version in a fresh process, generate, and compare its logits with the recorded ones.

    The process sees the files that the target holds (of an object store: a download of their own), stock
    transformers, and none of our code: Python's isolated mode, in an empty directory, without the hub.

    Raises: UserError that says what was expected and what came, where the version is missing or damaged, does not
    load, answers otherwise than recorded, takes too long or too much memory.
    """
    with tempfile.TemporaryDirectory() as folder:
        place = fetch(store, size, version, Path(folder))
        reference = store.local_path(reference_name(size, version))
        if reference is None:
            reference = Path(folder, "reference.safetensors")
            store.download(reference_name(size, version), reference)
        elif not reference.is_file():
            raise UserError(f"{reference} is missing, so nothing says how this version should answer: push it again")
        where = store.location(version_name(size, version))
        report = query(
            place,
            reference,
            where,
            timeout_seconds=config.load_timeout_seconds,
            max_memory_bytes=config.max_load_memory_bytes,
        )
    say(
        "push",
        f"{size}: {version} loaded in a fresh process in {report['seconds']:.1f} s, logits within "
        f"{report['max_difference']:.1e} of those recorded; it says {report['generated']!r}",
    )


def query(
    place: Path, reference: Path, where: str, *, timeout_seconds: float, max_memory_bytes: int | None
) -> dict[str, Any]:
    """Run query.py on a local folder and return its report. `where` names the model in messages.

    `max_memory_bytes` bounds the whole process's resident memory: Python and torch alone are about half a gigabyte.
    """
    command = [sys.executable, "-I", str(QUERY), str(place.resolve()), str(reference.resolve())]
    with tempfile.TemporaryDirectory() as empty, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = subprocess.Popen(
            command,
            cwd=empty,
            env=os.environ | {"HF_HUB_OFFLINE": "1"},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
        )
        try:
            _watch(process, where, timeout_seconds, max_memory_bytes)
        finally:
            process.kill()
            process.wait()
        out.seek(0)
        err.seek(0)
        printed, complaints = out.read().decode(errors="replace"), err.read().decode(errors="replace").strip()
    if process.returncode != 0:
        reason = (complaints.splitlines() or [f"exit status {process.returncode}"])[-1].rstrip(".")
        # A download is gone by now: what stays can be asked again.
        repeat = f" To see all of it: HF_HUB_OFFLINE=1 {' '.join(command)}" if where == str(place) else ""
        raise UserError(
            f"{where} does not load and generate in a fresh process: {reason}. The pointer was not moved.{repeat}"
        )
    report = json.loads(printed.splitlines()[-1])
    _check_memory(report["peak_memory_bytes"], where, max_memory_bytes)
    return report


def _watch(process: subprocess.Popen, where: str, timeout_seconds: float, max_memory_bytes: int | None) -> None:
    """Wait for the end. Raises: UserError at the first limit that is passed."""
    deadline = time.monotonic() + timeout_seconds
    while True:
        try:
            process.wait(_POLL_SECONDS)
            return
        except subprocess.TimeoutExpired:
            if time.monotonic() > deadline:
                raise UserError(
                    f"{where} did not load and generate within push.load_timeout_seconds = {timeout_seconds:g}: the "
                    f"pointer was not moved. Raise the limit, or look at the model"
                ) from None
            if max_memory_bytes is not None:
                _check_memory(_peak_memory_bytes(process.pid), where, max_memory_bytes)


def _check_memory(peak: int | None, where: str, allowed: int | None) -> None:
    if allowed is None:
        return
    if peak is None:
        raise UserError("push.max_load_memory_bytes is measured on Linux only: leave it out here")
    if peak > allowed:
        raise UserError(
            f"{where} took {peak:,} bytes of memory to load and generate, push.max_load_memory_bytes allows "
            f"{allowed:,}: the pointer was not moved. Raise the limit, or push a smaller model"
        )


def _peak_memory_bytes(pid: int) -> int | None:
    """0 for a process that has just ended."""
    status = Path("/proc", str(pid), "status")
    if not Path("/proc/self/status").exists():
        return None
    try:
        _, found, rest = status.read_text().partition("VmHWM:")
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(rest.split()[0]) * 1024 if found else 0
