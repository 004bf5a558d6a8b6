"""What the example profiles compile to, as files (tests/pipelines/golden/). To update them after a wanted change:

python -m tests.golden_files

The wrappers' sources, which kfp inlines, and the recipe's settings are left out: the files say what is asked of a
cluster, and change when that does. That the sources are short, and that the settings are there, is tested apart.
"""

import copy
import tempfile
from pathlib import Path

import yaml

from components.common.command_line import DEFAULT_RECIPE, load_recipe
from pipelines.cluster import load_cluster
from pipelines.kubeflow.compile import compile_pipeline, read_documents

PROFILES = Path("pipelines/clusters")
GOLDEN = Path(__file__).parent / "pipelines" / "golden"
RECIPE = DEFAULT_RECIPE.with_name("smoke.yaml")
SOURCE = "(the wrapper's source)"
SETTINGS = "(the recipe's settings)"
# By file: the profile, and whether it is a Kubernetes manifest.
FILES = {
    "gke_h100.yaml": ("gke_h100", False),
    "one_gpu_manifest.yaml": ("one_gpu", True),
    "cpu.yaml": ("cpu", False),
    "vertex.yaml": ("vertex", False),
}


def compile_golden(file: str) -> list[dict]:
    """The documents of a golden file as they are compiled now, sources and all."""
    profile, manifest = FILES[file]
    cluster = load_cluster(PROFILES / f"{profile}.yaml")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / file
        compile_pipeline(load_recipe(RECIPE), cluster, path, kubernetes_manifest=manifest)
        return read_documents(path)


def pipeline_spec(documents: list[dict]) -> dict:
    """The PipelineSpec among the documents."""
    if "pipelineInfo" in documents[0]:
        return documents[0]
    return documents[1]["spec"]["pipelineSpec"]


def platform_spec(documents: list[dict]) -> dict | None:
    """The PlatformSpec among the documents; None where there is none."""
    if "pipelineInfo" in documents[0]:
        return documents[1] if len(documents) > 1 else None
    return documents[1]["spec"].get("platformSpec")


def sources(documents: list[dict]) -> dict[str, str]:
    """By executor: the wrapper's source that kfp inlined."""
    executors = pipeline_spec(documents)["deploymentSpec"]["executors"]
    return {name: executor["container"]["command"][-1] for name, executor in executors.items()}


def shortened(documents: list[dict]) -> list[dict]:
    """The documents with SOURCE and SETTINGS, and a fixed digest in the version's name."""
    documents = copy.deepcopy(documents)
    for name, parameter in pipeline_spec(documents)["root"]["inputDefinitions"]["parameters"].items():
        if name.endswith("_config"):
            parameter["defaultValue"] = SETTINGS
    for executor in pipeline_spec(documents)["deploymentSpec"]["executors"].values():
        executor["container"]["command"][-1] = SOURCE
    if "pipelineInfo" not in documents[0]:
        name = f"{documents[0]['metadata']['name']}-0123456789ab"
        documents[1]["metadata"]["name"] = documents[1]["spec"]["displayName"] = name
    return documents


def main() -> None:
    for file in FILES:
        (GOLDEN / file).write_text(yaml.safe_dump_all(shortened(compile_golden(file))), encoding="utf-8")
        print(f"wrote {GOLDEN / file}")


if __name__ == "__main__":
    main()
