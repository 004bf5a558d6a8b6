"""Infra validation: a version must load and answer as it lies in the target, with stock libraries alone."""

import contextlib
import dataclasses
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, Any

import matta_core
from components.common.served.versions import fetch, reference_name, version_name
from components.common.step_runner import say
from components.common.storage.storage import Storage
from matta_core.errors import UserError
from matta_core.recipe import PushConfig

# The objective's own way to try a model out. It is a script: this process does not load torch.
_SCRIPT = "matta_core.objectives.next_token_query"
QUERY = Path(matta_core.__path__[0]).parent.joinpath(*_SCRIPT.split(".")).with_suffix(".py")
_POLL_SECONDS = 0.05


def validate(queries: "Queries", config: PushConfig, storage: Storage, size: str, version: str) -> None:
    """Load a version in a fresh process, generate, and compare its logits with the recorded ones.

    The process sees the target's files (those of an object store as a download) and stock transformers. It sees none of
    our code: it runs in Python's isolated mode, in an empty directory, without the hub.

    Raises: UserError with the expected and the actual answer, where the version is missing or damaged, does not load,
    answers otherwise than recorded, or takes too long or too much memory.
    """
    with tempfile.TemporaryDirectory() as folder:
        place = fetch(storage, size, version, Path(folder))
        reference = storage.local_path(reference_name(size, version))
        if reference is None:
            reference = Path(folder, "reference.safetensors")
            storage.download(reference_name(size, version), reference)
        elif not reference.is_file():
            raise UserError(f"{reference} is missing, so nothing says how this version should answer: push it again")
        where = storage.location(version_name(size, version))
        report = queries.query(
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


class Queries:
    """A context in which models are tried out, each in a fresh process: a fork of one that has loaded the libraries.

    The first query starts that process. After a query that failed, the next one starts it again.
    """

    def __init__(self) -> None:
        self._resources = contextlib.ExitStack()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Queries":
        return self

    def __exit__(self, *_exception: object) -> None:
        self._end()

    def query(
        self, place: Path, reference: Path, where: str, *, timeout_seconds: float, max_memory_bytes: int | None
    ) -> dict[str, Any]:
        """Run the query on a local folder and return its report. `where` names the model in messages.

        `max_memory_bytes` bounds the whole process's resident memory: Python and torch alone are a third of a gigabyte.
        """
        deadline = time.monotonic() + timeout_seconds
        try:
            with tempfile.TemporaryDirectory() as folder:
                files = [Path(folder, name) for name in ("out", "err")]
                for file in files:
                    file.touch()
                request = [str(place.resolve()), str(reference.resolve()), *map(str, files)]
                status = self._answer(request, _Limits(where, deadline, timeout_seconds, max_memory_bytes))
                printed, complaints = (file.read_text(errors="replace") for file in files)
            if status != 0:
                complaints = complaints.strip() or self._complaints()
                reason = (complaints.splitlines() or [f"exit status {status}"])[-1].rstrip(".")
                # Only files that stay can be queried again: a download is gone by now.
                command = [sys.executable, "-I", str(QUERY), *request[:2]]
                again = f" To see all of it: HF_HUB_OFFLINE=1 {' '.join(command)}"
                raise UserError(
                    f"{where} does not load and generate in a fresh process: {reason}. The pointer was not moved."
                    f"{again if where == str(place) else ''}"
                )
            report = json.loads(printed.splitlines()[-1])
            _check_memory(report["peak_memory_bytes"], where, max_memory_bytes)
        except BaseException:
            self._end()
            raise
        return report

    def _answer(self, request: list[str], limits: "_Limits") -> int:
        """The exit status of the request's process, or of the one that had to fork it, if that one died."""
        process = self._started()
        assert process.stdin is not None, "it is a pipe"
        assert process.stdout is not None, "it is a pipe"
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(json.dumps(request).encode() + b"\n")
        child = _line(process.stdout, None, limits)
        status = _line(process.stdout, int(child), limits) if child else b""
        return int(status) if status else process.wait() or 1

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            self._errors = self._resources.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
            self._process = subprocess.Popen(
                [sys.executable, "-I", str(QUERY)],
                cwd=self._resources.enter_context(tempfile.TemporaryDirectory()),
                env=os.environ | {"HF_HUB_OFFLINE": "1"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                bufsize=0,  # `select` must see a line that came together with the one before
                start_new_session=True,  # so that it can be ended together with its children
            )
            self._resources.callback(_end_group, self._process)
        return self._process

    def _complaints(self) -> str:
        self._errors.seek(0)
        return self._errors.read().decode(errors="replace").strip()

    def _end(self) -> None:
        self._process = None
        self._resources.close()


def _line(output: IO[bytes], child: int | None, limits: "_Limits") -> bytes:
    """The process's next line; empty where it has ended. Raises: UserError as soon as a limit is passed."""
    while not select.select([output], [], [], _POLL_SECONDS)[0]:
        limits.check(child)
    return output.readline()


def _end_group(process: subprocess.Popen[bytes]) -> None:
    with process, contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


@dataclasses.dataclass(frozen=True)
class _Limits:
    where: str
    deadline: float
    timeout_seconds: float
    max_memory_bytes: int | None

    def check(self, child: int | None) -> None:
        if time.monotonic() > self.deadline:
            raise UserError(
                f"{self.where} did not load and generate within push.load_timeout_seconds = "
                f"{self.timeout_seconds:g}: the pointer was not moved. Raise the limit, or look at the model"
            )
        if child is not None and self.max_memory_bytes is not None:
            _check_memory(_peak_memory_bytes(child), self.where, self.max_memory_bytes)


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
    """The process's peak memory; 0 for one that has just ended."""
    status = Path("/proc", str(pid), "status")
    if not Path("/proc/self/status").exists():
        return None
    try:
        _, found, rest = status.read_text().partition("VmHWM:")
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(rest.split()[0]) * 1024 if found else 0
