"""A step's key follows the modules that it uses: all of them, and no others."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support import TRAINING

from components.common import source
from components.common.source import closure, closure_digest

REPOSITORY = Path(source.__file__).parents[2]


def names(module, root, packages):
    return [file.relative_to(root).as_posix() for file in closure(root / module, root, packages)]


def write(root, files):
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


MADE_UP = {
    "house/__init__.py": "",
    "house/step.py": "import json\nimport house.tools\nfrom house import rooms, NAME\nfrom .near import thing\n",
    "house/tools.py": "def f():\n    from house.lazy import g\n    import torch\n    return g\n",
    "house/lazy.py": "from . import deep\nfrom .deep import inner as other\n",
    "house/near.py": "from .. import nothing\n",
    "house/rooms/__init__.py": "from house.rooms.kitchen import sink\n",
    "house/rooms/kitchen.py": "import subprocess\nsubprocess.run(['python', '-m', 'house.worker'])\n",
    "house/rooms/cellar.py": "",
    "house/worker.py": "from pathlib import Path\nQUERY = Path(__file__).with_name('query.py')\n",
    "house/query.py": "import sys\n",
    "house/deep/__init__.py": "",
    "house/deep/inner.py": "try:\n    import house.optional\nexcept ImportError:\n    pass\n",
    "house/optional.py": "import house.step\n",  # a circle
    "house/page.py": "PAGE = 'page.html.jinja'\n",
    "house/page.html.jinja": "{% include 'style.jinja' %}",
    "house/style.jinja": "",
    "house/alone.py": "import house.step",
    "house/query.txt": "",
    "neighbour/__init__.py": "import house.alone",
    "torch/__init__.py": "import house.alone",
}


def test_imports_are_followed_wherever_they_stand(tmp_path):
    write(tmp_path, MADE_UP)
    assert names("house/step.py", tmp_path, {"house", "neighbour"}) == [
        "house/__init__.py",
        "house/deep/__init__.py",
        "house/deep/inner.py",
        "house/lazy.py",
        "house/near.py",
        "house/optional.py",
        "house/query.py",
        "house/rooms/__init__.py",
        "house/rooms/kitchen.py",
        "house/step.py",
        "house/tools.py",
        "house/worker.py",
    ]


def test_templates_beside_a_module_that_loads_one_count_and_beside_another_do_not(tmp_path):
    write(tmp_path, MADE_UP)
    used = ["house/__init__.py", "house/page.html.jinja", "house/page.py", "house/style.jinja"]
    assert names("house/page.py", tmp_path, {"house"}) == used
    assert "house/style.jinja" not in names("house/alone.py", tmp_path, {"house"})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("from house import rooms as r", ["house/rooms/__init__.py", "house/rooms/kitchen.py"]),
        ("from house.rooms import cellar", ["house/rooms/__init__.py", "house/rooms/cellar.py"]),
        ("from house.rooms import *", ["house/rooms/__init__.py"]),
        ("import house.rooms.cellar as c", ["house/rooms/__init__.py", "house/rooms/cellar.py"]),
        ("class A:\n    def f(self):\n        import house.near", ["house/near.py"]),
        ("from house.near import thing", ["house/near.py"]),
        ("'house.near'", ["house/near.py"]),
        ("'see house.near'", []),
        ("from elsewhere import house", []),
        ("from ... import far", []),
        ("import neighbour", []),
    ],
)
def test_each_way_to_name_a_module_is_understood(tmp_path, text, expected):
    write(tmp_path, MADE_UP | {"start.py": text})
    found = names("start.py", tmp_path, {"house"})
    assert set(expected) <= set(found)
    assert bool(expected) == ("house/__init__.py" in found)


def test_a_module_outside_of_our_packages_is_followed_into_them(tmp_path):
    write(tmp_path / "ours", MADE_UP)
    write(tmp_path / "theirs", {"job.py": "from . import x\nfrom house import near"})
    found = closure(tmp_path / "theirs" / "job.py", tmp_path / "ours", {"house"})
    assert found == [tmp_path / "ours" / "house" / name for name in ("__init__.py", "near.py")]


STEPS = {
    step: f"components/{step}/step.py"
    for step in (
        "prepare_data", "score_teacher", "train", "extract_students", "evaluate", "gate", "push", "report",
    )
} | {"merge_evaluations": "components/evaluate/merge_evaluations.py"}  # fmt: skip


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    """The real tree, to be altered."""
    root = tmp_path_factory.mktemp("tree")
    for package in ("matta_core", "components", "pipelines"):
        shutil.copytree(REPOSITORY / package, root / package, ignore=shutil.ignore_patterns("__pycache__"))
    return root


def keys(root, monkeypatch):
    monkeypatch.setattr(source, "_ROOT", root)
    monkeypatch.setattr(source, "closure", lambda module: closure(module, root))
    closure_digest.cache_clear()
    found = {step: closure_digest(root / file) for step, file in STEPS.items()}
    closure_digest.cache_clear()
    return found


@pytest.mark.parametrize(
    ("edited", "changed"),
    [
        ("matta_core/train.py", {"train"}),
        ("matta_core/teacher.py", {"score_teacher", "train"}),
        ("matta_core/training/passes.py", {"score_teacher", "train", "extract_students"}),
        ("components/common/storage/storage.py", {"prepare_data", "train", "evaluate", "merge_evaluations", "push"}),
        ("components/common/served/versions.py", {"train", "evaluate", "merge_evaluations", "push"}),
        ("matta_core/objectives/next_token_query.py", {"push"}),
        ("components/push/operations.py", set()),
        ("components/common/statistics.py", {"evaluate", "merge_evaluations", "gate", "push", "report"}),
        ("components/evaluate/memory.py", {"evaluate"}),
        ("components/report/style.css.jinja", {"report"}),
        ("components/train/component.py", set()),
        ("components/train/teacher.py", set()),
        ("components/evaluate/plan.py", set()),
        ("components/evaluate/merge_evaluations.py", {"merge_evaluations"}),
        ("components/push/__main__.py", set()),
        ("pipelines/dag.py", set()),
        ("matta_core/recipe/settings.py", set(STEPS)),
        ("components/common/step_runner.py", set(STEPS)),
        ("components/common/storage/local.py", {"prepare_data", "train", "evaluate", "merge_evaluations", "push"}),
    ],
)
def test_an_edit_changes_the_keys_of_the_steps_that_use_the_file_and_no_others(copied, monkeypatch, edited, changed):
    before = keys(copied, monkeypatch)
    text = (copied / edited).read_text()
    (copied / edited).write_text(f"{text}\n# edited\n")
    after = keys(copied, monkeypatch)
    (copied / edited).write_text(text)
    assert {step for step in STEPS if before[step] != after[step]} == changed


@pytest.mark.slow
def test_every_module_that_a_step_has_loaded_at_its_end_was_followed(dataset, tmp_path):
    """Against Python's own account, of a step that imports lazily."""
    code = (
        "import sys\n"
        "from components.train.step import train; from matta_core.recipe import TrainConfig\n"
        "train(TrainConfig.from_json(sys.argv[1]), sys.argv[2], None, output=sys.argv[3])\n"
        "ours = [m for n, m in sys.modules.items() if n.split('.')[0] in ('components', 'matta_core', 'pipelines')]\n"
        "print(*(module.__file__ for module in ours if module.__file__), sep='\\n')\n"
    )
    command = [sys.executable, "-c", code, TRAINING.to_json(), str(dataset.path), str(tmp_path / "checkpoint")]
    result = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)
    assert result.returncode == 0, result.stderr
    loaded = {Path(line) for line in result.stdout.splitlines() if line.startswith("/")}
    assert REPOSITORY / "matta_core/training/passes.py" in loaded
    assert loaded <= set(closure(REPOSITORY / STEPS["train"]))
