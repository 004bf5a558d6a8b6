"""The results of a run: summary.json for programs, report.html for people, summary.md for both."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.common.step_runner import run_step
from matta_core.artifacts import Artifact, open_artifact, write_json_atomically
from matta_core.artifacts.kinds.decision import read_decision
from matta_core.artifacts.kinds.evaluation import read_results
from matta_core.artifacts.kinds.push_record import read_push_record
from matta_core.artifacts.kinds.report import SUMMARY
from matta_core.errors import UserError
from matta_core.recipe.settings import Section, setting

# By its role, under which manifests name it among their inputs: the step that made it, and its kind.
_MADE = {
    "dataset": ("prepare_data", "TokenizedDataset"),
    "teacher": ("train_teacher", "MattaCheckpoint"),
    "scores": ("score_teacher", "TeacherScores"),
    "checkpoint": ("train", "MattaCheckpoint"),
    "students": ("extract_students", "StudentFamily"),
    "evaluation": ("evaluate", "EvaluationReport"),
    "decision": ("gate", "GateDecision"),
    "record": ("push", "PushRecord"),
}


@dataclass(frozen=True)
class ReportConfig(Section):
    """What a report is called."""

    name: str = setting(help="of the recipe; it stands at the top of the page")


def report(
    dataset: str | Path,
    checkpoint: str | Path,
    students: str | Path,
    evaluation: str | Path,
    decision: str | Path,
    push_record: str | Path,
    *,
    teacher_checkpoint: str | Path | None = None,
    scores: str | Path | None = None,
    name: str,
    output: str | Path,
) -> Artifact:
    """Gather a run's figures, gate reasons, training curves and lineage.

    Files of a Report: `summary.json` (see `components.report.summary.summarise`), `report.html` and `summary.md`, its
    tables in Markdown.

    `teacher_checkpoint` is the Teacher's MattaCheckpoint where the run trained one, `scores` its TeacherScores.

    Raises: UserError where an artifact was not made from the one that is given beside it.
    """
    given = {
        "dataset": dataset,
        "teacher": teacher_checkpoint,
        "scores": scores,
        "checkpoint": checkpoint,
        "students": students,
        "evaluation": evaluation,
        "decision": decision,
        "record": push_record,
    }
    opened = {role: open_artifact(path, kind) for role, (_, kind) in _MADE.items() if (path := given[role]) is not None}
    for made in opened.values():
        for role, source in opened.items():
            if made.inputs.get(role, source.digest) != source.digest:
                raise UserError(
                    f"{made.path} was not made from {source.path}: a report is of one run, give the artifacts of the "
                    f"same one"
                )
    artifacts = {_MADE[role][0]: artifact for role, artifact in opened.items()}

    def work(path: Path) -> dict[str, Any]:
        from components.report.markdown import markdown
        from components.report.page import render
        from components.report.sections import sections
        from components.report.summary import summarise, training_curves

        summary = summarise(name, artifacts)
        results = read_results(artifacts["evaluate"].path)
        verdicts, record = read_decision(artifacts["gate"].path), read_push_record(artifacts["push"].path)
        curves = training_curves(artifacts["train"], list(summary["students"]))
        content = sections(summary, results, verdicts, record, curves, artifacts)
        write_json_atomically(path / SUMMARY, summary)
        (path / "report.html").write_text(render(summary, content), encoding="utf-8")
        (path / "summary.md").write_text(markdown(summary, content), encoding="utf-8")
        return {"name": name, "students": list(summary["students"])}

    # The summary holds paths, which no digest covers: a run that was moved needs another report.
    paths = {step: str(artifact.path.resolve()) for step, artifact in artifacts.items()}
    return run_step("report", "Report", output, ReportConfig(name), artifacts, work, extra_key=paths)
