import dataclasses
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file
from support import SEQUENCE_LENGTH, byte_tokenizer, make_dataset, tiny_gpt2
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from components.score_teacher.step import score_teacher
from matta_core.artifacts import IN_PROGRESS
from matta_core.checkpoints import save_model
from matta_core.errors import UserError
from matta_core.objectives import OBJECTIVE
from matta_core.objectives.packed_scores import STEPS_PER_NAT
from matta_core.pretrained import load_model
from matta_core.recipe import ScoreTeacherConfig
from matta_core.training.data import arrays

VOCABULARY = 257
A_STEP = 1 / STEPS_PER_NAT + 1e-5  # half a step of rounding, and as much where all are made to add up to 1


@pytest.fixture
def teacher(tmp_path):
    folder = tmp_path / "teacher"
    save_model(tiny_gpt2(64, vocab_size=VOCABULARY), byte_tokenizer(), folder)
    return folder


def config(teacher, **changes):
    return ScoreTeacherConfig(
        **({"teacher": str(teacher), "top_k": 8, "tail_samples": 32, "precision": "fp32"} | changes)
    )


def test_scores_lie_row_by_row_beside_the_dataset_and_are_the_teachers(dataset, teacher, tmp_path):
    scores = score_teacher(config(teacher), dataset.path, None, output=tmp_path / "scores")
    model = tiny_gpt2(64, vocab_size=VOCABULARY).eval()
    shards = sorted((dataset.path / "train").glob("*.parquet"))
    assert [file.name for file in sorted((scores.path / "train").glob("*"))] == [file.name for file in shards]
    for shard in shards:
        rows = np.stack(pq.read_table(shard)["input_ids"].to_numpy())
        found = columns_of(scores, shard.name)
        assert all(len(column) == len(rows) for column in found.values())
        with torch.no_grad():
            log_probs = model(torch.from_numpy(rows.astype(np.int64))).logits[:, :-1].log_softmax(-1)
        expected, ids = log_probs.topk(8, dim=-1)
        assert np.array_equal(found["top_k_ids"], ids.flatten(1).numpy())
        assert np.allclose(found["top_k_log_probs"], expected.flatten(1).numpy(), atol=A_STEP)
        rest = log_probs.exp().scatter(-1, ids, 0.0)
        assert np.allclose(found["tail_mass"], rest.sum(-1).numpy(), rtol=A_STEP)
        mean = -torch.special.entr(rest).sum(-1) / rest.sum(-1)
        assert np.allclose(found["tail_log_prob"], mean.numpy(), atol=A_STEP)
        drawn = torch.from_numpy(found["tail_ids"]).view(*rest.shape[:2], -1)
        assert drawn.shape[-1] == 32
        assert (rest.gather(-1, drawn) > 0).all()  # none of the top k
        counts = torch.zeros_like(rest).scatter_add_(-1, drawn, torch.ones(drawn.shape))
        expected_counts = 32 * rest / rest.sum(-1, keepdim=True)
        assert ((counts - expected_counts).abs() < 1 + 1e-4).all()


def test_killed_between_shards_it_goes_on_with_the_next_and_ends_with_the_same_digest(
    dataset, teacher, tmp_path, monkeypatch
):
    from matta_core import teacher as module

    whole = score_teacher(config(teacher), dataset.path, None, output=tmp_path / "whole")
    real, scored = module._score_shard, []

    def dies_on_the_second(model, schema, shard, target, *rest):
        scored.append(shard.name)
        if len(scored) == 2:
            target.write_bytes(b"half a shard")
            raise KeyboardInterrupt
        real(model, schema, shard, target, *rest)

    monkeypatch.setattr(module, "_score_shard", dies_on_the_second)
    with pytest.raises(KeyboardInterrupt):
        score_teacher(config(teacher), dataset.path, None, output=tmp_path / "killed")
    resumed = score_teacher(config(teacher), dataset.path, None, output=tmp_path / "killed")
    assert scored == ["part-00000-of-00002.parquet"] + 2 * ["part-00001-of-00002.parquet"]
    assert resumed.digest == whole.digest
    assert not (resumed.path / IN_PROGRESS).exists()


def test_ids_above_a_hole_are_scored_as_those_below(tmp_path):
    """Its largest id is 306: a vocabulary of 257 tokens needs 307 ids, of which a padded output has more."""
    dataset = make_dataset(tmp_path / "holed", hole=50)
    teacher = saved(tmp_path / "padded", byte_tokenizer(hole=50), 320)
    scores = score_teacher(config(teacher, top_k=307), dataset.path, None, output=tmp_path / "scores")
    ids, log_probs, _, logits = scores_and_logits(dataset, scores, teacher)
    assert ids.max() == 306
    expected = logits[:, :307].log_softmax(-1).gather(-1, torch.from_numpy(ids.astype(np.int64)))
    assert np.allclose(log_probs, expected.numpy(), atol=A_STEP)
    narrow = saved(tmp_path / "narrow", byte_tokenizer(hole=50), 257)
    with pytest.raises(UserError, match="predicts 257 tokens, the dataset's tokenizer has ids up to 306"):
        score_teacher(config(narrow), dataset.path, None, output=tmp_path / "none")


