"""Which students are good enough to serve: each is judged on its own, with every reason written down."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.gate.checks import decide
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

    def work(path: Path) -> dict[str, Any]:
        decision = decide(
            config,
            json.loads((family.path / "family.json").read_text()),
            json.loads((report.path / "results.json").read_text()),
        )
        write_json_atomically(path / "decision.json", decision)
        return {"blessed": decision["blessed"], "evaluation_set": decision["evaluation_set"]}

    artifact = run_step(
        "gate", "GateDecision", output, config, {"evaluation": report, "students": family}, work
    )
    _tell(json.loads((artifact.path / "decision.json").read_text()))
    return artifact


def _tell(decision: Mapping[str, Any]) -> None:
    """One line per student, the blessed ones first."""
    students, blessed = decision["students"], decision["blessed"]
    for name in blessed:
        say("gate", f"{name}: blessed, {len(students[name]['checks'])} checks passed")
    for name in sorted(students.keys() - set(blessed)):
        reasons = dict.fromkeys(check["why"] for check in students[name]["checks"] if not check["passed"])
        say("gate", f"{name}: NOT blessed: {'; '.join(reasons)}")
    if not blessed:
        say("gate", "no student is blessed: nothing will be pushed")
