import json

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from support import byte_tokenizer, granularity, tiny_gpt2, widths
from transformers import AutoModelForCausalLM, AutoTokenizer

from components.extract_students.step import extract_students
from matta_core.artifacts import Artifact, finish_artifact, is_finished
from matta_core.checkpoints import save_model
from matta_core.errors import UserError
from matta_core.nesting.live import live_student
from matta_core.nesting.size import resolve, whole
from matta_core.objectives.next_token import REFERENCE_TOKENS
from matta_core.recipe import ExtractStudentsConfig, MixConfig
from matta_core.students import extract

# Names whose alphabetical order is not that of their widths.
SIZES = {"small": 8, "medium": 16, "large": 32}


@pytest.fixture
def checkpoint(tmp_path, dataset) -> Artifact:
    path = tmp_path / "checkpoint"
    ta = tiny_gpt2(32, vocab_size=257)
    save_model(ta, byte_tokenizer(), path / "ta")
    sizes = {name: granularity(ta, intermediate_size=width) for name, width in SIZES.items() if width < 32}
    sizes = {name: size.to_dict() for name, size in (sizes | {"large": whole(ta.config, "large")}).items()}
    nesting = {"model_type": "gpt2", "sizes": sizes, "student": "small", "sequence_length": 16}
    (path / "nesting.json").write_text(json.dumps(nesting))
    return finish_artifact(path, "MattaCheckpoint", key="k", inputs={"dataset": dataset.digest})


def family(artifact):
    return json.loads((artifact.path / "family.json").read_text())


def test_each_student_loads_with_stock_transformers_and_generates(checkpoint, dataset, tmp_path):
    students = extract_students(ExtractStudentsConfig(), checkpoint.path, dataset.path, output=tmp_path / "students")
    for name, entry in family(students)["students"].items():
        folder = students.path / entry["path"]
        model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
        assert model.config.n_inner == SIZES[name]
        assert entry["parameters"] == sum(parameter.numel() for parameter in model.parameters())
        assert entry["bytes"] == (folder / "model.safetensors").stat().st_size
        prompt = tokenizer("ab", return_tensors="pt")
        text = model.generate(**prompt, max_new_tokens=4, do_sample=False, pad_token_id=0)
        assert text.shape == (1, 6)
        assert not list(folder.glob("*.py")), "a stock checkpoint needs no code of ours"


def test_the_family_is_in_ascending_order_and_the_largest_is_the_ta_itself(checkpoint, dataset, tmp_path):
    students = extract_students(ExtractStudentsConfig(), checkpoint.path, dataset.path, output=tmp_path / "students")
    assert list(family(students)["students"]) == ["small", "medium", "large"]
    assert family(students)["ta"] == "large"
    ta = AutoModelForCausalLM.from_pretrained(checkpoint.path / "ta")
    largest = AutoModelForCausalLM.from_pretrained(students.path / "large")
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(ta.parameters(), largest.parameters(), strict=True))


def test_every_student_is_certified_bit_for_bit(checkpoint, dataset, tmp_path):
    students = extract_students(ExtractStudentsConfig(), checkpoint.path, dataset.path, output=tmp_path / "students")
    for entry in family(students)["students"].values():
        certificate = entry["certificate"]
        assert certificate["bitwise_equal"] is True
        assert certificate["max_abs_difference"] == 0.0
        assert certificate["sequences"] == 4


def test_every_student_has_a_reference_of_the_live_students_logits(checkpoint, dataset, tmp_path):
    students = extract_students(ExtractStudentsConfig(), checkpoint.path, dataset.path, output=tmp_path / "students")
    ta = AutoModelForCausalLM.from_pretrained(checkpoint.path / "ta")
    first = pq.read_table(sorted((dataset.path / "validation").glob("*.parquet"))[0]).column("input_ids")[0].as_py()
    for name, entry in family(students)["students"].items():
        reference = load_file(students.path / entry["reference"])
        assert entry["reference"] == f"references/{name}.safetensors"
        assert reference["input_ids"].tolist() == [first[:REFERENCE_TOKENS]]
        live = live_student(ta, resolve(ta.config, widths(**SIZES))[name]).eval()
        with torch.no_grad():
            logits = live(input_ids=reference["input_ids"]).logits[0]
        assert torch.equal(reference["logits"], logits)