def columns_of(scores, name):
    """A shard's columns as training reads them."""
    return OBJECTIVE.unpack(arrays(pq.read_table(scores.path / "train" / name)))


def saved(folder, tokenizer, vocab_size):
    save_model(tiny_gpt2(64, vocab_size=vocab_size), tokenizer, folder)
    return folder


def scores_and_logits(dataset, scores, teacher):
    """Of the first shard: ids and log-probabilities (tokens, k), tail mass (tokens,), and the Teacher's own logits."""
    name = "part-00000-of-00002.parquet"
    found = columns_of(scores, name)
    ids, log_probs, tail = (found[column] for column in ("top_k_ids", "top_k_log_probs", "tail_mass"))
    rows = np.stack(pq.read_table(dataset.path / "train" / name)["input_ids"].to_numpy())
    with torch.no_grad():
        model = load_model(teacher, OBJECTIVE.model_class).eval()
        logits = model(torch.from_numpy(rows.astype(np.int64))).logits[:, :-1].flatten(0, 1)
    tokens = len(logits)
    return ids.reshape(tokens, -1), log_probs.reshape(tokens, -1), tail.reshape(tokens), logits


@pytest.mark.parametrize("top_k", [8, VOCABULARY])
@pytest.mark.parametrize("added", [[], ["<|im_start|>", "<|im_end|>"]], ids=["padding", "padding and further tokens"])
def test_a_teacher_with_a_wider_output_is_scored_over_the_datasets_tokens(dataset, tmp_path, added, top_k):
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(added, special_tokens=True)
    teacher = saved(tmp_path / "padded", tokenizer, 320)
    scores = score_teacher(config(teacher, top_k=top_k), dataset.path, None, output=tmp_path / "scores")
    ids, log_probs, tail, logits = scores_and_logits(dataset, scores, teacher)
    assert ids.max() < VOCABULARY
    expected = logits[:, :VOCABULARY].log_softmax(-1).gather(-1, torch.from_numpy(ids.astype(np.int64)))
    assert np.allclose(log_probs, expected.numpy(), atol=A_STEP)
    assert np.allclose(np.exp(log_probs.astype(np.float64)).sum(-1) + tail, 1.0, atol=1e-6)
    assert logits.softmax(-1)[:, VOCABULARY:].sum(-1).mean() > 0.1  # what the padding would have taken


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda ids: ids.update(a=ids["b"], b=ids["a"]),
            r"\(257 tokens\) is not the dataset's \(257 tokens\): 2 of the dataset's tokens have another id or none; "
            r"'a' has id (\d+) in the dataset and id (?!\1)\d+ in the teacher. Set prepare_data.tokenizer",
        ),
        (
            lambda ids: ids.pop("a"),
            r"\(256 tokens\) .*: 1 of the dataset's tokens .*; 'a' has id \d+ in the dataset and no id in the teacher",
        ),
    ],
    ids=["two exchanged", "one missing"],
)
def test_a_teacher_that_gives_a_token_another_id_is_refused_with_an_example(dataset, tmp_path, change, message):
    backend = json.loads(byte_tokenizer().backend_tokenizer.to_str())
    change(backend["model"]["vocab"])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(backend)), eos_token="<|endoftext|>", bos_token="<|endoftext|>"
    )
    teacher = saved(tmp_path / "other", tokenizer, 320)
    with pytest.raises(UserError, match=message):
        score_teacher(config(teacher), dataset.path, None, output=tmp_path / "scores")


def test_a_teacher_that_predicts_fewer_tokens_than_it_names_is_refused(dataset, tmp_path):
    teacher = saved(tmp_path / "narrow", byte_tokenizer(), 256)
    with pytest.raises(
        UserError, match=r"predicts 256 tokens, the dataset's tokenizer has ids up to 256: choose .* at least 257"
    ):
        score_teacher(config(teacher), dataset.path, None, output=tmp_path / "scores")


def test_a_teacher_that_reads_less_than_a_sequence_is_refused(teacher, tmp_path):
    long = make_dataset(tmp_path / "long", length=32)
    with pytest.raises(UserError, match=r"reads at most 16 tokens: set prepare_data.sequence_length to that or less"):
        score_teacher(config(teacher), long.path, None, output=tmp_path / "scores")


def test_more_log_probabilities_than_tokens_are_refused(dataset, teacher, tmp_path):
    with pytest.raises(UserError, match=r"top_k must be at most the vocabulary's 257, got 300"):
        score_teacher(config(teacher, top_k=300), dataset.path, None, output=tmp_path / "scores")


