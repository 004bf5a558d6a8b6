"""After the joint run each size goes on alone from its slice, and extraction takes it from there."""

import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file
from support import widths
from training_support import CONFIG

from components.extract_students.step import extract_students
from components.train.step import train
from matta_core.artifacts import IN_PROGRESS
from matta_core.nesting.size import Granularity
from matta_core.pretrained import load_model
from matta_core.recipe import ConsolidationConfig, ExtractStudentsConfig, SizeConfig
from matta_core.students.extract import extract_student

ALONE = dataclasses.replace(CONFIG, consolidation=ConsolidationConfig(steps_fraction=0.5))  # six steps of twelve


def saved(folder):
    return load_file(folder / "model.safetensors")


def joint_slices(checkpoint):
    """The students as they were when the joint run ended."""
    ta = load_model(checkpoint / "ta", "AutoModelForCausalLM", torch.float32)
    sizes = json.loads((checkpoint / "nesting.json").read_text())["sizes"]
    return {name: extract_student(ta, Granularity.from_dict(name, size)) for name, size in sizes.items()}


def test_each_size_goes_on_from_its_slice_and_gets_better(dataset, scores, tmp_path):
    config = dataclasses.replace(ALONE, steps=40)
    trained = train(config, dataset.path, scores.path, output=tmp_path / "run")
    joint = json.loads((trained.path / "metrics.jsonl").read_text().splitlines()[-1])
    for name, student in joint_slices(trained.path).items():
        figure = f"eval/cross_entropy/{name}"
        rows = (trained.path / "consolidation" / name / "metrics.jsonl").read_text().splitlines()
        assert json.loads(rows[0])[figure] == pytest.approx(joint[figure], rel=1e-6), "it begins as its slice"
        assert trained.metadata["final"][figure] < 0.99 * joint[figure]
        # Its weights have left the slice by no more than so many steps lead.
        left = saved(trained.path / "consolidated" / name)["transformer.wte.weight"]
        assert 0 < (left - student.get_parameter("transformer.wte.weight")).abs().max() < 40 * 0.5 * 1e-2


def test_the_family_is_of_consolidated_sizes_and_says_so(dataset, scores, tmp_path):
    config = dataclasses.replace(ALONE, consolidation=ConsolidationConfig(steps_fraction=0.5, sizes=("s", "xl")))
    trained = train(config, dataset.path, scores.path, output=tmp_path / "run")
    family = extract_students(ExtractStudentsConfig(), trained.path, dataset.path, output=tmp_path / "family")
    students = json.loads((family.path / "family.json").read_text())["students"]
    slices = joint_slices(trained.path)
    for name, student in students.items():
        alone = name in ("s", "xl")
        assert student.get("consolidated_steps") == (6 if alone else None)
        assert student["nested_from"] == 3
        assert student["certificate"]["bitwise_equal"]
        assert student["certificate"]["sequences"]
        expected = saved(trained.path / "consolidated" / name) if alone else slices[name].state_dict()
        for key, weight in saved(family.path / name).items():
            assert torch.equal(weight, expected[key])


def test_widths_that_differ_by_layer_stay_slices(dataset, scores, tmp_path):
    sizes = {"s": SizeConfig(intermediate_sizes=(8, 16)), **widths(xl=32)}
    trained = train(
        dataclasses.replace(ALONE, sizes=sizes, batch_size=8), dataset.path, scores.path, output=tmp_path / "run"
    )
    assert json.loads((trained.path / "nesting.json").read_text())["consolidated"] == {"xl": 6}


def test_without_it_students_are_slices(dataset, scores, tmp_path):
    config = dataclasses.replace(ALONE, consolidation=ConsolidationConfig(steps_fraction=0.0))
    trained = train(config, dataset.path, scores.path, output=tmp_path / "run")
    assert not (trained.path / "consolidated").exists()
    assert json.loads((trained.path / "nesting.json").read_text())["consolidated"] == {}


@pytest.mark.parametrize("after", [13, 20, 26, 35])
def test_killed_in_any_stage_it_ends_with_the_same_bits(dataset, scores, tmp_path, monkeypatch, after):
    """Twelve steps together, then six of each of four sizes."""
    whole = train(ALONE, dataset.path, scores.path, output=tmp_path / "whole")

    class Killed(BaseException):
        pass

    real, count = torch.optim.AdamW.step, iter(range(after))

    def dies(self, *arguments, **options):
        if next(count, None) is None:
            raise Killed
        return real(self, *arguments, **options)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(torch.optim.AdamW, "step", dies)
        train(ALONE, dataset.path, scores.path, output=tmp_path / "killed")
    assert (tmp_path / "killed" / IN_PROGRESS).is_dir()
    resumed = train(ALONE, dataset.path, scores.path, output=tmp_path / "killed")
    for folder in ("ta", *(f"consolidated/{name}" for name in CONFIG.sizes)):
        ours, theirs = saved(resumed.path / folder), saved(whole.path / folder)
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert resumed.metadata == whole.metadata
