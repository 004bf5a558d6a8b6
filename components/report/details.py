"""The tables of the report, as plain text cells. The page and summary.md are written from the same tables."""

from collections.abc import Sequence
from dataclasses import dataclass

from components.common.statistics import interval_95
from components.report.formats import (
    UNKNOWN,
    milliseconds,
    plain,
    probability,
    scaled,
    setting_text,
    signed,
    signed_interval,
    task_name,
    with_error,
    yes_no,
)
from components.report.summary import decode_seconds, figure
from components.report.table import named_models
from matta_core.artifacts.kinds.decision import Decision
from matta_core.artifacts.kinds.evaluation import Results
from matta_core.artifacts.kinds.report import MeasuredSummary, Summary
from matta_core.recipe.extraction import amount

MOST_SLICES = 12  # that are shown of one kind: those with the most documents
LENGTHS = ("short", "medium", "long")


@dataclass(frozen=True)
class Column:
    """`kind` is text, number (set right), verdict (yes, no, better, worse, noise) or code (paths and digests)."""

    heading: str
    kind: str = "text"


@dataclass(frozen=True)
class ReportGrid:
    """A table. The first cell of a row names it."""

    name: str
    caption: str
    columns: tuple[Column, ...]
    rows: Sequence[tuple[str, ...]]


def models_grid(summary: Summary, tasks: list[str]) -> ReportGrid:
    """Each model's cost, its figures in the given tasks, and whether it was pushed."""
    rows = [
        (
            name,
            scaled(model["parameters"]),
            scaled(model["bytes"], "B"),
            scaled(model["flops_per_token"]),
            milliseconds(decode_seconds(model)),
            *(with_error(model["tasks"][task], summary["tasks"][task]["unit"]) for task in tasks),
            yes_no(model["blessed"]),
            UNKNOWN if model["blessed"] is None else yes_no(model["pushed_to"] is not None),
        )
        for name, model in named_models(summary)
    ]
    numbers = ("parameters", "bytes", "FLOPs per token", "decode per token", *map(task_name, tasks))
    return ReportGrid(
        "models",
        "After ±: one standard error over documents. Decode: one token after another, batch 1.",
        (Column("model"), *(Column(name, "number") for name in numbers), *_verdicts("blessed", "pushed")),
        rows,
    )


def widths_grid(summary: Summary) -> ReportGrid:
    """The students whose FFN widths were searched or differ from layer to layer; no rows where there are none."""
    rows = []
    for size, model in summary["students"].items():
        widths, found = model["intermediate_sizes"] or (), model["mix"]
        if found is None and len(set(widths)) < 2:
            continue
        searched = ("not searched", *[UNKNOWN] * 4)
        if found is not None:
            (kind, limit), *_ = found["budget"].items()
            searched = (
                f"{kind} {amount(found['cost'])} of {amount(limit)}",
                f"{found['loss']:.4f}",
                f"{found['best_uniform_loss']:.4f} ({found['best_uniform']})",
                f"{found['evaluated']:,} of {found['combinations']:,}",
                found["ended"],
            )
        own = scaled((model["compact"] or model)["parameters"])
        rows.append((size, ", ".join(map(str, widths)), own, *searched))
    numbers = ("parameters without padding", "budget", "loss", "best trained size", "scored")
    return ReportGrid(
        "widths",
        "Widths by layer, from the first. Budget: what the search was given, and what it used. Loss: nats per token on "
        "the search's sample of the validation text; our own tasks are of this text too, and flatter what was chosen "
        "by it. Scored: of all mixtures. A stock checkpoint pads every layer to the widest: its costs are above.",
        (Column("student"), Column("widths"), *(Column(name, "number") for name in numbers), Column("ended by")),
        rows,
    )


def comparison_grid(summary: Summary, decision: Decision) -> ReportGrid:
    """Compares every student with what is served under its name."""
    rows = []
    for size, model in summary["students"].items():
        for one in model["comparisons"]:
            unit = summary["tasks"][one["task"]]["unit"]
            rows.append(
                (
                    size,
                    task_name(one["task"]),
                    "all" if one["slice"] is None else one["slice"].replace("=", ": "),
                    one["verdict"],
                    plain(one["baseline_value"], unit),
                    plain(one["value"], unit),
                    signed(one["difference"], unit),
                    signed_interval(one["interval"], unit),
                    probability(one["p_adjusted"]),
                    setting_text(one["documents"]),
                )
            )
    confidence, hypotheses = decision["confidence"], decision["hypotheses"]
    numbers = ("served", "student", "difference", "interval", "adjusted p", "documents")
    return ReportGrid(
        "served",
        f"Difference: on the same questions, paired by document; positive is better for the student. Interval: "
        f"{100 * confidence:g}%, and adjusted p: Holm, each for all {hypotheses} comparisons of this decision. "
        f"Noise: not shown, as the interval includes 0 or the p-value is too large.",
        (
            *(Column(name) for name in ("student", "task", "documents of")),
            *_verdicts("verdict"),
            *(Column(name, "number") for name in numbers),
        ),
        rows,
    )


