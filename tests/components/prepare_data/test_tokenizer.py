import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from components.prepare_data.tokenizer import END_OF_TEXT, load_tokenizer, train_tokenizer
from matta_core.errors import UserError

TEXTS = [["the cat sat on the mat", "the dog sat on the log"], ["the frog and the cat"]]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, vocab_size=300, sequence_length=64)


@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_comes_back_unchanged(tokenizer, text):
    token_ids = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids
    if END_OF_TEXT not in text:
        assert tokenizer.decode(token_ids, clean_up_tokenization_spaces=False) == text


def test_the_same_texts_give_the_same_tokenizer(tokenizer):
    again = train_tokenizer(TEXTS, vocab_size=300, sequence_length=64)
    assert again.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()


def test_the_smallest_vocabulary_is_the_bytes_and_the_eos_token():
    assert len(train_tokenizer(TEXTS, vocab_size=257, sequence_length=64)) == 257


def test_a_saved_tokenizer_loads_with_stock_transformers(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.eos_token == loaded.bos_token == END_OF_TEXT
    assert loaded.model_max_length == 64
    assert loaded("the cat")["input_ids"] == tokenizer("the cat")["input_ids"]
    assert loaded.decode(loaded("the cat , it's")["input_ids"]) == "the cat , it's"
    assert load_tokenizer(str(tmp_path)).get_vocab() == tokenizer.get_vocab()


def test_a_tokenizer_that_cannot_be_loaded_is_named(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match=r"prepare_data.tokenizer: cannot load a tokenizer from .*null to train one"):
        load_tokenizer(str(tmp_path))


def test_a_tokenizer_without_eos_token_is_refused(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    config = tmp_path / "tokenizer_config.json"
    config.write_text(config.read_text().replace('"eos_token": "<|endoftext|>"', '"eos_token": null'))
    with pytest.raises(UserError, match="has no eos token"):
        load_tokenizer(str(tmp_path))
