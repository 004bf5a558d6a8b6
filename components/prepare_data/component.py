"""The Kubeflow component of the step."""

from kfp import dsl

from components.common.images import DATA_IMAGE


@dsl.component(base_image=DATA_IMAGE, install_kfp_package=False)
def prepare_data(
    config: str, evaluate_config: str, store: str, dataset: dsl.Output[dsl.Dataset], source: str = ""
) -> None:
    """Pack documents into sequences of token ids. `source` replaces config.source. `evaluate_config` is used to check
    that enough is held out.

    Artifact files: train/ and validation/ (parquet, `input_ids`), validation_documents/, tokenizer/, stats.json.
    """
    import dataclasses

    from components.common.kubeflow import output_path, publish
    from components.common.step_runner import exit_on_user_error
    from components.prepare_data.step import prepare_data
    from matta_core.recipe import EvaluateConfig, PrepareDataConfig

    with exit_on_user_error():
        settings = PrepareDataConfig.from_json(config, "prepare_data")
        if source:
            settings = dataclasses.replace(settings, source=source)
        evaluation = EvaluateConfig.from_json(evaluate_config, "evaluate")
        output = output_path(store, "prepare_data", dataset.path)
        publish(dataset, prepare_data(settings, output=output, evaluation=evaluation))
