"""The table of steps. It imports nothing heavy: the DAG loads a row's component when it builds a pipeline.

docs/steps.md adds a step.
"""

import operator
from collections.abc import Callable
from dataclasses import dataclass

from matta_core.recipe import Recipe


def always(recipe: Recipe) -> bool:
    return True


def never(recipe: Recipe) -> bool:
    """For a step that reads or changes what is served, or says what was done. Our own keys know of what is served."""
    return False


def unless(setting: str) -> Callable[[Recipe], bool]:
    """For a step that reads a checkpoint from outside where the setting names one."""
    return lambda recipe: operator.attrgetter(setting)(recipe) is None


def _scores_are_cached(recipe: Recipe) -> bool:
    return not recipe.score_teacher.online


def _reads_no_checkpoint(recipe: Recipe) -> bool:
    """Of train, which reads the Teacher's, too, where that scores in training."""
    return recipe.train.start_from is None and (_scores_are_cached(recipe) or recipe.score_teacher.teacher is None)


def _comes_with_python(recipe: Recipe) -> bool:
    data = recipe.prepare_data
    return recipe.retrain is None and (data.source, data.tokenizer) == ("stdlib", None)


@dataclass(frozen=True)
class Step:
    """A row: components/`folder`/component.py holds the step's Kubeflow component, a function of the step's name.

    `section`: of the recipe; it holds the step's settings, and a recipe without it does without the step.
    `image`: one of the cluster profile's `images`, the same that the component names.
    `cached`: whether Kubeflow may take the result from its cache, whose key holds settings, inputs and image alone. It
    may not where the step reads what that key does not see: files, buckets and the hub.
    `ranks`: the step may run as several processes, on several nodes (components/common/launching/config.py).
    `only_on_cluster`: a run on this machine has no such step.
    `needed`: whether a recipe with the section has the step.
    """

    name: str
    folder: str
    section: str | None
    image: str
    cached: Callable[[Recipe], bool] = always
    ranks: bool = False
    only_on_cluster: bool = False
    needed: Callable[[Recipe], bool] = always


_TABLE = (
    Step("prepare_data", "prepare_data", "prepare_data", "data", cached=_comes_with_python),
    Step("train_teacher", "train", "train_teacher", "trainer", unless("train_teacher.start_from"), ranks=True),
    Step(
        *("score_teacher", "score_teacher", "score_teacher", "trainer", unless("score_teacher.teacher")),
        ranks=True,
        needed=_scores_are_cached,
    ),
    Step("train", "train", "train", "trainer", _reads_no_checkpoint, ranks=True),
    Step("extract_students", "extract_students", "extract_students", "trainer"),
    Step("evaluate", "evaluate", "evaluate", "evaluator", cached=never),
    Step("gate", "gate", "gate", "evaluator", cached=never),
    Step("push", "push", "push", "evaluator", cached=never),
    Step("report", "report", None, "evaluator", cached=never),
    # Each model is evaluated in a pod of its own.
    Step("plan_evaluation", "evaluate", "push", "evaluator", cached=never, only_on_cluster=True),
    Step("merge_evaluations", "evaluate", None, "evaluator", only_on_cluster=True),
    # A recipe with `retrain` looks for new data.
    Step("find_data", "find_data", "retrain", "data", cached=never, only_on_cluster=True),
    Step("renew_lease", "find_data", "retrain", "data", cached=never, only_on_cluster=True),
    Step("record_span", "find_data", "retrain", "data", cached=never, only_on_cluster=True),
)
STEPS = {step.name: step for step in _TABLE}
STEPS_IN_RANKS = tuple(step.name for step in _TABLE if step.ranks)


def steps_of(recipe: Recipe) -> list[str]:
    """The steps that a recipe runs on this machine, in order."""
    asked = [step for step in _TABLE if step.section is None or getattr(recipe, step.section) is not None]
    return [step.name for step in asked if step.needed(recipe) and not step.only_on_cluster]


def steps_in(image: str) -> str:
    """The names of the steps that run in an image."""
    return ", ".join(step.name for step in _TABLE if step.image == image)
