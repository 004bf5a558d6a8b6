"""The planning of a fanned-out evaluation, as a Kubeflow component."""

from typing import NamedTuple

from kfp import dsl

from components.common.images import EVALUATOR_IMAGE


@dsl.component(base_image=EVALUATOR_IMAGE, install_kfp_package=False)
def plan_evaluation(push_config: str, students: dsl.Input[dsl.Model]) -> NamedTuple(  # type: ignore[valid-type]  # kfp reads the function's text alone
    "Plan", [("plan", str), ("models", list)]
):
    """Read once what is served: the pods that evaluate one of `models` each all compare with the same."""
    from components.common.kubeflow import received
    from components.common.step_runner import exit_on_user_error
    from components.evaluate.plan import plan_evaluation
    from matta_core.recipe import PushConfig

    with exit_on_user_error():
        made = plan_evaluation(received(students), PushConfig.from_json(push_config, "push").target)
        return made.to_json(), made.models
