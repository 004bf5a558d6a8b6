"""Decide which students are good enough to serve. Each is judged on its own, and every reason is written down."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from components.common.interpreter import python
from components.common.step_runner import run_step, say
from matta_core.artifacts import Artifact, open_artifact, write_json_atomically
from matta_core.artifacts.kinds.decision import DECISION, Comparison, Decision, Verdict, read_decision
from matta_core.artifacts.kinds.family import read_family
from matta_core.errors import UserError
from matta_core.recipe import GateConfig


def gate(config: GateConfig, evaluation: str | Path, students: str | Path, *, output: str | Path) -> Artifact:
    """Decide for every student of `students`, by its figures in `evaluation`, whether it is blessed.

    File of a GateDecision: `decision.json`, a `Decision`. A decision that blesses no student is a result, not an error.

    Raises: UserError where the evaluation was made of another StudentFamily (then there is no decision, and nothing can
    be pushed), or cannot be read, or where a policy sets a minimum or a maximum on the wrong side of a task.
    """
    report, family = open_inputs(evaluation, students)

    def work(path: Path) -> dict[str, Any]:
        decision = decision_of(config, report, family)
        write_json_atomically(path / DECISION, decision)
        return {
            "blessed": decision["blessed"],
            "held": [name for name in decision["students"] if name not in decision["blessed"]],
            "evaluation_set": decision["evaluation_set"],
        }

    artifact = run_step("gate", "GateDecision", output, config, {"evaluation": report, "students": family}, work)
    tell(read_decision(artifact.path), artifact.path)
    return artifact


def open_inputs(evaluation: str | Path, students: str | Path) -> tuple[Artifact, Artifact]:
    """The EvaluationReport and the StudentFamily. Raises: UserError where the one was not made of the other."""
    report = open_artifact(evaluation, "EvaluationReport")
    family = open_artifact(students, "StudentFamily")
    if report.inputs.get("students") != family.digest:
        raise UserError(
            f"{report.path} was made of the StudentFamily with digest {report.inputs.get('students')}, but "
            f"{family.path} has {family.digest}: evaluate these students, or give those that were evaluated"
        )
    return report, family


def decision_of(config: GateConfig, report: Artifact, family: Artifact) -> Decision:
    """The content of decision.json."""
    from components.gate.decision import decide  # imports numpy, and scipy when it compares
    from components.gate.evaluation import read_report

    return decide(config, read_family(family.path), read_report(report))


def tell(decision: Decision, path: Path) -> None:
    """Print a line per student, the warnings, and how to see the rest."""
    for name, verdict in decision["students"].items():
        say("gate", f"{name}: {_in_short(verdict)}")
    for warning in decision["warnings"]:
        say("gate", f"warning: {warning}")
    if not decision["blessed"]:
        say("gate", "no student is blessed: nothing will be pushed")
    say("gate", f"every check and comparison: {python()} -m components.gate --explain {path}")


def _in_short(verdict: Verdict) -> str:
    failed = list(dict.fromkeys(check["why"] for check in verdict["checks"] if not check["passed"]))
    if failed:
        more = f"; and {len(failed) - 1} more" if len(failed) > 1 else ""
        return f"NOT blessed: {failed[0]}{more}"
    compared = (
        _verdicts(verdict["comparisons"]) if verdict["baseline"] else "no other version is served to compare with"
    )
    return f"blessed, {len(verdict['checks'])} checks passed; {compared}"


def _verdicts(comparisons: Iterable[Comparison]) -> str:
    """The verdicts on whole tasks as text: better in A, noise in B."""
    tasks: dict[str, list[str]] = {"better": [], "worse": [], "noise": []}
    for comparison in comparisons:
        if comparison["slice"] is None:
            tasks[comparison["verdict"]].append(comparison["task"])
    words = {"better": "better in", "worse": "worse in", "noise": "no difference beyond noise in"}
    told = ", ".join(f"{words[verdict]} {', '.join(names)}" for verdict, names in tasks.items() if names)
    return told or "compared in nothing"
