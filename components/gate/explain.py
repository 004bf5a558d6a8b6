"""A decision in plain words, and its replay from the files that it was made from."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from components.gate.step import decision_of, open_inputs
from matta_core.artifacts import Artifact, is_finished, open_artifact, read_manifest
from matta_core.artifacts.kinds.decision import DECISION, Comparison, Decision, read_decision
from matta_core.errors import UserError
from matta_core.recipe import GateConfig


def replay(decision: str | Path, evaluation: str | Path | None, students: str | Path | None) -> tuple[list[str], bool]:
    """Decide again with the settings that a GateDecision holds. Returns the explanation, and whether the result is the
    same.

    An input without a path is looked for beside the decision, by the digest in the decision's manifest.
    Raises: UserError where an input is not found, or is not the one that the decision was made from.
    """
    made = open_artifact(decision, "GateDecision")
    report, family = open_inputs(
        evaluation or _beside(made, "evaluation", "--evaluation"), students or _beside(made, "students", "--students")
    )
    for name, artifact in (("evaluation", report), ("students", family)):
        if artifact.digest != made.inputs.get(name):
            raise UserError(
                f"{made.path} was made from the {artifact.kind} with digest {made.inputs.get(name)}, but "
                f"{artifact.path} has {artifact.digest}: give the one it was made from"
            )
    recorded = read_decision(made.path)
    again = decision_of(GateConfig.from_dict(recorded["config"], f"{made.path / DECISION}: config"), report, family)
    lines = list(explained(recorded))
    # It goes through JSON as the recorded one did; floats keep every bit.
    differences = list(_differences(recorded, json.loads(json.dumps(again, allow_nan=False))))
    if not differences:
        return [*lines, "", "Replayed from its files: the same decision, bit for bit."], True
    lines += ["", f"Replayed from its files: NOT the same decision, {len(differences)} differences."]
    lines += [f"  {difference}" for difference in differences[:20]]
    lines.append("The files are those it was made from, so the gate's code or its libraries have changed since.")
    return lines, False


def explained(decision: Decision) -> Iterator[str]:
    """The decision, the checks and the comparisons of every student, in lines."""
    hypotheses, confidence = decision["hypotheses"], decision["confidence"]
    yield f"Evaluation set {decision['evaluation_set'][:16]}."
    yield (
        f"{hypotheses} comparisons with what is served; p-values and intervals are corrected for their number and "
        f"hold together at {confidence:.4g}."
    )
    for name, verdict in decision["students"].items():
        yield ""
        yield f"{name}: {'BLESSED' if verdict['blessed'] else 'NOT blessed'}"
        for check in verdict["checks"]:
            yield f"  {'yes' if check['passed'] else 'NO ':<3} {check['check']:<19} {check['why']}"
        for comparison in verdict["comparisons"]:
            yield f"  {_compared(comparison, verdict['baseline'])}"
    if decision["warnings"]:
        yield ""
    for warning in decision["warnings"]:
        yield f"Warning: {warning}."
    yield ""
    yield f"Blessed: {', '.join(decision['blessed']) or 'none, so nothing will be pushed'}."


def _compared(comparison: Comparison, baseline: str | None) -> str:
    where = comparison["task"] + (f", {comparison['slice']}" if comparison["slice"] else "")
    low, high = comparison["interval"]
    verdict = {
        "better": "it is better",
        "worse": "it is worse",
        "noise": "not shown to be better or worse (noise)",
    }[comparison["verdict"]]
    return (
        f"{where}: {comparison['value']:.4g}, {baseline} {comparison['baseline_value']:.4g}; difference "
        f"{comparison['difference']:+.4g} ({low:+.4g} to {high:+.4g}, positive is better), p = "
        f"{comparison['p_value']:.2g}, corrected {comparison['p_adjusted']:.2g}, {comparison['documents']} documents: "
        f"{verdict}"
    )


def _beside(made: Artifact, name: str, option: str) -> Path:
    """The directory beside a decision whose manifest has the digest of the named input."""
    wanted = made.inputs.get(name)
    for folder in sorted(made.path.resolve().parent.iterdir()):
        try:
            if is_finished(folder) and read_manifest(folder)["digest"] == wanted:
                return folder
        except UserError:
            continue  # no artifact; the one that is found is checked when it is opened
    raise UserError(f"{made.path} was made from the {name} with digest {wanted}, which is not beside it: give {option}")


def _differences(recorded: Any, again: Any, where: str = "decision") -> Iterator[str]:
    if isinstance(recorded, Mapping) and isinstance(again, Mapping) and list(recorded) == list(again):
        for key in recorded:
            yield from _differences(recorded[key], again[key], f"{where}.{key}")
    elif isinstance(recorded, list) and isinstance(again, list) and len(recorded) == len(again):
        for place, (one, other) in enumerate(zip(recorded, again, strict=True)):
            yield from _differences(one, other, f"{where}[{place}]")
    elif type(recorded) is not type(again) or recorded != again:
        yield f"{where}: recorded {recorded!r:.100}, now {again!r:.100}"
