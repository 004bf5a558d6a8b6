"""Bring a recipe to Kubeflow: upload one pipeline version per content, and start runs of it."""

import contextlib
import copy
import dataclasses
import graphlib
import io
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import kfp_server_api

from components.common.command_line import load_recipe
from matta_core.errors import UserError
from pipelines.cluster import ClusterProfile
from pipelines.kubeflow.client import Client, answered_once, by_display_name, every
from pipelines.kubeflow.compile import compile_pipeline, read_documents, version_name
from pipelines.kubeflow.release import check_release


@dataclass(frozen=True)
class Package:
    """A compiled pipeline (the file, and the documents in it), and the parameters that its run will have."""

    path: Path
    documents: list[dict[str, Any]]
    parameters: dict[str, Any]

    @property
    def pipeline_name(self) -> str:
        return self.documents[0]["pipelineInfo"]["name"]

    @property
    def steps(self) -> list[str]:
        """The names of all tasks that run something, also in loops and conditions, each after what it waits for."""
        components = self.documents[0]["components"]

        def ordered(dag: dict[str, Any]) -> Iterator[str]:
            waits_for = {name: task.get("dependentTasks", []) for name, task in dag["tasks"].items()}
            for name in graphlib.TopologicalSorter(waits_for).static_order():
                component = components[dag["tasks"][name]["componentRef"]["name"]]
                if "dag" in component:
                    yield from ordered(component["dag"])
                else:
                    yield name

        return list(ordered(self.documents[0]["root"]["dag"]))

    def with_parameters(self, given: list[str]) -> Self:
        """The package with values for parameters that are no settings of the recipe (scheduled_time). Each of `given`
        is NAME=VALUE.

        Raises: UserError for a parameter that the pipeline does not have, and for settings: here nothing would check
        them.
        """
        names = list(_defaults(self.documents))
        known = [name for name in names if not name.endswith("_config")]
        parameters = dict(self.parameters)
        for item in given:
            name, separator, value = item.partition("=")
            if name in names and name not in known:
                raise UserError(
                    f"--parameter {name}: a recipe's settings are given, and checked, by "
                    f"--set {name.removesuffix('_config')}.NAME=VALUE"
                )
            if not separator or name not in known:
                raise UserError(f"--parameter takes NAME=VALUE with a name among {', '.join(known)}, got {item!r}")
            if not value.strip():
                raise UserError(f"--parameter {name}= has no value: is a variable of the shell empty? Leave it out")
            parameters[name] = value
        return dataclasses.replace(self, parameters=parameters)


@dataclass(frozen=True)
class PipelineVersion:
    pipeline_id: str
    version_id: str
    name: str
    was_there: bool


def make_package(recipe: Path, overrides: list[str], cluster: ClusterProfile, folder: Path) -> Package:
    """Compile the recipe. Overrides that only change settings become parameters of the run and need no new version.

    Overrides that change the pipeline itself (a teacher that is not trained here, another name) are compiled in.
    """
    changed = folder / "changed.yaml"
    compile_pipeline(load_recipe(recipe, overrides), cluster, changed)
    after = read_documents(changed)
    if not overrides:
        return Package(changed, after, {})
    try:
        plain_recipe = load_recipe(recipe)
    except UserError:  # the recipe is not whole without its overrides
        return Package(changed, after, {})
    plain = folder / "plain.yaml"
    compile_pipeline(plain_recipe, cluster, plain)
    before = read_documents(plain)
    if _without_defaults(before) != _without_defaults(after):
        return Package(changed, after, {})
    new, old = _defaults(after), _defaults(before)
    return Package(plain, before, {name: value for name, value in new.items() if value != old[name]})


