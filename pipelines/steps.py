"""The names of the DAG's steps, in order. Imports nothing heavy."""

from matta_core.recipe import Recipe

STEPS = (
    "prepare_data",
    "train_teacher",
    "score_teacher",
    "train",
    "extract_students",
    "evaluate",
    "gate",
    "push",
    "report",
)
# A cluster evaluates each model in a pod of its own; with `retrain`, a recipe looks for new data there.
CLUSTER_STEPS = (*STEPS, "plan_evaluation", "merge_evaluations", "find_data", "renew_lease", "record_span")


def steps_of(recipe: Recipe) -> list[str]:
    """The steps that a recipe runs, in order. train_teacher is among them only where the recipe has its section."""
    return [step for step in STEPS if step != "train_teacher" or recipe.train_teacher]
