"""What is asked of a student: the general policy, in which the student's own settings replace those that it sets."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from components.gate.evaluation import Report
from matta_core.errors import UserError
from matta_core.recipe import GateConfig, GatePolicy

# If one document in eight is of some kind, so many documents contain that kind in 39 of 40 draws (intervals.py).
MIN_DOCUMENTS = 30


def effective_policy(config: GateConfig, name: str) -> GatePolicy:
    """The policy that a student is judged by. A setting in `per_student` replaces the general one as a whole; {} asks
    for nothing.

    Two settings have a default in the gate; they are filled in here.
    """
    own = config.per_student.get(name, GatePolicy())
    set_here = {field: value for field, value in _settings(own).items() if value is not None}
    policy = dataclasses.replace(config.policy, **set_here)
    return dataclasses.replace(
        policy, min_documents=policy.min_documents or MIN_DOCUMENTS, small_slices=policy.small_slices or "refuse"
    )


def asks_comparison(policy: GatePolicy) -> bool:
    """Whether the policy asks for a comparison with what is served."""
    return bool(policy.non_inferior or policy.improve or policy.slices)


def asks_quality(policy: GatePolicy, *, compared: bool) -> bool:
    """Whether the policy asks for any figure of quality. `compared`: whether there is something to compare with."""
    return bool(policy.minimum or policy.maximum) or (compared and asks_comparison(policy))


def tasks_asked(policy: GatePolicy, *, compared: bool) -> list[str]:
    """The tasks that the policy names, each once."""
    asked: list[Mapping[str, float] | None] = [policy.minimum, policy.maximum]
    if compared:
        asked += [policy.non_inferior, policy.improve, policy.slices]
    return list(dict.fromkeys(task for settings in asked for task in settings or {}))


def check_directions(config: GateConfig, names: Iterable[str], report: Report) -> None:
    """Check that minima and maxima are on the right side.

    Raises: UserError where a minimum is set for a task in which lower is better, or a maximum for another task.
    """
    sections = {"gate.policy": config.policy} | {
        f"gate.per_student.{name}": config.per_student[name] for name in names if name in config.per_student
    }
    for where, policy in sections.items():
        for setting, other, rising in (("minimum", "maximum", True), ("maximum", "minimum", False)):
            for task, bound in (getattr(policy, setting) or {}).items():
                asked = report.tasks.get(task)
                if asked is not None and asked.problem is None and asked.higher_is_better is not rising:
                    better = "lower" if rising else "higher"
                    raise UserError(
                        f"{where}.{setting} has {task}: {bound:g}, but in {task} {better} is better: move it to {other}"
                    )


def _settings(policy: GatePolicy) -> dict[str, Any]:
    return {field.name: getattr(policy, field.name) for field in dataclasses.fields(policy)}