def upload(client: Client, package: Package) -> PipelineVersion:
    """The version with this content: found by its name, which holds the digest, or uploaded.

    Raises: KubeflowError where the server is too old to run it.
    """
    check_release(client)
    name, version = package.pipeline_name, version_name(package.documents)
    namespace = client.get_user_namespace() or None

    def find_pipeline() -> Any:
        return next(every(client.list_pipelines, "pipelines", namespace=namespace, filter=by_display_name(name)), None)

    def create_pipeline() -> Any:
        return client.pipelines.pipeline_service_create_pipeline(
            kfp_server_api.V2beta1Pipeline(display_name=name, name=name, namespace=namespace)
        )

    pipeline = find_pipeline() or answered_once(client, create_pipeline, find_pipeline)

    def find_version() -> Any:
        versions = every(
            client.list_pipeline_versions,
            "pipeline_versions",
            pipeline_id=pipeline.pipeline_id,
            filter=by_display_name(version),
        )
        return next(versions, None)

    def create_version() -> Any:
        with _without_kfps_links():
            return client.upload_pipeline_version(str(package.path), version, pipeline_id=pipeline.pipeline_id)

    found = find_version()
    made = found or answered_once(client, create_version, find_version)
    return PipelineVersion(pipeline.pipeline_id, made.pipeline_version_id, version, was_there=found is not None)


def experiment_id(client: Client, name: str) -> str:
    """The id of the experiment of this name, which is created where there is none."""
    namespace = client.get_user_namespace()

    def find() -> Any:
        listed = every(client.list_experiments, "experiments", namespace=namespace, filter=by_display_name(name))
        return next(listed, None)

    def create() -> Any:
        return client.experiments.experiment_service_create_experiment(
            kfp_server_api.V2beta1Experiment(display_name=name, namespace=namespace or None)
        )

    return (find() or answered_once(client, create, find)).experiment_id


def unique_run_name(recipe_name: str) -> str:
    return f"{recipe_name}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(3)}"


def start_run(
    client: Client,
    version: PipelineVersion,
    *,
    name: str,
    experiment: str,
    parameters: dict[str, Any],
    cluster: ClusterProfile,
) -> Any:
    """Start one run of that name. No other run in the experiment may have it: it is what finds a run whose creation got
    no answer.

    Kubeflow has no key that makes creating a run idempotent. So the run is looked for before its creation is tried
    again; if the first try was merely slow, the later of the two runs is ended.

    Raises: UserError where a run of that name exists.
    """
    experiment_key = experiment_id(client, experiment)

    def named() -> list[Any]:
        return list(every(client.list_runs, "runs", experiment_id=experiment_key, filter=by_display_name(name)))

    if taken := named():
        raise UserError(
            f"a run named {name} exists in experiment {experiment} ({client.run_link(taken[0].run_id)}): "
            "choose another --run-name"
        )
    tries = 0

    def create() -> Any:
        nonlocal tries
        tries += 1
        with _without_kfps_links():
            return client.run_pipeline(
                experiment_key,
                name,
                params=parameters,
                pipeline_id=version.pipeline_id,
                version_id=version.version_id,
                pipeline_root=cluster.pipeline_root,
                service_account=cluster.service_account,
            )

    run = answered_once(client, create, lambda: next(iter(named()), None))
    if tries > 1:
        run, *later = sorted(named(), key=lambda item: (item.created_at, item.run_id))
        for item in later:
            client.terminate_run(item.run_id)
    return run


def _defaults(documents: list[dict[str, Any]]) -> dict[str, Any]:
    parameters = documents[0]["root"].get("inputDefinitions", {}).get("parameters", {})
    return {name: spec.get("defaultValue") for name, spec in parameters.items()}


def _without_defaults(documents: list[dict[str, Any]]) -> list[dict[str, Any]]:
    documents = copy.deepcopy(documents)
    for spec in documents[0]["root"].get("inputDefinitions", {}).get("parameters", {}).values():
        spec.pop("defaultValue", None)
    return documents


def _without_kfps_links() -> contextlib.AbstractContextManager[object]:
    """kfp prints a link of its own for what it makes."""
    return contextlib.redirect_stdout(io.StringIO())