def test_a_failing_certificate_seals_nothing(checkpoint, dataset, tmp_path, monkeypatch):
    real = extract.extract_student

    def slightly_wrong(ta, granularity):
        student = real(ta, granularity)
        with torch.no_grad():
            student.transformer.wte.weight[5] += 1e-3
        return student

    monkeypatch.setattr(extract, "extract_student", slightly_wrong)
    with pytest.raises(AssertionError, match=r"small differs from the live student"):
        extract_students(ExtractStudentsConfig(), checkpoint.path, dataset.path, output=tmp_path / "students")
    assert not is_finished(tmp_path / "students")


def test_only_the_wanted_sizes_are_extracted_and_unknown_ones_refused(checkpoint, dataset, tmp_path):
    only = extract_students(
        ExtractStudentsConfig(sizes=("large", "small")), checkpoint.path, dataset.path, output=tmp_path / "two"
    )
    assert list(family(only)["students"]) == ["small", "large"]
    with pytest.raises(UserError, match=r"holds small, medium, large, not 'xl'"):
        extract_students(ExtractStudentsConfig(sizes=("xl",)), checkpoint.path, dataset.path, output=tmp_path / "x")


def test_extracting_twice_gives_the_same_digest(checkpoint, dataset, tmp_path):
    one = extract_students(ExtractStudentsConfig(), checkpoint.path, dataset.path, output=tmp_path / "one")
    two = extract_students(ExtractStudentsConfig(), checkpoint.path, dataset.path, output=tmp_path / "two")
    assert one.digest == two.digest


def test_a_mix_is_a_student_within_its_budget_and_says_how_it_was_found(checkpoint, dataset, tmp_path, capsys):
    sizes = family(extract_students(ExtractStudentsConfig(), checkpoint.path, dataset.path, output=tmp_path / "sizes"))
    medium = sizes["students"]["medium"]
    config = ExtractStudentsConfig(mixes={"mid": MixConfig(parameters=medium["parameters"] + 200)}, compact=True)
    students = extract_students(config, checkpoint.path, dataset.path, output=tmp_path / "students")
    members = family(students)["students"]
    mid = members["mid"]
    assert list(members) == sorted(members, key=lambda name: members[name].get("compact", members[name])["parameters"])
    assert mid["intermediate_sizes"] in ([16, 16], [8, 16], [16, 8])  # 32 beside 8 would be 264 more than medium
    assert mid["mix"]["budget"] == {"parameters": medium["parameters"] + 200}
    assert mid["mix"]["cost"] <= medium["parameters"] + 200
    assert (mid["mix"]["evaluated"], mid["mix"]["combinations"], mid["mix"]["ended"]) == (4, 9, "exhaustive")
    assert mid["mix"]["loss"] <= mid["mix"]["best_uniform_loss"]
    said = capsys.readouterr().out
    assert f"[extract_students] mid: widths {mid['intermediate_sizes'][0]}, " in said
    assert "4 of 9 mixtures scored, all that fit" in said


def test_widths_by_layer_are_saved_padded_and_on_request_compact(checkpoint, dataset, tmp_path):
    medium = granularity(tiny_gpt2(32, vocab_size=257), intermediate_sizes=(8, 16))
    nesting = json.loads((checkpoint.path / "nesting.json").read_text())
    nesting["sizes"] = {"small": nesting["sizes"]["small"], "uneven": medium.to_dict()}
    again = tmp_path / "again"
    again.mkdir()
    (checkpoint.path / "ta").rename(again / "ta")
    (again / "nesting.json").write_text(json.dumps(nesting))
    finish_artifact(again, "MattaCheckpoint", key="k", inputs={"dataset": dataset.digest})
    students = extract_students(ExtractStudentsConfig(compact=True), again, dataset.path, output=tmp_path / "students")
    uneven = family(students)["students"]["uneven"]
    stock = AutoModelForCausalLM.from_pretrained(students.path / uneven["path"])
    assert stock.config.n_inner == 16
    assert not stock.transformer.h[0].mlp.c_fc.weight[:, 8:].any()
    assert uneven["certificate"]["padded_equal"]
    assert uneven["parameters"] == sum(parameter.numel() for parameter in stock.parameters())
    # Eight neurons of 16 inputs, 16 outputs and a bias.
    assert uneven["compact"]["parameters"] == uneven["parameters"] - 8 * 33
    assert uneven["compact"]["flops_per_token"] == uneven["flops_per_token"] - 2 * 8 * 32
    assert uneven["compact"]["bytes"] < uneven["bytes"]
    assert uneven["compact"]["certificate"]["bitwise_equal"]
    assert (students.path / uneven["compact"]["path"] / "modeling_matta.py").is_file()
    assert not list(students.path.rglob("__pycache__"))
