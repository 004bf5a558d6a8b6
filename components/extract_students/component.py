"""The extraction step as a Kubeflow component."""

from kfp import dsl

from components.common.images import TRAINER_IMAGE


@dsl.component(base_image=TRAINER_IMAGE, install_kfp_package=False)
def extract_students(
    config: str,
    store: str,
    checkpoint: dsl.Input[dsl.Model],
    dataset: dsl.Input[dsl.Dataset],
    students: dsl.Output[dsl.Model],
) -> None:
    """Cut the students out of the TA.

    Artifact files: one folder per size and mix, a plain Hugging Face checkpoint with its tokenizer; references/, what
    each answers; family.json; with `compact`, compact/, those whose widths differ by layer without padding.
    """
    from components.common.kubeflow import output_path, publish, received
    from components.common.step_runner import exit_on_user_error
    from components.extract_students.step import extract_students
    from matta_core.recipe import ExtractStudentsConfig

    with exit_on_user_error():
        settings = ExtractStudentsConfig.from_json(config, "extract_students")
        output = output_path(store, "extract_students", students.path)
        publish(students, extract_students(settings, received(checkpoint), received(dataset), output=output))
