"""The model card says what a checkpoint is: a student's own weights, or these with padding."""

import re

import pytest
from huggingface_hub import ModelCard
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from components.push.card import CardFacts, model_card

MEMBER = {"parameters": 2000, "bytes": 8000, "flops_per_token": 4000, "intermediate_sizes": [8, 8]}
MIX = {"budget": {"parameters": 1900}, "evaluated": 12, "combinations": 81}


def card(*, beginning=None, **member):
    family = {"student": "s", "ta": "xl", "students": {"s": {}, "m": {}, "xl": {}}} | (beginning or {})
    results = {"tasks": {}, "models": {"m": {"tasks": {}}}, "evaluation_set": "e" * 64}
    return model_card(
        CardFacts(
            "demo-m", "m", "v1", "d" * 64, "/pushed/m", MEMBER | member, family, results, {}, 0.95, {"data": "c" * 64}
        )
    )


def test_a_uniform_student_is_called_equal_bit_for_bit():
    text = card()
    assert "equal bit for bit to the student that was trained." in text
    assert "FFN widths" not in text


@pytest.mark.parametrize("mix", [{}, {"mix": MIX}])
def test_a_padded_student_is_called_padded_with_its_widths_and_how_they_were_chosen(mix):
    text = card(intermediate_sizes=[8, 16], compact={"parameters": 1800}, **mix)
    assert "with zeros that bring every layer to the widest one's shape" in text
    assert "equal bit for bit to the student that was trained." not in text
    assert "| FFN widths by layer | 8, 16 |" in text
    assert "| Without padding | 1,800 parameters |" in text
    assert ("| Widths chosen | for parameters of at most 1,900, of 12 mixtures scored out of 81 |" in text) == bool(mix)


HOSTILE = "<script>alert(1)</script>\n\n---\n# <b>`x`|</b>\r\n```\n[a](javascript:1) &lt;i&gt; {% raw %}"
# What ends a line, a cell, a string, a block or a document somewhere.
words = st.one_of(st.just(HOSTILE), st.text(st.sampled_from("<>&|`*_[]()#~-=:'\"\\\r\n\t {}!ab1é"), max_size=30))


def card_of(word, location="/pushed/m"):
    figure = {"value": 0.5, "standard_error": 0.01, "questions": 9, "documents": 9}
    described = {"metric": word, "higher_is_better": True, "unit": word, "version": word}
    family = {"student": "s", "ta": "xl", "students": {"s": {}, word: {}, "xl": {}}}
    results = {
        "tasks": {word: described},
        "models": {"m": {"tasks": {word: figure}}, "before": {"version": word, "tasks": {}}},
        "evaluation_set": word,
    }
    comparison = {"task": word, "slice": word, "verdict": word, "baseline_value": word, "value": 0.5}
    comparison |= {"difference": 0.1, "interval": [0.0, 0.2]}
    verdict = {"baseline": "before", "comparisons": [comparison]}
    member = MEMBER | {"mix": MIX | {"budget": {word or "parameters": 1900}}}
    return model_card(CardFacts(word, "m", word, word, location, member, family, results, verdict, 0.95, {word: word}))


@given(word=words, location=words)
def test_no_word_from_outside_means_anything_in_the_card(word, location):
    written = card_of(word, location)
    card = ModelCard(written)
    # As Hugging Face's tools read the header, and as a page that lets HTML through reads the rest.
    assert card.data.model_name == word
    assert card.data.library_name == "transformers"
    assert [token.type for token in rendered(card.text)] == [
        token.type for token in rendered(ModelCard(card_of("a")).text)
    ]
    # Also to a page that takes the header for Markdown.
    flat = [part for token in rendered(written) for part in (token, *(token.children or []))]
    assert not [part for part in flat if part.type in ("html_block", "html_inline")]
    body = [part.type for token in rendered(card.text) for part in token.children or []]
    assert not {"link_open", "image", "em_open", "strong_open"} & set(body)


def rendered(text):
    return MarkdownIt("commonmark", {"html": True}).enable("table").parse(text)


@given(location=words)
def test_the_code_of_the_card_loads_the_very_path(location):
    (block,) = re.findall(r"```python\n(.*?)\n```$", card_of("a", location), re.DOTALL | re.MULTILINE)
    seen = []
    loader = type("Loader", (), {"from_pretrained": staticmethod(seen.append)})
    exec(block.split("\n", 1)[1], {"AutoModelForCausalLM": loader, "AutoTokenizer": loader})
    assert seen == [location, location]


def test_the_card_says_what_a_text_begins_with():
    assert "A text begins with" not in card()
    assert "| A text begins with | nothing: there is no BOS |" in card(beginning={"bos_token": None})
    assert "| A text begins with | `<bos>`, put there by the tokenizer |" in card(beginning={"bos_token": "<bos>"})
