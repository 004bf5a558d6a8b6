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
# On a cluster, each model is evaluated in a pod of its own, and a recipe with `retrain` looks for new data.
CLUSTER_STEPS = (*STEPS, "plan_evaluation", "merge_evaluations", "find_data", "renew_lease", "record_span")


def steps_of(recipe: Recipe) -> list[str]:
    """The steps that a recipe runs, in order: train_teacher only where it says how."""
    return [step for step in STEPS if step != "train_teacher" or recipe.train_teacher]
