"""The tables of origins: what was pushed, what was asked, and what was made of what."""

from collections.abc import Mapping
from pathlib import Path

from components.report.details import Column, ReportGrid
from components.report.formats import UNKNOWN, duration, setting_text, task_name, yes_no
from matta_core.artifacts import Artifact
from matta_core.artifacts.kinds.push_record import PushRecord
from matta_core.artifacts.kinds.report import Summary


def pushed_grid(summary: Summary, record: PushRecord) -> ReportGrid:
    """What was pushed, and why not."""
    entries = [(size, record["students"][size]) for size in summary["students"]]
    return ReportGrid(
        "pushed",
        f"Under {record['target']}. Before and after: the versions that the pointer of each size named.",
        (
            Column("student"),
            Column("pushed", "verdict"),
            Column("before", "code"),
            Column("after", "code"),
            Column("why"),
        ),
        [
            (size, yes_no(entry["pushed"]), entry["before"] or UNKNOWN, entry["after"] or UNKNOWN, entry["why"])
            for size, entry in entries
        ],
    )


def serving_grid(summary: Summary, record: PushRecord, folder: Path) -> ReportGrid:
    """What serving takes over. `folder` is the PushRecord's, for paths within it."""
    entries = [(size, record["students"][size]) for size in summary["students"]]
    return ReportGrid(
        "serving",
        "For serving: the version's files, a KServe InferenceService, the model card, and the entry in the registry.",
        (
            *(Column("student"), Column("files", "code"), Column("manifest", "code"), Column("model card", "code")),
            Column("registered"),
        ),
        [
            (
                size,
                place(entry["path"], folder),
                place(entry["manifest_path"], folder),
                place(entry["model_card"], folder),
                entry["registered"] or _not_registered(entry["registry_error"]),
            )
            for size, entry in entries
            if entry["pushed"]
        ],
    )


def tasks_grid(summary: Summary) -> ReportGrid:
    """What was asked. Two evaluations with the same digests asked the same questions."""
    rows = [
        (
            task_name(task),
            entry["metric"],
            setting_text(entry["questions"]),
            setting_text(entry["documents"]),
            str(entry["version"]),
            str(entry["digest"]),
        )
        for task, entry in summary["tasks"].items()
    ]
    return ReportGrid(
        "tasks",
        f"The questions and their digests. All together: {summary['evaluation_set']}.",
        (
            *(Column("task"), Column("metric"), Column("questions", "number"), Column("documents", "number")),
            *(Column("version"), Column("digest", "code")),
        ),
        rows,
    )


def lineage_grid(artifacts: Mapping[str, Artifact]) -> ReportGrid:
    """Every step's artifact, by digest, and those that it was made from."""
    makers = {artifact.digest: step for step, artifact in artifacts.items()}
    rows = [
        (
            step,
            artifact.kind,
            duration(artifact.seconds),
            ", ".join(makers.get(digest, f"{source} {digest[:12]}") for source, digest in artifact.inputs.items())
            or UNKNOWN,
            artifact.digest,
            str(artifact.path.resolve()),
        )
        for step, artifact in artifacts.items()
    ]
    return ReportGrid(
        "lineage",
        "What each step made, and from what. The time is that of the work when it was done; a step whose inputs, "
        "settings and code are the same is not done again.",
        (
            *(Column("step"), Column("artifact"), Column("time", "number"), Column("made from")),
            *(Column("digest", "code"), Column("place", "code")),
        ),
        rows,
    )


def _not_registered(error: str | None) -> str:
    return UNKNOWN if error is None else f"NOT registered: {error}"


def place(path: str | None, folder: Path) -> str:
    """A URL or an absolute path as it is; a path within an artifact gets the artifact's folder before it."""
    if path is None:
        return UNKNOWN
    return path if "://" in path else str(folder.resolve() / path)