def task_grid(summary: Summary, task: str, number: int) -> ReportGrid:
    """One task: every model's figure with its interval, and that of what is served."""
    entry = summary["tasks"][task]
    unit = entry["unit"]
    rows = []
    for name, model in named_models(summary):
        own, served = model["tasks"][task], model["baseline"]
        ends = interval_95(own, unit)
        rows.append(
            (
                name,
                with_error(own, unit),
                UNKNOWN if ends is None else f"{plain(ends[0], unit)} to {plain(ends[1], unit)}",
                with_error(served and served["tasks"][task], unit),
                setting_text(own["documents"]),
                setting_text(own["questions"]),
            )
        )
    better = "higher" if entry["higher_is_better"] else "lower"
    columns = ("figure", "95% interval", "served now", "documents", "questions")
    return ReportGrid(
        f"task-{number}",
        f"{entry['metric']}, in {unit}: {better} is better. Version {entry['version']}, evaluation "
        f"digest {str(entry['digest'])[:12]}. Intervals: Student's t on the standard error over documents.",
        (Column("model"), *(Column(name, "number") for name in columns)),
        rows,
    )


def slice_grid(summary: Summary, results: Results, task: str, number: int) -> ReportGrid | None:
    """One task by slices of its documents; None where it has none."""
    names = {**{size: size for size in summary["students"]}, "teacher": "Teacher"}
    slices = {
        model: results["models"][model]["tasks"][task].get("slices", {})
        for model in names
        if task in results["models"].get(model, {}).get("tasks", {})
    }
    unit, rows, left_out = summary["tasks"][task]["unit"], [], 0
    for kind in dict.fromkeys(kind for of_model in slices.values() for kind in of_model):
        documents: dict[str, int] = {}
        for of_model in slices.values():
            documents = {name: entry["documents"] for name, entry in of_model.get(kind, {}).items()} | documents
        by_size = sorted(documents, key=lambda name: -documents[name])
        shown = [name for name in LENGTHS if name in documents] if kind == "length" else by_size[:MOST_SLICES]
        left_out += len(documents) - len(shown)
        rows += [
            (
                f"{kind}: {name}",
                setting_text(documents[name]),
                *(
                    with_error(figure(of_model.get(kind, {}).get(name) or {}), unit)
                    for of_model in (slices.get(model, {}) for model in names)
                ),
            )
            for name in shown
        ]
    if not rows:
        return None
    more = f" {left_out} more slices, of fewer documents, are in the evaluation's results.json." if left_out else ""
    return ReportGrid(
        f"slices-{number}",
        f"{task_name(task)} by source and length of its documents, with one standard error.{more}",
        (Column("slice"), Column("documents", "number"), *(Column(name, "number") for name in names.values())),
        rows,
    )


def speed_grid(summary: Summary) -> ReportGrid:
    """Latency, throughput and memory of the students, of what is served, and of the Teacher."""
    models: list[tuple[str, MeasuredSummary]] = []
    for name, own in named_models(summary):
        models.append((name, own))
        if own["baseline"]:
            models.append((f"{name}, served now", own["baseline"]))
    batches = {
        kind: sorted({batch for _, model in models for batch in _timings(model)[kind]}, key=int)
        for kind in ("prefill", "decode")
    }
    rows = []
    for name, model in models:
        cells = [name]
        for kind, timings in _timings(model).items():
            for batch in batches[kind]:
                seconds, tokens_per_second = timings.get(batch, (None, None))
                cells += [milliseconds(seconds), scaled(tokens_per_second)]
        rows.append((*cells, scaled(model["peak_memory_bytes"], "B")))
    headings = [
        heading
        for kind, per in (("prefill", ""), ("decode", " per token"))
        for batch in batches[kind]
        for heading in (f"{kind}{per}, batch {batch}", f"tokens per second, batch {batch}")
    ]
    place = summary["measured_on"]
    return ReportGrid(
        "speed",
        f"Medians on {place['device']}, {setting_text(place['threads'])} threads. Prefill: {place['sequence_length']} "
        f"tokens per request, time for one batch. Decode: {place['new_tokens']} new tokens per request.",
        (Column("model"), *(Column(heading, "number") for heading in (*headings, "peak memory"))),
        rows,
    )


def _timings(model: MeasuredSummary) -> dict[str, dict[str, tuple[float, float]]]:
    """Seconds, and tokens per second, by kind and batch."""
    prefill, decode = model["prefill"] or {}, model["decode"] or {}
    return {
        "prefill": {batch: (one["seconds"], one["tokens_per_second"]) for batch, one in prefill.items()},
        "decode": {batch: (one["seconds_per_token"], one["tokens_per_second"]) for batch, one in decode.items()},
    }


def reasons_grid(summary: Summary, decision: Decision) -> ReportGrid:
    """Every check of the gate."""
    rows = []
    for size in summary["students"]:
        verdict = decision["students"][size]
        for check in sorted(verdict["checks"], key=lambda check: check["passed"]):
            what = (check["check"].replace("_", " "), check["task"] and task_name(check["task"]), check["slice"])
            rows.append(
                (
                    size,
                    ", ".join(part for part in what if part),
                    setting_text(check["threshold"]),
                    setting_text(check["value"]),
                    yes_no(check["passed"]),
                    check["why"],
                )
            )
    return ReportGrid(
        "gate",
        "Each student is judged on its own, what it failed comes first; what cannot be checked is a no.",
        (
            *(Column("student"), Column("check"), Column("bound", "number"), Column("value", "number")),
            *_verdicts("passed"),
            Column("why"),
        ),
        rows,
    )


def _verdicts(*names: str) -> tuple[Column, ...]:
    return tuple(Column(name, "verdict") for name in names)
