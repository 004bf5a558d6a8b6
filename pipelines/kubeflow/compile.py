"""The pipeline as files: IR YAML for Kubeflow and Vertex AI, or Kubernetes resources for GitOps."""

import tempfile
from pathlib import Path
from typing import Any

import yaml
from kfp.compiler import Compiler
from kfp.compiler.compiler_utils import KubernetesManifestOptions

from components.common.disk import disk_errors_explained, make_directory
from matta_core.artifacts import digest_of
from matta_core.errors import UserError
from matta_core.recipe import Recipe
from pipelines.cluster import ClusterProfile
from pipelines.dag import build_pipeline


def compile_pipeline(
    recipe: Recipe, cluster: ClusterProfile | None, path: Path, *, kubernetes_manifest: bool = False
) -> None:
    """Write the pipeline to `path`: a document of PipelineSpec and, on Kubeflow with a profile, one of PlatformSpec.

    `kubernetes_manifest=True` writes a Pipeline and a PipelineVersion (pipelines.kubeflow.org/v2beta1) in the profile's
    namespace instead, for a Kubeflow whose API server keeps pipelines in Kubernetes. The version is named by its
    content: a PipelineVersion cannot be changed, so other content must be another version.

    Raises: UserError where the path is not a .yaml file or cannot be written, or where a manifest is asked for without
    a profile or for Vertex AI.
    """
    if path.suffix not in (".yaml", ".yml"):
        raise UserError(f"--output must end in .yaml, got {path}")
    if path.is_dir():
        raise UserError(f"--output {path} is a directory: give a file's name in it")
    if kubernetes_manifest and (cluster is None or cluster.platform != "kubeflow"):
        raise UserError(
            f"--kubernetes-manifest takes its namespace from a profile of platform kubeflow: give --cluster, "
            f"got {'none' if cluster is None else cluster.name}"
        )
    pipeline = build_pipeline(recipe, cluster)
    options = None
    if kubernetes_manifest and cluster is not None:
        with tempfile.TemporaryDirectory() as folder:
            Compiler().compile(pipeline, f"{folder}/pipeline.yaml")
            documents = read_documents(Path(folder) / "pipeline.yaml")
        options = KubernetesManifestOptions(
            pipeline_name=documents[0]["pipelineInfo"]["name"],
            pipeline_version_name=version_name(documents),
            namespace=cluster.namespace,
            include_pipeline_manifest=True,
        )
    with disk_errors_explained(path):
        make_directory(path.parent)
        try:
            Compiler().compile(
                pipeline,
                str(path),
                kubernetes_manifest_options=options,
                kubernetes_manifest_format=kubernetes_manifest,
            )
        except FileNotFoundError as error:  # a link to nowhere, /proc
            raise UserError(f"cannot write {path}: {error.strerror}; choose another --output") from None


def read_documents(path: Path) -> list[dict[str, Any]]:
    """The documents of a compiled file."""
    return list(yaml.load_all(path.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader))


def version_name(documents: list[dict[str, Any]]) -> str:
    """The pipeline's name and 12 digits of the sha256 of its documents: the same content is the same version."""
    return f"{documents[0]['pipelineInfo']['name']}-{digest_of(documents)[:12]}"
