"""A Teacher's distribution over next tokens, cached: its top k log-probabilities and the mass of the rest."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from matta_core.errors import UserError
from matta_core.pretrained import load_tokenizer
from matta_core.tokens import num_token_ids

COLUMNS = ("top_k_ids", "top_k_log_probs", "tail_mass")


@dataclass(frozen=True)
class TeacherTargets:
    """The Teacher's cached scores, aligned: ids and log_probs (tokens, k), tail_mass (tokens,)."""

    top_k_ids: Tensor
    top_k_log_probs: Tensor
    tail_mass: Tensor

    def __getitem__(self, chunk: slice) -> "TeacherTargets":
        return TeacherTargets(self.top_k_ids[chunk], self.top_k_log_probs[chunk], self.tail_mass[chunk])


def teacher_targets(batch: Mapping[str, Tensor], num_tokens: int) -> TeacherTargets | None:
    """The Teacher's scores in a batch's columns; None where it has none."""
    if COLUMNS[0] not in batch:
        return None
    ids, log_probs, tail_mass = (batch[name].reshape(num_tokens, -1) for name in COLUMNS)
    return TeacherTargets(ids, log_probs, tail_mass[:, 0])


def top_k_scores(logits: Tensor, top_k: int, num_ids: int) -> TeacherTargets:
    """The top-k log-probabilities of logits (tokens, vocabulary), and the mass of the rest.

    Only the first `num_ids` ids count, normalised anew. An output that is padded for the hardware (Qwen: 151,936 or
    152,064 rows for 151,665 tokens) leaves some mass on ids that mean nothing to the student.
    """
    values, ids = logits[:, :num_ids].log_softmax(dim=-1).topk(top_k, dim=-1)
    return TeacherTargets(ids, values, (1.0 - values.exp().sum(-1)).clamp(min=0.0))


def schema(top_k: int, predicted: int) -> pa.Schema:
    """The columns of sequences that predict `predicted` tokens each."""
    types = (
        pa.list_(pa.int32(), predicted * top_k),
        pa.list_(pa.float16(), predicted * top_k),
        pa.list_(pa.float16(), predicted),
    )
    return pa.schema(zip(COLUMNS, types, strict=True))


def check_vocabulary(model: PreTrainedModel, teacher: str | Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Check that each of the dataset's token ids means the same to the Teacher. Its further ids are cut off.

    Raises: UserError where a token has another id or none, or the Teacher's output is too narrow.
    """
    theirs, ours = load_tokenizer(teacher).get_vocab(), tokenizer.get_vocab()
    different = sorted(ours.items() - theirs.items(), key=lambda item: item[1])
    if different:
        token, number = different[0]
        there = f"id {theirs[token]}" if token in theirs else "no id"
        raise UserError(
            f"the vocabulary of teacher {teacher} ({len(theirs)} tokens) is not the dataset's ({len(ours)} tokens): "
            f"{len(different)} of the dataset's tokens have another id or none; {token!r} has id {number} in the "
            f"dataset and {there} in the teacher. Set prepare_data.tokenizer to the teacher's tokenizer, or choose a "
            f"teacher with the dataset's"
        )
    predicted = model.get_output_embeddings().weight.shape[0]
    if predicted < (needed := num_token_ids(tokenizer)):
        raise UserError(
            f"teacher {teacher} predicts {predicted} tokens, the dataset's tokenizer has ids up to "
            f"{needed - 1}: choose a teacher whose config.vocab_size is at least {needed}"
        )


def check_length(model: PreTrainedModel, teacher: str | Path, sequence_length: int) -> None:
    """Check the Teacher's context. Raises: UserError where it is shorter than a sequence."""
    longest = getattr(model.config.get_text_config(), "max_position_embeddings", sequence_length)
    if longest < sequence_length:
        raise UserError(
            f"teacher {teacher} reads at most {longest} tokens: set prepare_data.sequence_length to that or less, "
            f"got {sequence_length}"
        )
