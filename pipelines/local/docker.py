"""The containers of a local run: kfp.local's DockerRunner gets what a step needs, and its containers are watched.

kfp counts a container that is gone before kfp asks for it as a success. So docker's events say here how each one ended,
and its output is looked for.
"""

import contextlib
import getpass
import json
import os
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import docker
from docker.types import DeviceRequest, Mount
from kfp import local

from components.common.disk import make_directory
from components.common.images import CODE_DIGEST_LABEL, DATA_IMAGE, EVALUATOR_IMAGE, TRAINER_IMAGE, code_digest
from matta_core.errors import UserError
from matta_core.recipe import Recipe
from pipelines.local.mounts import Mounts, mounts_of

_LABEL = "matta.run"
_SHARED_MEMORY = "2g"  # torch's worker processes and NCCL pass tensors through /dev/shm; docker's default is 64 MB
# Docker passes on whole lines only, so a bar's carriage returns become line ends, as kfp does with a process's output.
# A container that fails stays for a second, because kfp must find it to read its log and its status.
_ENTRYPOINT = [
    "bash",
    "-c",
    'set -o pipefail; "$@" 2>&1 | stdbuf -oL tr "\\r" "\\n" || { status=$?; sleep 1; exit $status; }',
    "step",
]
_FORWARDED = ("GOOGLE_CLOUD_PROJECT", "STORAGE_EMULATOR_HOST", "KUBECONFIG")
_FORWARDED_PREFIXES = ("HF_", "TQDM_", "OMP_", "MKL_", "TORCH_", "TRANSFORMERS_", "TOKENIZERS_", "NCCL_", "MATTA_")
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY")


@dataclass
class Container:
    """One step's container: the step, the file that it should leave, and its exit code (None while it runs)."""

    step: str
    output_file: str | None
    exit_code: int | None = None

    def problem(self) -> str | None:
        """Why the container counts as failed, or None."""
        if self.exit_code == 137:
            return f"the container of {self.step} was killed (status 137): most likely it had too little memory"
        if self.exit_code:
            return f"the container of {self.step} ended with status {self.exit_code}"
        if self.output_file is not None and not Path(self.output_file).is_file():
            return f"the container of {self.step} ended without its outputs ({self.output_file} is missing)"
        return None


class Containers:
    """Every container with one run's label. docker's events record it, and it is ended with the run."""

    def __init__(self, client: docker.DockerClient) -> None:
        self.label = uuid.uuid4().hex
        self._client = client
        self._containers: dict[str, Container] = {}
        filters = {"type": "container", "label": f"{_LABEL}={self.label}", "event": ["start", "die"]}
        self._events = client.events(decode=True, filters=filters)
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()

    def problems(self, wait_seconds: float = 5.0) -> list[str]:
        """The problems of the containers that ended, in the order in which these started."""
        deadline = time.monotonic() + wait_seconds  # events come a little after the fact
        while any(item.exit_code is None for item in self._containers.values()) and time.monotonic() < deadline:
            time.sleep(0.05)
        return [problem for item in self._containers.values() if (problem := item.problem())]

    def close(self) -> None:
        """End the containers that still run."""
        for container in self._client.containers.list(filters={"label": f"{_LABEL}={self.label}"}):
            with contextlib.suppress(docker.errors.APIError):  # it has just ended by itself
                container.kill()
        self._events.close()
        self._watcher.join(5.0)
        self._client.close()

    def _watch(self) -> None:
        with contextlib.suppress(docker.errors.DockerException, OSError, ValueError):  # closed in the middle of a read
            for event in self._events:
                if event["Action"] == "start":
                    self._containers[event["id"]] = self._look_at(event["id"])
                else:
                    item = self._containers.setdefault(event["id"], Container("a step", None))
                    item.exit_code = int(event["Actor"]["Attributes"]["exitCode"])

    def _look_at(self, container_id: str) -> Container:
        """The step and its output file, read from the command line that kfp's executor got."""
        try:
            command = self._client.api.inspect_container(container_id)["Config"]["Cmd"]
        except docker.errors.NotFound:  # ended and removed already
            return Container("a step", None)
        options = dict(pairwise(command))
        executor_input = json.loads(options.get("--executor_input", "{}"))
        output_file = executor_input.get("outputs", {}).get("outputFile")
        return Container(options.get("--function_to_execute", "a step"), output_file)


