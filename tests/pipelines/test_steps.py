"""The table of steps agrees with the components, and docs/steps.md adds a row to it as it says."""

import csv
import dataclasses
import importlib
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from page_commands import blocks, commands

from components.common.images import LOCAL_TAG, image_name
from matta_core.artifacts import finish_artifact, open_artifact
from matta_core.recipe import Recipe
from pipelines.dag import component_of
from pipelines.steps import STEPS

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "steps.md"


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
def test_a_row_says_what_its_component_does(step):
    component = component_of(step)
    assert component.component_spec.implementation.container.image == f"{image_name(step.image)}:{LOCAL_TAG}"
    assert ("launch_config" in component.component_spec.inputs) == step.ranks
    assert step.section == step.name or not step.ranks
    assert step.section in (None, *(field.name for field in dataclasses.fields(Recipe)))


def test_every_component_has_a_row():
    found = set()
    for file in (ROOT / "components").glob("*/component.py"):
        module = importlib.import_module(f"components.{file.parent.name}.component")
        found |= {name for name, thing in vars(module).items() if hasattr(thing, "component_spec")}
    assert found == set(STEPS)


def test_the_table_is_read_without_kfp_and_torch():
    code = "import sys, pipelines.steps; assert not {'kfp', 'torch', 'transformers'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)


def with_hunk(text, hunk):
    """The text with a diff's hunk: its old lines, which stand once in the text, become its new ones."""
    lines = hunk.splitlines()
    old = "".join(line[1:] + "\n" for line in lines if not line.startswith("+"))
    new = "".join(line[1:] + "\n" for line in lines if not line.startswith("-"))
    assert text.count(old) == 1, f"the page's lines stand {text.count(old)} times:\n{old}"
    return text.replace(old, new)


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """A copy of the code, to which the page has added its step, and a StudentFamily where its commands look for one."""
    root = tmp_path_factory.mktemp("house")
    for package in ("matta_core", "components", "pipelines"):
        shutil.copytree(ROOT / package, root / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", root)
    for block in blocks(PAGE, "python"):
        file = root / re.match(r"# (\S+\.py)\n", block)[1]
        file.parent.mkdir(exist_ok=True)
        file.write_text(block.partition("\n")[2])
    (root / "components" / "list_models" / "__init__.py").touch()
    for block in blocks(PAGE, "diff"):
        name, _, hunks = block.removeprefix("--- ").partition("\n")
        text = (root / name).read_text()
        for hunk in hunks.split("@@\n"):
            text = with_hunk(text, hunk)
        (root / name).write_text(text)
    students = root / "runs" / "alone" / "students"
    students.mkdir(parents=True)
    sizes = {"s": 60_000_000, "xl": 200_000_000}
    members = {
        name: {"path": name, "parameters": count, "bytes": 4 * count, "flops_per_token": 2 * count}
        for name, count in sizes.items()
    }
    (students / "family.json").write_text(json.dumps({"student": "s", "ta": "xl", "students": members}))
    finish_artifact(students, "StudentFamily", key="k")
    return root


@pytest.fixture(scope="module")
def shown(house):
    """By module: what the page's command of it said, run in that copy."""
    said = {}
    for command in commands(PAGE):
        _, *arguments = shlex.split(command)
        done = subprocess.run([sys.executable, *arguments], cwd=house, env={}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        said[arguments[1]] = done.stdout
    return said


def test_the_pages_step_runs_alone(house, shown):
    assert "[list_models] finished in" in shown["components.list_models"]
    made = open_artifact(house / "runs" / "alone" / "models", "ModelList")
    with (made.path / "models.csv").open() as file:
        assert list(csv.reader(file)) == [["model", "parameters", "bytes"], ["s", "60000000", "240000000"]]
    assert made.metadata == {"models": ["s"]}


def lint_imports(house, contracts):
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache", "--config", contracts]
    return subprocess.run(command, cwd=house, env={}, capture_output=True, text=True)


def test_the_pages_step_keeps_the_import_contracts(house):
    done = lint_imports(house, house / "pyproject.toml")
    assert done.returncode == 0, done.stdout


def test_a_folder_that_the_contract_does_not_list_breaks_it(house):
    done = lint_imports(house, ROOT / "pyproject.toml")
    assert done.returncode == 1
    assert "not listed as layers:\n\n- components.list_models\n" in done.stdout


def test_the_pages_step_is_part_of_the_compiled_pipeline(house, shown):
    assert "pipelines.matta_pipeline" in shown
    spec, _ = yaml.safe_load_all((house / "matta_pipeline.yaml").read_text())
    task = spec["root"]["dag"]["tasks"]["list-models"]
    assert task["dependentTasks"] == ["extract-students"]
    assert task["cachingOptions"] == {"enableCache": True}
    assert task["inputs"]["parameters"]["config"] == {"componentInputParameter": "list_models_config"}
    container = spec["deploymentSpec"]["executors"]["exec-list-models"]["container"]
    cluster = yaml.safe_load((house / "pipelines" / "clusters" / "cpu.yaml").read_text())
    assert container["image"] == cluster["images"]["evaluator"]
    assert container["resources"]["resourceMemoryRequest"] == "1Gi"
