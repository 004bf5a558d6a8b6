import ast
import sys
from pathlib import Path

import pytest

from components.common.interpreter import python
from pipelines import matta_pipeline

ROOT = Path(__file__).parents[3]
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef)


@pytest.mark.parametrize(
    ("executable", "typed"),
    [
        ("{here}/.venv/bin/python", ".venv/bin/python"),
        ("{here}-old/bin/python", "python"),
        ("/usr/local/bin/python3.11", "python"),
    ],
)
def test_a_printed_command_begins_with_the_interpreter_as_one_types_it(tmp_path, monkeypatch, executable, typed):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "executable", executable.format(here=tmp_path))
    assert python() == typed


def test_the_pipelines_help_begins_with_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "executable", str(tmp_path / ".venv/bin/python"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["x", "--help"])
    with pytest.raises(SystemExit):
        matta_pipeline.main()
    assert capsys.readouterr().out.startswith("usage: .venv/bin/python -m pipelines.matta_pipeline")


def test_no_message_names_another_interpreter():
    said = []
    for file in (file for package in ("components", "pipelines") for file in (ROOT / package).rglob("*.py")):
        nodes = list(ast.walk(ast.parse(file.read_text())))
        pages = {ast.get_docstring(node, clean=False) for node in nodes if isinstance(node, DOCUMENTED)}
        texts = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
        said += [(file, text) for text in texts - pages if "python -m" in text]
    assert said == []
