"""Token ids: how many there are, and which of them a tokenizer puts around every text.

One choice holds everywhere: `prepare_data.add_bos` decides whether the dataset's tokenizer puts its BOS before a text.
From then on the tokenizer itself does so, in training data, in evaluation, and where a student is served.
"""

import itertools

from transformers import PreTrainedTokenizerBase

AUTO = "auto"


def num_token_ids(tokenizer: PreTrainedTokenizerBase) -> int:
    """The largest token id plus one, for which a model needs room. It exceeds `len(tokenizer)` where ids have holes."""
    return max(tokenizer.get_vocab().values()) + 1


def around(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """The token ids that a tokenizer puts before and after every text. Raises: ValueError where no text has tokens."""
    special = set(tokenizer.all_special_ids)
    tokens = (token for token in tokenizer.get_vocab().values() if token not in special)
    texts = itertools.chain(["a"], (tokenizer.decode([token]) for token in tokens))
    # A tokenizer may turn a letter that it does not know into nothing.
    text = next((text for text in texts if tokenizer.encode(text, add_special_tokens=False)), None)
    if text is None:
        raise ValueError("it makes no token of any text: give another tokenizer")
    bare, whole = (tokenizer.encode(text, add_special_tokens=special) for special in (False, True))
    start = next(start for start in range(len(whole) + 1) if whole[start : start + len(bare)] == bare)
    return whole[:start], whole[start + len(bare) :]


def bos_token_id(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The BOS's id if the tokenizer puts it before every text; None if it puts nothing there."""
    before, _ = around(tokenizer)
    return before[0] if before else None


def before_a_document(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that a model sees before a document's first: the BOS, or the token that ended the document before."""
    bos, eos = bos_token_id(tokenizer), tokenizer.eos_token_id
    if bos is not None:
        return bos
    return tokenizer.bos_token_id if eos is None else eos


def choose_bos(tokenizer: PreTrainedTokenizerBase, add_bos: str | bool) -> list[int]:
    """Set whether a tokenizer puts its BOS before every text: True, False, or "auto", which leaves it as it is.
    Afterwards it puts nothing after a text. Returns the ids that it put there until now.

    The tokenizer is changed only if it does otherwise. The change is saved with it.
    Raises: ValueError where it has no BOS, or puts something else before a text.
    """
    before, after = around(tokenizer)
    bos = tokenizer.bos_token_id
    if add_bos == AUTO and before not in ([], [bos]):
        told = " ".join(tokenizer.convert_ids_to_tokens(before))
        raise ValueError(
            f"it puts {told} before every text, which is not its BOS ({tokenizer.bos_token}): set add_bos to true, for "
            f"its BOS there, or to false"
        )
    wanted = bool(before) if add_bos == AUTO else bool(add_bos)
    if wanted and bos is None:
        raise ValueError("it has no BOS: name one as bos_token in its tokenizer_config.json, or set add_bos to false")
    if after or before != [bos] * wanted:
        # transformers rebuilds the tokenizer from both settings, here and when it is loaded again.
        for name, value in {"add_bos_token": wanted, "add_eos_token": False}.items():
            setattr(tokenizer, name, value)
            tokenizer.init_kwargs[name] = value
    assert around(tokenizer) == ([bos] * wanted, [])
    return after


def as_in_training(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """The same tokenizer, which now reads texts as prepare_data does: it puts nothing after them, and takes a special
    token that they spell for text."""
    before, after = around(tokenizer)
    if after:
        choose_bos(tokenizer, before == [tokenizer.bos_token_id])
    tokenizer.split_special_tokens = True
    return tokenizer
