"""The merging of a fanned-out evaluation, as a Kubeflow component."""

from typing import List  # noqa: UP035 - kfp reads this spelling

from kfp import dsl

from components.common.images import EVALUATOR_IMAGE


@dsl.component(base_image=EVALUATOR_IMAGE, install_kfp_package=False)
def merge_evaluations(
    store: str,
    parts: dsl.Input[List[dsl.Artifact]],  # noqa: UP006
    report: dsl.Output[dsl.Artifact],
) -> None:
    """One EvaluationReport of the parts that evaluate made, one model in each. Artifact files: as evaluate's."""
    from components.common.kubeflow import output_path, publish, received
    from components.common.step_runner import exit_on_user_error
    from components.merge_evaluations.step import merge_evaluations

    with exit_on_user_error():
        output = output_path(store, "merge_evaluations", report.path)
        publish(report, merge_evaluations([received(part) for part in parts], output=output))
