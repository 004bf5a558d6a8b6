"""Training as Kubeflow components: the TA with its students, and a Teacher."""

from kfp import dsl

from components.common.images import TRAINER_IMAGE


@dsl.component(base_image=TRAINER_IMAGE, install_kfp_package=False)
def train(
    config: str,
    store: str,
    dataset: dsl.Input[dsl.Dataset],
    checkpoint: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    scores: dsl.Input[dsl.Dataset] | None = None,
    teacher_checkpoint: dsl.Input[dsl.Model] | None = None,
    launch_config: str = "",
    push_config: str = "",
    score_teacher_config: str = "",
) -> None:
    """Train the TA with its nested students, by the Teacher's scores, or by a Teacher that scores each batch.

    Artifact files: ta/ (a Hugging Face checkpoint), nesting.json, metrics.jsonl, tensorboard/.
    `launch_config`: where the ranks run, LaunchConfig of components.common.launching as JSON; empty: in this process.
    `push_config`: where the Student lies that `start_from: pushed` names.
    `score_teacher_config`: how the Teacher scores, where it does in training.
    """
    from components.common.kubeflow import output_path, publish, received
    from components.common.launching.config import LaunchConfig
    from components.common.step_runner import exit_on_user_error
    from components.train.step import train
    from matta_core.recipe import PushConfig, ScoreTeacherConfig, TrainConfig

    with exit_on_user_error():
        settings = TrainConfig.from_json(config, "train")
        output = output_path(store, "train", checkpoint.path)
        launch = LaunchConfig.from_json(launch_config, "launch_config") if launch_config else None
        push = PushConfig.from_json(push_config, "push") if push_config else None
        teacher = ScoreTeacherConfig.from_json(score_teacher_config, "score_teacher") if score_teacher_config else None
        artifact = train(
            settings,
            received(dataset),
            received(scores) if scores else None,
            output=output,
            launch_config=launch,
            push_config=push,
            teacher_config=teacher,
            teacher_checkpoint=received(teacher_checkpoint) if teacher_checkpoint else None,
        )
        assert artifact is not None, "no rank of torchrun's runs this"
        publish(checkpoint, artifact)
        for name, value in artifact.metadata["final"].items():
            metrics.log_metric(name, value)


@dsl.component(base_image=TRAINER_IMAGE, install_kfp_package=False)
def train_teacher(
    config: str,
    store: str,
    dataset: dsl.Input[dsl.Dataset],
    checkpoint: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    launch_config: str = "",
) -> None:
    """Train a Teacher where none exists.

    Artifact files: ta/ (a Hugging Face checkpoint: the Teacher), nesting.json, metrics.jsonl, tensorboard/.
    `launch_config`: where the ranks run, LaunchConfig of components.common.launching as JSON; empty: in this process.
    """
    from components.common.kubeflow import output_path, publish, received
    from components.common.launching.config import LaunchConfig
    from components.common.step_runner import exit_on_user_error
    from components.train.step import train_teacher
    from matta_core.recipe import TrainConfig

    with exit_on_user_error():
        settings = TrainConfig.from_json(config, "train_teacher")
        output = output_path(store, "train_teacher", checkpoint.path)
        launch = LaunchConfig.from_json(launch_config, "launch_config") if launch_config else None
        artifact = train_teacher(settings, received(dataset), output=output, launch_config=launch)
        assert artifact is not None, "no rank of torchrun's runs this"
        publish(checkpoint, artifact)
        for name, value in artifact.metadata["final"].items():
            metrics.log_metric(name, value)
