"""The gate as a Kubeflow component."""

from kfp import dsl

from components.common.images import EVALUATOR_IMAGE


@dsl.component(base_image=EVALUATOR_IMAGE, install_kfp_package=False)
def gate(
    config: str,
    store: str,
    evaluation: dsl.Input[dsl.Artifact],
    students: dsl.Input[dsl.Model],
    decision: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
) -> None:
    """Decide which students are good enough to serve. Artifact file: decision.json."""
    from components.common.kubeflow import output_path, publish, received
    from components.common.step_runner import exit_on_user_error
    from components.gate.step import gate
    from matta_core.recipe import GateConfig

    with exit_on_user_error():
        settings = GateConfig.from_json(config, "gate")
        artifact = gate(
            settings, received(evaluation), received(students), output=output_path(store, "gate", decision.path)
        )
        publish(decision, artifact)
        metrics.log_metric("blessed_students", len(artifact.metadata["blessed"]))
        for verdict, value in (("blessed", 1), ("held", 0)):
            for name in artifact.metadata[verdict]:
                metrics.log_metric(f"blessed/{name}", value)