def test_a_teacher_that_is_not_there_or_is_pickled_is_refused(dataset, teacher, tmp_path):
    with pytest.raises(UserError, match=r"cannot load a model from .*nowhere.*Give a folder"):
        score_teacher(config(tmp_path / "nowhere"), dataset.path, None, output=tmp_path / "a")
    (teacher / "model.safetensors").unlink()
    torch.save({}, teacher / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"cannot load a model from .*safetensors"):
        score_teacher(config(teacher), dataset.path, None, output=tmp_path / "b")


def broken(teacher, change):
    """The Teacher with a change of its tensors."""
    file = teacher / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, {"format": "pt"})
    return teacher


def scoring_of(dataset, teacher, output, **changes):
    with pytest.raises(UserError) as caught:
        score_teacher(config(teacher, **changes), dataset.path, None, output=output)
    assert not list(output.glob("train/*.parquet"))
    assert not (output / "manifest.json").exists()
    return str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_teacher_with_weights_that_are_no_numbers_is_told_at_the_first_batch(dataset, teacher, tmp_path, value):
    broken(teacher, lambda tensors: tensors["transformer.h.1.mlp.c_fc.weight"].view(-1)[5:6].fill_(value))
    said = scoring_of(dataset, teacher, tmp_path / "scores")
    assert said == (
        f"teacher {teacher} gives log-probabilities that are no finite numbers (first in sequence 0 of "
        f"part-00000-of-00002.parquet), its weights transformer.h.1.mlp.c_fc.weight hold NaN or infinity. Take another "
        f"checkpoint"
    )


def overflowing(teacher):
    """Finite weights in float16, whose products are beyond it."""
    model = tiny_gpt2(64, vocab_size=VOCABULARY).to(torch.float16)
    with torch.no_grad():
        model.transformer.h[0].mlp.c_fc.weight.mul_(3e3)
        model.transformer.h[0].mlp.c_proj.weight.mul_(3e3)
    save_model(model, byte_tokenizer(), teacher)
    return teacher


def test_a_float16_teacher_that_overflows_is_told_with_the_remedy_which_works(dataset, teacher, tmp_path):
    said = scoring_of(dataset, overflowing(teacher), tmp_path / "scores", precision="auto")
    assert "(first in sequence 0 of part-00000-of-00002.parquet), as it overflows in float16, in which it was" in said
    assert said.endswith("Set score_teacher.precision to fp32")
    scores = score_teacher(config(teacher, precision="fp32"), dataset.path, None, output=tmp_path / "again")
    _, log_probs, tail, _ = scores_and_logits(dataset, scores, teacher)
    assert np.isfinite(log_probs).all()
    assert np.isfinite(tail).all()


def test_one_sequence_that_is_no_number_is_found_wherever_it_lies(dataset, teacher, tmp_path, monkeypatch):
    from matta_core.objectives import next_token as module

    real, calls = module.top_k_scores, iter(range(100))

    def breaks_in_the_third_batch(*arguments):
        scores = real(*arguments)
        if next(calls) == 2:
            scores.top_k_log_probs[SEQUENCE_LENGTH - 1] = float("-inf")  # the second sequence's first token
        return scores

    monkeypatch.setattr(module, "top_k_scores", breaks_in_the_third_batch)
    with pytest.raises(UserError, match=r"\(first in sequence 9 of part-00000.*computed in float32\. Take another"):
        score_teacher(config(teacher, batch_size=4), dataset.path, None, output=tmp_path / "scores")
    assert not (tmp_path / "scores" / "manifest.json").exists()


def test_half_a_teacher_is_refused_before_it_is_asked(dataset, teacher, tmp_path):
    broken(teacher, lambda tensors: tensors.pop("transformer.h.1.mlp.c_fc.weight"))
    assert "1 missing (transformer.h.1.mlp.c_fc.weight)" in scoring_of(dataset, teacher, tmp_path / "scores")


def test_two_teachers_or_none_are_refused(dataset, tmp_path):
    with pytest.raises(UserError, match=r"give either score_teacher.teacher .* got None and None"):
        score_teacher(ScoreTeacherConfig(), dataset.path, None, output=tmp_path / "scores")


def test_a_truncated_shard_of_the_dataset_is_refused_by_name(dataset, teacher, tmp_path):
    shard = dataset.path / "train" / "part-00001-of-00002.parquet"
    shard.write_bytes(shard.read_bytes()[:-10])
    with pytest.raises(UserError, match=r"part-00001-of-00002.parquet has \d+ bytes, its manifest says"):
        score_teacher(config(teacher), dataset.path, None, output=tmp_path / "scores")
    shard.unlink()
    with pytest.raises(UserError, match=r"part-00001-of-00002.parquet is missing"):
        score_teacher(config(teacher), dataset.path, None, output=tmp_path / "scores")


def test_the_batch_size_changes_no_key(teacher):
    one, other = config(teacher), dataclasses.replace(config(teacher), batch_size=1)
    assert one.what_changes_the_result() == other.what_changes_the_result()
