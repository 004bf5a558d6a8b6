"""Blessed students go to where they are served: whole, tried out, and by one atomic move of a pointer each."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.push import store
from components.step import disk_errors_explained, run_step, say
from matta_core.artifacts import Artifact, open_artifact, write_json_atomically
from matta_core.config import PushConfig
from matta_core.errors import UserError

QUERY = Path(__file__).with_name("query.py")


def push(config: PushConfig, decision: str | Path, students: str | Path, *, output: str | Path) -> Artifact:
    """Push every blessed student to `config.target`; `components.push.store` says what lies there.

    Each student on its own, in ascending order of size: copy its files into an immutable version, load and query
    that version in a fresh process, move the pointer. A push that failed or was killed can be run again: what is
    there already is checked by checksum and kept. It runs every time, for no digest of an artifact tells what
    became of the target since; with the same outcome the record is the same.

    File of a PushRecord: `push.json`: {"target", "students": {name: {"pushed", "why", "version", "path", "digest",
    "before", "after"}}}; `before` and `after` are the versions that the pointer named before and after the move
    that put this version in its place, whenever that was. For a student that was not blessed all but the first two
    are null.

    Raises: UserError where the decision was made for another StudentFamily (nothing is pushed), the target cannot
    be written, a version there is damaged, a model does not load, or another push moved the pointer meanwhile.
    """
    verdict = open_artifact(decision, "GateDecision")
    family = open_artifact(students, "StudentFamily")
    if verdict.inputs.get("students") != family.digest:
        raise UserError(
            f"{verdict.path} was made for the StudentFamily with digest {verdict.inputs.get('students')}, but "
            f"{family.path} has {family.digest}: nothing was pushed. Run the gate on these students"
        )
    target = Path(config.target).resolve()

    def work(path: Path) -> dict[str, Any]:
        members = json.loads((family.path / "family.json").read_text())["students"]
        verdicts = json.loads((verdict.path / "decision.json").read_text())["students"]
        lineage = {"students": family.digest, "decision": verdict.digest}
        record = {}
        with disk_errors_explained(target, "push.target"):
            for name in sorted(members, key=lambda size: members[size]["parameters"]):
                if verdicts[name]["blessed"]:
                    model = family.path / members[name]["path"]
                    record[name] = _push_one(name, model, target / name, lineage, config.load_timeout_seconds)
                else:
                    record[name] = _not_pushed(name, verdicts[name]["checks"])
        write_json_atomically(path / "push.json", {"target": str(target), "students": record})
        return {"pushed": [name for name in record if record[name]["pushed"]]}

    return run_step("push", "PushRecord", output, config, {"decision": verdict, "students": family}, work, reuse=False)


def _push_one(name: str, model: Path, folder: Path, lineage: Mapping[str, str], timeout: float) -> dict[str, Any]:
    """Copy, try out, move the pointer."""
    digest = store.content_digest(model)
    version = store.version_path(folder, digest)
    before = store.read_pointer(folder)
    copied = store.install(model, folder, digest, inputs=lineage, metadata={"size": name})
    if before is not None and before["digest"] == digest and not copied:
        pointer = before
        say("push", f"{name}: {version} is current already, and whole")
    else:
        _query_in_fresh_process(name, version, timeout)
        pointer = store.move_pointer(folder, before, digest)
        say("push", f"{name}: {version} is current (before: {pointer['previous'] or 'none'})")
    return {
        "pushed": True,
        "why": "blessed",
        "version": version.name,
        "path": str(version),
        "digest": digest,
        "before": pointer["previous"],
        "after": pointer["version"],
    }


def _not_pushed(name: str, checks: list[Mapping[str, Any]]) -> dict[str, Any]:
    reasons = dict.fromkeys(check["why"] for check in checks if not check["passed"])
    why = f"not blessed: {'; '.join(reasons)}"
    say("push", f"{name}: not pushed, {why}")
    return {"pushed": False, "why": why} | dict.fromkeys(("version", "path", "digest", "before", "after"))


def _query_in_fresh_process(name: str, version: Path, timeout: float) -> None:
    """Load the files as they lie in the target with stock transformers, and generate.

    Raises: UserError with the last line of what went wrong, or where it takes longer than `timeout` seconds.
    """
    started = time.monotonic()
    try:
        result = subprocess.run(
            [sys.executable, str(QUERY), str(version)],
            env=os.environ | {"HF_HUB_OFFLINE": "1"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
    except subprocess.TimeoutExpired:
        raise UserError(
            f"{version} did not load and generate within push.load_timeout_seconds = {timeout:g}: the pointer was "
            f"not moved. Raise the limit, or look at the model"
        ) from None
    if result.returncode != 0:
        reason = (result.stderr.strip().splitlines() or [f"exit status {result.returncode}"])[-1].rstrip(".")
        raise UserError(
            f"{version} does not load and generate in a fresh process: {reason}. The pointer was not moved. "
            f"To see all of it: HF_HUB_OFFLINE=1 {sys.executable} {QUERY} {version}"
        )
    say(
        "push",
        f"{name}: loaded in a fresh process in {time.monotonic() - started:.1f} s; it says {result.stdout.strip()}",
    )
