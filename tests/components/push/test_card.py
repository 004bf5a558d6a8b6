"""The model card says what a checkpoint is: a student's own weights, or these with padding."""

import pytest

from components.push.card import Facts, model_card

MEMBER = {"parameters": 2000, "bytes": 8000, "flops_per_token": 4000, "intermediate_sizes": [8, 8]}
MIX = {"budget": {"parameters": 1900}, "evaluated": 12, "combinations": 81}


def card(*, beginning=None, **member):
    family = {"student": "s", "ta": "xl", "students": {"s": {}, "m": {}, "xl": {}}} | (beginning or {})
    results = {"tasks": {}, "models": {"m": {"tasks": {}}}, "evaluation_set": "e" * 64}
    return model_card(
        Facts(
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


def test_the_card_says_what_a_text_begins_with():
    assert "A text begins with" not in card()
    assert "| A text begins with | nothing: there is no BOS |" in card(beginning={"bos_token": None})
    assert "| A text begins with | `<bos>`, put there by the tokenizer |" in card(beginning={"bos_token": "<bos>"})
