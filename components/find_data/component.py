"""What a scheduled run does besides the steps of any run, as Kubeflow components."""

from kfp import dsl

from components.common.images import DATA_IMAGE


@dsl.component(base_image=DATA_IMAGE, install_kfp_package=False)
def find_data(config: str, push_config: str, name: str, run: str, scheduled_time: str) -> str:
    """Find the newest span of data and take the run's lease: a glob for prepare_data, or "none".

    One output, as kfp.local resolves no condition on one of several.
    """
    from components.common.step_runner import exit_on_user_error
    from components.find_data.step import find_data
    from matta_core.recipe import PushConfig, RetrainConfig

    with exit_on_user_error():
        found = find_data(
            RetrainConfig.from_json(config, "retrain"),
            PushConfig.from_json(push_config, "push"),
            name=name,
            run=run,
            scheduled_time=scheduled_time,
        )
    return found.source or "none"


@dsl.component(base_image=DATA_IMAGE, install_kfp_package=False)
def renew_lease(config: str, push_config: str, name: str, run: str, source: str) -> None:
    """Take the run's lease again; fail, naming the other run, where that is at work by now."""
    from components.common.step_runner import exit_on_user_error
    from components.find_data.step import renew, span_of
    from matta_core.recipe import PushConfig, RetrainConfig

    with exit_on_user_error():
        settings = RetrainConfig.from_json(config, "retrain")
        target = PushConfig.from_json(push_config, "push")
        renew(settings, target, name=name, run=run, span=span_of(settings, source))


@dsl.component(base_image=DATA_IMAGE, install_kfp_package=False)
def record_span(
    config: str, push_config: str, name: str, run: str, source: str, record: dsl.Input[dsl.Artifact]
) -> None:
    """Note that the span was processed, and give back the lease, once push is through."""
    from components.common.kubeflow import received
    from components.common.step_runner import exit_on_user_error
    from components.find_data.step import finish, span_of
    from matta_core.artifacts import open_artifact
    from matta_core.recipe import PushConfig, RetrainConfig

    with exit_on_user_error():
        settings = RetrainConfig.from_json(config, "retrain")
        finish(
            settings,
            PushConfig.from_json(push_config, "push"),
            name=name,
            run=run,
            span=span_of(settings, source),
            pushed=open_artifact(received(record), "PushRecord").metadata["pushed"],
        )