@contextlib.contextmanager
def containers_of(recipe: Recipe, output: Path) -> Iterator[tuple[local.DockerRunner, Callable[[], list[str]]]]:
    """A runner for local.init, and a function that gives the failures. Containers that still run at the end are killed.

    A step's container has this machine's network, so that it reaches a hub or a registry at localhost as a process
    does. It has the caller's user id, a read-only root with a /tmp in memory, and the mounts of `mounts_of`.

    Raises: UserError where no engine answers, an image is missing or holds other code, or a path cannot be mounted.
    """
    client = _client()
    _check_images(client)
    mounts = mounts_of(recipe, output)
    environment = _environment(mounts)
    containers = Containers(client)
    runner = local.DockerRunner(
        entrypoint=_ENTRYPOINT,
        user=f"{os.getuid()}:{os.getgid()}",
        group_add=[str(group) for group in os.getgroups()],
        working_dir=str(Path.cwd()),
        mounts=[*_working_directory(mounts), *mounts.as_docker_mounts()],
        environment=environment,
        labels={_LABEL: containers.label},
        network_mode="host",
        shm_size=_SHARED_MEMORY,
        read_only=True,
        tmpfs={"/tmp": "exec,mode=1777"},
        init=True,
        security_opt=["no-new-privileges"],
        device_requests=_gpus(client),
    )
    with _terminated_as_interrupted():
        try:
            yield runner, containers.problems
        finally:
            containers.close()


def _client() -> docker.DockerClient:
    try:
        client = docker.from_env()
        client.ping()
    except (docker.errors.DockerException, OSError) as error:
        raise UserError(
            f"no docker engine answers ({error}): start docker, or run the same command without --docker"
        ) from None
    return client


def _check_images(client: docker.DockerClient) -> None:
    for name in (DATA_IMAGE, TRAINER_IMAGE, EVALUATOR_IMAGE):
        try:
            labels = client.images.get(name).labels
        except docker.errors.ImageNotFound:
            raise UserError(f"there is no image {name} on this machine: run make images first") from None
        if labels.get(CODE_DIGEST_LABEL) != code_digest():
            raise UserError(f"the image {name} holds other code than this checkout: run make images again")


def _environment(mounts: Mounts) -> dict[str, str]:
    """The variables of this process that steps read; the hub's cache and Google's credentials are mounted as well."""
    result = {
        name: value
        for name, value in os.environ.items()
        if name in _FORWARDED or name.startswith(_FORWARDED_PREFIXES) or name.upper() in _PROXIES
    }
    cache = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))
    make_directory(cache)
    mounts.add(cache, read_only=False, why="HF_HOME")
    result["HF_HOME"] = str(cache.absolute())
    for name in ("HF_HUB_CACHE", "HF_DATASETS_CACHE", "HF_TOKEN_PATH"):
        if name in result and Path(result[name]).exists():
            mounts.add(result[name], read_only=False, why=name)
    gcloud = Path.home() / ".config" / "gcloud" / "application_default_credentials.json"
    credentials = os.environ.get("GOOGLE_APPLICATION_CREDENTIALS", str(gcloud) if gcloud.is_file() else "")
    if credentials:
        mounts.add(credentials, read_only=True, why="GOOGLE_APPLICATION_CREDENTIALS")
        result["GOOGLE_APPLICATION_CREDENTIALS"] = credentials
    result["USER"] = getpass.getuser()  # a pushed version's record names this user
    return result


def _working_directory(mounts: Mounts) -> list[Mount]:
    """An empty folder in place of the working directory, unless a mount holds it: relative paths start there."""
    cwd = str(Path.cwd())
    if cwd == "/" or mounts.holds(cwd):
        return []
    return [Mount(target=cwd, source=None, type="tmpfs")]


def _gpus(client: docker.DockerClient) -> list[DeviceRequest]:
    """All GPUs, where the engine has NVIDIA's runtime."""
    if "nvidia" in client.info().get("Runtimes", {}):
        return [DeviceRequest(count=-1, capabilities=[["gpu"]])]
    return []


@contextlib.contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Let `kill` end this process as Ctrl-C does. Its containers are not its children, and would go on."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
