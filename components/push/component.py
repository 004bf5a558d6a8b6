"""Push as a Kubeflow component."""

from kfp import dsl

from components.common.images import EVALUATOR_IMAGE


@dsl.component(base_image=EVALUATOR_IMAGE, install_kfp_package=False)
def push(
    config: str,
    store: str,
    decision: dsl.Input[dsl.Artifact],
    students: dsl.Input[dsl.Model],
    evaluation: dsl.Input[dsl.Artifact],
    record: dsl.Output[dsl.Artifact],
) -> None:
    """Push the blessed students to where they are served.

    Artifact files: push.json; per pushed size serving/, a KServe manifest, and cards/, a model card.
    """
    from components.common.kubeflow import output_path, publish, received
    from components.common.step_runner import exit_on_user_error
    from components.push.step import push
    from matta_core.recipe import PushConfig

    with exit_on_user_error():
        settings = PushConfig.from_json(config, "push")
        output = output_path(store, "push", record.path)
        publish(record, push(settings, received(decision), received(students), received(evaluation), output=output))
