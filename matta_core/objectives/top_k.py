"""A Teacher's distribution over next tokens: its top k, the mass of the rest, and samples of the rest.

The top k alone leave out what the Teacher knows about the rest, a quarter of the KL in trials. Ids that are drawn from
the rest in proportion to their probability stand for it without bias (docs/results.md has the figures).
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from matta_core.errors import UserError
from matta_core.pretrained import load_tokenizer
from matta_core.tokens import num_token_ids

_GOLDEN_RATIO = 0.6180339887498949  # the fractions of its multiples spread evenly


@dataclass(frozen=True)
class TeacherTargets:
    """The Teacher's scores, aligned: ids and log_probs of the top k (tokens, k), tail_mass (tokens,) of all others.

    tail_ids (tokens, samples) are drawn from the others, each for an equal part of their mass; tail_log_prob (tokens,)
    is the mean of their log-probabilities, weighted by probability.
    """

    top_k_ids: Tensor
    top_k_log_probs: Tensor
    tail_mass: Tensor
    tail_ids: Tensor | None = None
    tail_log_prob: Tensor | None = None

    def __getitem__(self, chunk: slice) -> "TeacherTargets":
        return TeacherTargets(**{name: values[chunk] for name, values in self.columns().items()})

    def columns(self) -> dict[str, Tensor]:
        """All that there is, by name."""
        return {name: values for name, values in vars(self).items() if values is not None}

    @property
    def has_samples(self) -> bool:
        return self.tail_ids is not None


def teacher_targets(batch: Mapping[str, Tensor], num_tokens: int) -> TeacherTargets | None:
    """The Teacher's scores in a batch's columns; None where it has none."""
    names = [field.name for field in fields(TeacherTargets) if field.name in batch]
    if not names:
        return None
    columns = {name: batch[name].reshape(num_tokens, -1) for name in names}
    return TeacherTargets(**{name: x if name.endswith(("ids", "probs")) else x[:, 0] for name, x in columns.items()})


def top_k_scores(logits: Tensor, top_k: int, num_ids: int, tail_samples: int = 0) -> TeacherTargets:
    """The top-k log-probabilities of logits (tokens, vocabulary), the mass of the rest, and samples of it.

    Only the first `num_ids` ids count, normalised anew. An output that is padded for the hardware (Qwen: 151,936 or
    152,064 rows for 151,665 tokens) leaves some mass on ids that mean nothing to the student.
    """
    log_probs = logits[:, :num_ids].log_softmax(dim=-1)
    values, ids = log_probs.topk(top_k, dim=-1)
    tail_mass = (1.0 - values.exp().sum(-1)).clamp(min=0.0)
    if not tail_samples:
        return TeacherTargets(ids, values, tail_mass)
    rest = log_probs.exp_().scatter_(-1, ids, 0.0)
    cumulative = rest.cumsum(-1)
    mean = -torch.special.entr(rest).sum(-1) / cumulative[:, -1].clamp(min=torch.finfo(rest.dtype).tiny)
    return TeacherTargets(ids, values, tail_mass, _drawn(cumulative, ids, tail_samples), mean)


def _drawn(cumulative: Tensor, top_k_ids: Tensor, samples: int) -> Tensor:
    """Ids at evenly spaced points of the rest's mass (tokens, samples), ascending.

    Where the first point lies in its interval is a hash of the top k, so that over many tokens every id is drawn as
    often as its probability says, and a token's draw depends on nothing but its own scores.
    """
    total = cumulative[:, -1:]
    begins = (top_k_ids.sum(-1, keepdim=True).double() * _GOLDEN_RATIO % 1.0).to(total.dtype)
    points = (torch.arange(samples, device=total.device) + begins) / samples * total
    points = points.minimum(total.nextafter(torch.zeros_like(total)))  # rounding must not lead beyond the last id
    return torch.searchsorted(cumulative, points, right=True).clamp_(max=cumulative.shape[-1] - 1)


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
