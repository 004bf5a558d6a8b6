"""evaluate as a Kubeflow component, and what stands around it where each model has a pod of its own: a plan before it,
a merge after it."""

from typing import List, NamedTuple  # noqa: UP035 - kfp reads this spelling

from kfp import dsl

from components.common.images import EVALUATOR_IMAGE


@dsl.component(base_image=EVALUATOR_IMAGE, install_kfp_package=False)
def evaluate(
    config: str,
    score_teacher_config: str,
    push_config: str,
    store: str,
    dataset: dsl.Input[dsl.Dataset],
    students: dsl.Input[dsl.Model],
    report: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    teacher_checkpoint: dsl.Input[dsl.Model] | None = None,
    plan: str = "",
    model: str = "",
) -> None:
    """Evaluate all students, the TA, the Teacher that scored, and what is served now, on the same questions.

    Artifact files: results.json, questions.jsonl, documents/<model>.jsonl, tasks/.
    `plan`, `model`: what plan_evaluation gave, and the one model to evaluate; its part is for merge_evaluations.
    """
    from components.common.kubeflow import output_path, publish, received
    from components.common.step_runner import exit_on_user_error
    from components.evaluate.plan_evaluation import EvaluationPlan
    from components.evaluate.step import evaluate
    from matta_core.artifacts.kinds.evaluation import read_results
    from matta_core.recipe import EvaluateConfig, PushConfig, ScoreTeacherConfig

    with exit_on_user_error():
        artifact = evaluate(
            EvaluateConfig.from_json(config, "evaluate"),
            received(dataset),
            received(students),
            teacher=ScoreTeacherConfig.from_json(score_teacher_config, "score_teacher").teacher,
            teacher_checkpoint=received(teacher_checkpoint) if teacher_checkpoint else None,
            push_target=PushConfig.from_json(push_config, "push").target,
            plan=EvaluationPlan.from_json(plan, "plan") if plan else None,
            model=model or None,
            output=output_path(store, "evaluate", report.path),
        )
        publish(report, artifact)
        for name, evaluated in read_results(artifact.path)["models"].items():
            for task, figure in evaluated["tasks"].items():
                if figure["value"] is not None:
                    metrics.log_metric(f"{task}/{name}", figure["value"])


@dsl.component(base_image=EVALUATOR_IMAGE, install_kfp_package=False)
def plan_evaluation(push_config: str, students: dsl.Input[dsl.Model]) -> NamedTuple(  # type: ignore[valid-type]  # kfp reads the function's text alone
    "Plan", [("plan", str), ("models", list)]
):
    """Read once what is served: the pods that evaluate one of `models` each all compare with the same."""
    from components.common.kubeflow import received
    from components.common.step_runner import exit_on_user_error
    from components.evaluate.plan_evaluation import plan_evaluation
    from matta_core.recipe import PushConfig

    with exit_on_user_error():
        made = plan_evaluation(received(students), PushConfig.from_json(push_config, "push").target)
        return made.to_json(), made.models


@dsl.component(base_image=EVALUATOR_IMAGE, install_kfp_package=False)
def merge_evaluations(
    store: str,
    parts: dsl.Input[List[dsl.Artifact]],  # noqa: UP006
    report: dsl.Output[dsl.Artifact],
) -> None:
    """One EvaluationReport of the parts that evaluate made, one model in each. Artifact files: as evaluate's."""
    from components.common.kubeflow import output_path, publish, received
    from components.common.step_runner import exit_on_user_error
    from components.evaluate.merge_evaluations import merge_evaluations

    with exit_on_user_error():
        output = output_path(store, "merge_evaluations", report.path)
        publish(report, merge_evaluations([received(part) for part in parts], output=output))
