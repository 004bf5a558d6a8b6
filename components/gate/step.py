"""Which students are good enough to serve: each is judged on its own, with every reason written down."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.gate.checks import ascending, decide
from components.step import run_step, say
from matta_core.artifacts import Artifact, open_artifact, write_json_atomically
from matta_core.config import GateConfig
from matta_core.errors import UserError


def gate(config: GateConfig, evaluation: str | Path, students: str | Path, *, output: str | Path) -> Artifact:
    """Decide for every student of `students`, by its figures in `evaluation`, whether it is blessed.

    File of a GateDecision: `decision.json`: {"students": {name: {"blessed", "checks": [{"check", "threshold",
    "value", "passed", "why"}]}}, "blessed": names in ascending order of size, "evaluation_set"}.
    That no student is blessed is a result, not an error.

    Raises: UserError where the evaluation was made of another StudentFamily. Its figures say nothing of these
    students, so there is nothing to decide; and without a decision nothing can be pushed.
    """
    report = open_artifact(evaluation, "EvaluationReport")
    family = open_artifact(students, "StudentFamily")
    if report.inputs.get("students") != family.digest:
        raise UserError(
            f"{report.path} was made of the StudentFamily with digest {report.inputs.get('students')}, but "
            f"{family.path} has {family.digest}: evaluate these students, or give those that were evaluated"
        )

    family_json = json.loads((family.path / "family.json").read_text())

    def work(path: Path) -> dict[str, Any]:
        decision = decide(config, family_json, json.loads((report.path / "results.json").read_text()))
        write_json_atomically(path / "decision.json", decision)
        return {"blessed": decision["blessed"], "evaluation_set": decision["evaluation_set"]}

    artifact = run_step("gate", "GateDecision", output, config, {"evaluation": report, "students": family}, work)
    students = json.loads((artifact.path / "decision.json").read_text())["students"]
    for name in ascending(family_json):
        _tell(name, students[name])
    if not artifact.metadata["blessed"]:
        say("gate", "no student is blessed: nothing will be pushed")
    return artifact


def _tell(name: str, verdict: Mapping[str, Any]) -> None:
    if verdict["blessed"]:
        say("gate", f"{name}: blessed, {len(verdict['checks'])} checks passed")
        return
    reasons = dict.fromkeys(check["why"] for check in verdict["checks"] if not check["passed"])
    say("gate", f"{name}: NOT blessed: {'; '.join(reasons)}")
