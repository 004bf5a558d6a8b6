"""The Teacher's training as a Kubeflow component."""

from kfp import dsl

from components.images import TRAINER_IMAGE


@dsl.component(base_image=TRAINER_IMAGE, install_kfp_package=False)
def train_teacher(
    config: str,
    store: str,
    dataset: dsl.Input[dsl.Dataset],
    checkpoint: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
) -> None:
    """Train a Teacher where none exists.

    Artifact files: ta/ (a Hugging Face checkpoint: the Teacher), nesting.json, metrics.jsonl, tensorboard/.
    """
    from components.step import exit_on_user_error, output_path, publish
    from components.train_teacher.step import train_teacher
    from matta_core.config import TrainConfig

    with exit_on_user_error():
        settings = TrainConfig.from_json(config, "train_teacher")
        output = output_path(store, "train_teacher", checkpoint.path)
        artifact = train_teacher(settings, dataset.path, output=output)
        publish(checkpoint, artifact)
        for name, value in artifact.metadata["final"].items():
            metrics.log_metric(name, value)
