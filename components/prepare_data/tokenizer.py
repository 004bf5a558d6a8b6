"""The tokenizer: a new byte-level BPE, or one that exists."""

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from matta_core import pretrained
from matta_core.errors import UserError
from matta_core.recipe.settings import spelled
from matta_core.tokens import choose_bos

END_OF_TEXT = "<|endoftext|>"


def train_tokenizer(texts: Iterable[list[str]], vocab_size: int, sequence_length: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE. All 256 bytes are in its vocabulary, so no text is unknown. The same texts give the same
    tokenizer. Its `model_max_length` is the length that models will be trained on."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token=END_OF_TEXT, eos_token=END_OF_TEXT, model_max_length=sequence_length
    )


def load_tokenizer(name: str) -> PreTrainedTokenizerFast:
    """A Hugging Face tokenizer by name or folder.

    Raises: UserError where it cannot be loaded, has no tokenizer.json form, or no eos token.
    """
    try:
        tokenizer = pretrained.load_tokenizer(name)
    except UserError as error:
        raise UserError(f"prepare_data.tokenizer: {error}; or set it to null to train one") from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise UserError(f"prepare_data.tokenizer = {name!r} has no tokenizer.json: convert it to a fast tokenizer")
    if tokenizer.eos_token_id is None:
        raise UserError(
            f"prepare_data.tokenizer = {name!r} has no eos token, which must end every document: "
            f"name one as eos_token in its tokenizer_config.json"
        )
    return tokenizer


def settle_bos(tokenizer: PreTrainedTokenizerFast, name: str | None, add_bos: str | bool) -> str | None:
    """Apply `prepare_data.add_bos` to a tokenizer (see `choose_bos`). Returns a line to tell if it was changed.

    Raises: UserError where it cannot.
    """
    try:
        dropped = choose_bos(tokenizer, add_bos)
    except ValueError as error:
        raise UserError(
            f"prepare_data.tokenizer = {name!r} does not fit prepare_data.add_bos = {spelled((add_bos,))}: {error}"
        ) from None
    if not dropped:
        return None
    told = " ".join(tokenizer.convert_ids_to_tokens(dropped))
    return (
        f"the tokenizer put {told} after every text, and does no longer: a document ends with one {tokenizer.eos_token}"
    )
