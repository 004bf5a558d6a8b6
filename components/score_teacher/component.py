"""The scoring step as a Kubeflow component."""

from kfp import dsl

from components.common.images import TRAINER_IMAGE


@dsl.component(base_image=TRAINER_IMAGE, install_kfp_package=False)
def score_teacher(
    config: str,
    store: str,
    dataset: dsl.Input[dsl.Dataset],
    scores: dsl.Output[dsl.Dataset],
    teacher_checkpoint: dsl.Input[dsl.Model] | None = None,
    launch_config: str = "",
) -> None:
    """Score the training data with the Teacher. Artifact files: train/part-*.parquet.

    `launch_config`: where the ranks run, LaunchConfig of components.common.launching as JSON; empty: in this process.
    """
    from components.common.kubeflow import output_path, publish, received
    from components.common.launching.config import LaunchConfig
    from components.common.step_runner import exit_on_user_error
    from components.score_teacher.step import score_teacher
    from matta_core.recipe import ScoreTeacherConfig

    with exit_on_user_error():
        settings = ScoreTeacherConfig.from_json(config, "score_teacher")
        checkpoint = received(teacher_checkpoint) if teacher_checkpoint else None
        output = output_path(store, "score_teacher", scores.path)
        launch = LaunchConfig.from_json(launch_config, "launch_config") if launch_config else None
        artifact = score_teacher(settings, received(dataset), checkpoint, output=output, launch_config=launch)
        assert artifact is not None, "no rank of torchrun's runs this"
        publish(scores, artifact)
