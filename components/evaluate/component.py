"""evaluate as a Kubeflow component."""

from kfp import dsl

from components.images import EVALUATOR_IMAGE


@dsl.component(base_image=EVALUATOR_IMAGE, install_kfp_package=False)
def evaluate(
    config: str,
    score_teacher_config: str,
    store: str,
    dataset: dsl.Input[dsl.Dataset],
    students: dsl.Input[dsl.Model],
    report: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    teacher_checkpoint: dsl.Input[dsl.Model] | None = None,
) -> None:
    """Evaluate all students, the TA and the Teacher that scored on the same held-out documents.

    Artifact files: results.json, documents/<model>.jsonl, tasks/.
    """
    import json

    from components.evaluate.step import evaluate
    from components.step import exit_on_user_error, output_path, publish
    from matta_core.config import EvaluateConfig, ScoreTeacherConfig

    with exit_on_user_error():
        artifact = evaluate(
            EvaluateConfig.from_json(config, "evaluate"),
            dataset.path,
            students.path,
            teacher=ScoreTeacherConfig.from_json(score_teacher_config, "score_teacher").teacher,
            teacher_checkpoint=teacher_checkpoint.path if teacher_checkpoint else None,
            output=output_path(store, "evaluate", report.path),
        )
        publish(report, artifact)
        results = json.loads((artifact.path / "results.json").read_text())
        for name, figures in results["models"].items():
            for metric in ("bits_per_byte", "accuracy"):
                if figures[metric]["value"] is not None:
                    metrics.log_metric(f"{metric}/{name}", figures[metric]["value"])
