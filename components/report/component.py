"""The report as a Kubeflow component."""

from kfp import dsl

from components.common.images import EVALUATOR_IMAGE


@dsl.component(base_image=EVALUATOR_IMAGE, install_kfp_package=False)
def report(
    store: str,
    name: str,
    dataset: dsl.Input[dsl.Dataset],
    checkpoint: dsl.Input[dsl.Model],
    students: dsl.Input[dsl.Model],
    evaluation: dsl.Input[dsl.Artifact],
    decision: dsl.Input[dsl.Artifact],
    record: dsl.Input[dsl.Artifact],
    page: dsl.Output[dsl.HTML],
    tables: dsl.Output[dsl.Markdown],
    metrics: dsl.Output[dsl.Metrics],
    report: dsl.Output[dsl.Artifact],
    teacher_checkpoint: dsl.Input[dsl.Model] | None = None,
    scores: dsl.Input[dsl.Artifact] | None = None,
) -> None:
    """Gather the figures of a run. Artifact files: summary.json, report.html, summary.md.

    For Kubeflow's own page: `page` and `tables` are copies, `metrics` the figures that are plotted over many runs.
    """
    import shutil

    from components.common.kubeflow import output_path, publish, received
    from components.common.step_runner import exit_on_user_error
    from components.report.step import report as report_step
    from components.report.summary import scalars
    from matta_core.artifacts.kinds.report import read_summary

    with exit_on_user_error():
        artifact = report_step(
            received(dataset),
            received(checkpoint),
            received(students),
            received(evaluation),
            received(decision),
            received(record),
            teacher_checkpoint=received(teacher_checkpoint) if teacher_checkpoint else None,
            scores=received(scores) if scores else None,
            name=name,
            output=output_path(store, "report", report.path),
        )
        shutil.copyfile(artifact.path / "report.html", page.path)
        shutil.copyfile(artifact.path / "summary.md", tables.path)
        for name_of_figure, value in scalars(read_summary(artifact.path)).items():
            metrics.log_metric(name_of_figure, value)
        publish(report, artifact)
