"""The step and its command: what is written, what is said, and whether a decision can be replayed."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
from gate_support import BITS, Evaluation

from components.gate.__main__ import main
from components.gate.component import gate as component
from components.gate.explain import replay
from components.gate.step import gate
from matta_core.artifacts import finish_artifact, open_artifact
from matta_core.errors import UserError
from matta_core.recipe import GateConfig

CONFIG = GateConfig.from_dict(
    {
        "policy": {
            "maximum": {BITS: 2.5},
            "non_inferior": {BITS: 0.05},
            "slices": {BITS: 0.1},
            "min_documents": 10,
            "small_slices": "skip",
        },
        "per_student": {"m": {"max_parameters": 1, "max_bytes": 1}},
    },
    "gate",
)


@pytest.fixture
def decided(evaluation, tmp_path):
    """A GateDecision beside its inputs."""
    return gate(CONFIG, *evaluation.write(), output=tmp_path / "gate")


def test_the_step_writes_the_decision_and_says_a_line_per_student(evaluation, tmp_path, capsys):
    paths = evaluation.write()
    artifact = gate(CONFIG, *paths, output=tmp_path / "gate")
    decision = json.loads((artifact.path / "decision.json").read_text())
    assert decision["blessed"] == ["s", "l"]
    sealed = open_artifact(artifact.path, "GateDecision").metadata
    assert (sealed["blessed"], sealed["held"]) == (["s", "l"], ["m"])
    said = capsys.readouterr().out.splitlines()
    assert any(
        line.startswith("[gate] s: blessed, ")
        and line.endswith("better in matta_bits_per_byte, no difference beyond noise in matta_last_token")
        for line in said
    )
    assert "[gate] m: NOT blessed: 2,000 parameters, above the ceiling 1; and 1 more" in said
    gate(CONFIG, *paths, output=tmp_path / "gate")
    said = capsys.readouterr().out
    assert "reused" in said
    assert "m: NOT blessed" in said  # a reused decision is told again


def test_no_blessed_student_is_a_result_and_warnings_are_said(evaluation, tmp_path, capsys):
    evaluation.without_baselines()
    artifact = gate(GateConfig(), *evaluation.write(), output=tmp_path / "gate")
    assert artifact.metadata["blessed"] == []
    said = capsys.readouterr().out
    assert "nothing will be pushed" in said
    assert "warning: nothing but measured, baseline, certificate is asked of s" in said


def test_an_evaluation_of_another_family_is_refused_and_nothing_is_written(evaluation, tmp_path):
    report, _ = evaluation.write()
    (tmp_path / "other").mkdir()
    other = Evaluation(tmp_path / "other")
    other.family["students"]["s"]["parameters"] = 1
    _, students = other.write()
    with pytest.raises(UserError, match="was made of the StudentFamily with digest"):
        gate(CONFIG, report, students, output=tmp_path / "gate")
    assert not (tmp_path / "gate").exists()


def test_the_same_inputs_give_the_same_decision_bit_for_bit(evaluation, tmp_path):
    paths = evaluation.write()
    first, second = (gate(CONFIG, *paths, output=tmp_path / name) for name in ("one", "two"))
    assert (first.path / "decision.json").read_bytes() == (second.path / "decision.json").read_bytes()
    assert first.digest == second.digest


def test_a_replay_finds_its_inputs_beside_the_decision_and_comes_out_the_same(decided):
    lines, same = replay(decided.path, None, None)
    assert same
    assert lines[-1] == "Replayed from its files: the same decision, bit for bit."
    text = "\n".join(lines)
    assert "s: BLESSED" in text
    assert "m: NOT blessed" in text
    assert "2,000 parameters, above the ceiling 1" in text
    assert "documents: it is better" in text
    assert "Blessed: s, l." in text


def test_a_replay_tells_what_comes_out_otherwise(decided):
    file = decided.path / "decision.json"
    decision = json.loads(file.read_text())
    decision["students"]["m"]["blessed"] = True
    decision["students"]["s"]["comparisons"][0]["p_value"] += 1e-12
    file.write_text(json.dumps(decision))
    finish_artifact(decided.path, "GateDecision", key=decided.key, inputs=decided.inputs)
    lines, same = replay(decided.path, None, None)
    assert not same
    text = "\n".join(lines)
    assert "NOT the same decision, 2 differences" in text
    assert "decision.students.m.blessed: recorded True, now False" in text
    assert "decision.students.s.comparisons[0].p_value: recorded" in text


def test_a_replay_asks_for_inputs_that_are_not_there_and_refuses_others(decided, evaluation, tmp_path):
    moved = tmp_path / "elsewhere" / "gate"
    moved.parent.mkdir()
    decided.path.rename(moved)
    with pytest.raises(UserError, match="which is not beside it: give --evaluation"):
        replay(moved, None, None)
    (tmp_path / "other").mkdir()
    other = Evaluation(tmp_path / "other")
    other.shift("s", BITS, 0.1)
    with pytest.raises(UserError, match=r"was made from the EvaluationReport with digest .* give the one"):
        replay(moved, *other.write())
    _, same = replay(moved, tmp_path / "evaluation", tmp_path / "students")
    assert same


def run_main(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["gate", *map(str, arguments)])
    main()


def test_explain_exits_with_1_where_the_replay_differs(decided, monkeypatch, capsys):
    with pytest.raises(SystemExit) as same:
        run_main(monkeypatch, "--explain", decided.path)
    assert same.value.code == 0
    file = decided.path / "decision.json"
    file.write_text(file.read_text().replace('"hypotheses": ', '"hypotheses": 1'))
    finish_artifact(decided.path, "GateDecision", key=decided.key, inputs=decided.inputs)
    with pytest.raises(SystemExit) as other:
        run_main(monkeypatch, "--explain", decided.path)
    assert other.value.code == 1
    assert "NOT the same decision" in capsys.readouterr().out


def test_a_dry_run_decides_and_writes_nothing(evaluation, tmp_path, monkeypatch, capsys):
    report, students = evaluation.write()
    before = sorted(tmp_path.rglob("*"))
    settings = ["--set", f"gate.policy.maximum={{{BITS}: 2.3}}"]
    run_main(monkeypatch, "--evaluation", report, "--students", students, "--dry-run", *settings)
    assert sorted(tmp_path.rglob("*")) == before
    said = capsys.readouterr().out
    assert "s: NOT blessed" in said
    assert "is above the maximum 2.3" in said
    assert said.endswith("Blessed: m, l.\nNothing was written.\n")


def test_without_a_dry_run_an_output_is_required(evaluation, monkeypatch, capsys):
    report, students = evaluation.write()
    with pytest.raises(SystemExit) as stopped:
        run_main(monkeypatch, "--evaluation", report, "--students", students)
    assert stopped.value.code == 2
    assert "required: --output" in capsys.readouterr().err


def test_the_component_publishes_the_decision_and_a_metric_per_size(evaluation, tmp_path):
    report, students = (SimpleNamespace(path=str(path)) for path in evaluation.write())
    decision = SimpleNamespace(path=str(tmp_path / "kfp" / "decision"), metadata={})
    logged = {}
    component.python_func(
        CONFIG.to_json(), "", report, students, decision, SimpleNamespace(log_metric=logged.__setitem__)
    )
    assert open_artifact(decision.path, "GateDecision").digest == decision.metadata["digest"]
    assert logged == {"blessed_students": 2, "blessed/s": 1, "blessed/l": 1, "blessed/m": 0}


def test_the_commands_help_imports_no_scipy():
    code = "import sys; sys.argv = ['gate', '--help']\nimport components.gate.__main__ as m\n"
    code += "try:\n    m.main()\nexcept SystemExit:\n    assert not {'scipy', 'numpy'} & sys.modules.keys()\n    raise"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "--explain DECISION" in result.stdout
