import pytest
from support import bos_tokenizer, byte_tokenizer
from tokenizers import Regex
from tokenizers.normalizers import Replace
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

from matta_core.tokens import around, as_in_training, before_a_document, bos_token_id, choose_bos, num_token_ids

BOS, EOS = 257, 0


def with_template(template, **settings):
    tokenizer = bos_tokenizer()
    specials = [("<bos>", BOS), ("<|endoftext|>", EOS)]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=template, special_tokens=[special for special in specials if special[0] in template]
    )
    return tokenizer


def test_token_ids_are_counted_up_to_the_largest_where_they_have_holes():
    assert num_token_ids(byte_tokenizer()) == len(byte_tokenizer()) == 257
    assert (num_token_ids(byte_tokenizer(hole=50)), len(byte_tokenizer(hole=50))) == (307, 257)


def test_what_a_tokenizer_puts_around_a_text_is_found():
    assert around(byte_tokenizer()) == ([], [])
    assert around(bos_tokenizer()) == ([BOS], [])
    assert around(with_template("<bos> $A <|endoftext|>")) == ([BOS], [EOS])
    assert (bos_token_id(byte_tokenizer()), bos_token_id(bos_tokenizer())) == (None, BOS)
    assert (before_a_document(byte_tokenizer()), before_a_document(bos_tokenizer())) == (EOS, BOS)


def test_what_is_around_a_text_is_found_by_a_text_that_has_tokens():
    tokenizer = bos_tokenizer()
    tokenizer.backend_tokenizer.normalizer = Replace("a", "")
    assert around(tokenizer) == ([BOS], [])
    assert choose_bos(tokenizer, True) == []
    assert tokenizer.encode("b") == [BOS, *byte_tokenizer().encode("b")]


def test_a_tokenizer_that_makes_no_token_of_any_text_is_refused():
    tokenizer = bos_tokenizer()
    tokenizer.backend_tokenizer.normalizer = Replace(Regex(r"[\s\S]"), "")
    with pytest.raises(ValueError, match="it makes no token of any text"):
        around(tokenizer)


@pytest.mark.parametrize("template", ["$A", "<bos> $A", "$A <|endoftext|>", "<bos> $A <|endoftext|>"])
@pytest.mark.parametrize("add_bos", ["auto", True, False])
def test_the_choice_holds_and_is_loaded_with_the_tokenizer(tmp_path, template, add_bos):
    tokenizer = with_template(template)
    dropped = choose_bos(tokenizer, add_bos)
    assert dropped == ([EOS] if "endoftext" in template else [])
    wanted = "<bos>" in template if add_bos == "auto" else add_bos
    tokenizer.save_pretrained(tmp_path / "once")
    AutoTokenizer.from_pretrained(tmp_path / "once").save_pretrained(tmp_path / "twice")
    for loaded in (tokenizer, *(AutoTokenizer.from_pretrained(tmp_path / name) for name in ("once", "twice"))):
        assert loaded.encode("ab") == [BOS] * wanted + byte_tokenizer().encode("ab")


def test_a_tokenizer_that_does_so_already_is_left_as_it_is():
    for tokenizer, add_bos in ((byte_tokenizer(), "auto"), (byte_tokenizer(), False), (bos_tokenizer(), True)):
        before = tokenizer.backend_tokenizer.to_str()
        choose_bos(tokenizer, add_bos)
        assert tokenizer.backend_tokenizer.to_str() == before
        assert "add_bos_token" not in tokenizer.init_kwargs


def test_a_bos_that_is_not_there_or_is_another_is_refused():
    nameless = byte_tokenizer()
    nameless.bos_token = None
    with pytest.raises(ValueError, match="it has no BOS: name one as bos_token"):
        choose_bos(nameless, add_bos=True)
    other = with_template("<bos> <|endoftext|> $A")
    with pytest.raises(
        ValueError, match=r"it puts <bos> <\|endoftext\|> before every text, .*add_bos to true, .*false"
    ):
        choose_bos(other, "auto")
    choose_bos(other, add_bos=True)
    assert around(other) == ([BOS], [])


def test_in_evaluation_nothing_follows_a_text_and_a_spelled_token_is_text():
    tokenizer = as_in_training(with_template("<bos> $A <|endoftext|>"))
    assert tokenizer.encode("<bos>a") == [BOS, *byte_tokenizer().encode("<bos>a")]
    assert tokenizer(["<bos>a"])["input_ids"] == [tokenizer.encode("<bos>a")]
