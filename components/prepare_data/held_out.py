"""Checks that the held-out documents are enough to evaluate on, before anything is trained on the rest."""

import re
from itertools import islice
from pathlib import Path

from tokenizers import Tokenizer

from components.prepare_data.shards import read_texts
from matta_core.errors import UserError
from matta_core.recipe import EvaluateConfig

_WORD_END = re.compile(r"[^\W_](?!\w)")


def check_held_out(dataset: Path, evaluation: EvaluateConfig) -> None:
    """Check that two documents have a word after enough context for the last-token task. A standard error needs two.

    It stops reading at the second such document.
    Raises: UserError that says what to set.
    """
    tokenizer = Tokenizer.from_file(str(dataset / "tokenizer" / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.encode_special_tokens = True
    shards = sorted((dataset / "validation_documents").glob("*.parquet"))
    texts = (text for shard in shards for some in read_texts(shard) for text in some)
    long_enough = (text for text in texts if _longest_context(text, tokenizer) >= evaluation.last_token_context)
    found = len(list(islice(long_enough, 2)))
    if found < 2:
        raise UserError(
            f"{found} of the held-out documents in {dataset / 'validation_documents'} have a word after "
            f"evaluate.last_token_context = {evaluation.last_token_context} tokens, and the evaluation needs 2: lower "
            f"that, raise prepare_data.validation_fraction, or give more text"
        )


def _longest_context(text: str, tokenizer: Tokenizer) -> int:
    """How many tokens stand before the last token of the last word; -1 if there is no word."""
    end = max((match.end() for match in _WORD_END.finditer(text)), default=0)
    return len(tokenizer.encode(text[:end]).ids) - 1 if end else -1
