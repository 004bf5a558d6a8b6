"""The plan of an evaluation in several pods. It is read once and given to all pods, each of which has one model."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import final

from components.common.interpreter import python
from components.common.served.versions import version_name
from components.common.storage.open_storage import open_storage
from components.evaluate.baselines import Baseline, resolve
from components.evaluate.candidates import TEACHER, family
from matta_core.artifacts import open_artifact
from matta_core.errors import UserError
from matta_core.recipe.settings import Section


@final
@dataclass(frozen=True)
class PlannedBaseline(Section):
    """A pushed version, and how many tokens it sees at once. The shortest decides what all models are asked."""

    version: str
    digest: str
    is_student: bool
    context_length: int


@dataclass(frozen=True)
class EvaluationPlan(Section):
    """What is served below `target`, by size in ascending order; None where nothing is. Steps hand it on as JSON."""

    target: str | None
    served: dict[str, PlannedBaseline | None]

    @property
    def baselines(self) -> dict[str, Baseline | None]:
        return {
            size: planned and Baseline(size, planned.version, planned.digest, planned.is_student)
            for size, planned in self.served.items()
        }

    @property
    def models(self) -> list[str]:
        """The names of all models that are evaluated, in the order of an EvaluationReport."""
        return model_names(self.baselines)

    @property
    def shortest_context(self) -> int | None:
        """The shortest context of the baselines, in tokens; None where there are no baselines."""
        return min((planned.context_length for planned in self.served.values() if planned), default=None)


def model_names(baselines: dict[str, Baseline | None]) -> list[str]:
    """The names of all models that are evaluated: the sizes, the Teacher, and the baselines that are no students."""
    names = [baseline.name for baseline in baselines.values() if baseline and not baseline.is_student]
    return [*baselines, TEACHER, *names]


def plan_evaluation(students: str | Path, target: str | None) -> EvaluationPlan:
    """Read the pointers below `target` for every size of a StudentFamily.

    Raises: UserError where the students or a pointer cannot be read, or a version that a pointer names is not whole.
    """
    candidates = family(open_artifact(students, "StudentFamily"))
    baselines = resolve(target, {size: candidate.digest for size, candidate in candidates.items()})
    return EvaluationPlan(
        target,
        {
            size: baseline
            and PlannedBaseline(
                baseline.version,
                baseline.digest,
                baseline.is_student,
                _context_length(candidates[size].path if baseline.is_student else None, target, baseline),
            )
            for size, baseline in baselines.items()
        },
    )


def read_plan(file: Path) -> EvaluationPlan:
    """The plan in a file. Raises: UserError where the file cannot be read or holds none."""
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"cannot read the plan {file}: {error.strerror}; {python()} -m components.evaluate.plan makes one"
        ) from None
    return EvaluationPlan.from_json(text, f"the plan {file}")


def _context_length(folder: str | None, target: str | None, baseline: Baseline) -> int:
    """The context length, read from the config. Only the pod that evaluates the model downloads its weights."""
    from components.evaluate.scoring import context_length
    from matta_core.pretrained import load_config

    if folder is not None:
        return context_length(load_config(folder))
    assert target is not None, "the baseline lies below it"
    storage = open_storage(target)
    name = f"{version_name(baseline.size, baseline.version)}/config.json"
    found = storage.read(name)
    if found is None:
        raise UserError(f"{storage.location(name)} is missing: roll back to another version of {baseline.size}")
    with tempfile.TemporaryDirectory() as temporary:
        Path(temporary, "config.json").write_bytes(found[0])
        return context_length(load_config(temporary))
