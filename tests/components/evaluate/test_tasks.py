import dataclasses
import json
from collections import Counter
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers.normalizers import Lowercase
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from components.evaluate.questions import build
from components.evaluate.tasks import LINES_PER_DOCUMENT, cut, load_tasks, split_last_token, write_tasks
from matta_core.errors import UserError

MAX_LENGTH = 32


def scored_by_lm_eval(tokenizer, context, target):
    """lm-eval's own split into the tokens that it shows and those that it scores."""
    from lm_eval.api.model import TemplateLM

    language_model = SimpleNamespace(backend="causal", tok_encode=tokenizer.encode)
    return TemplateLM._encode_pair(language_model, context, target)


def lines_of(folder):
    return [json.loads(line) for line in (folder / "matta_last_token.jsonl").read_text().splitlines()]


def copy_of(tokenizer):
    copy = type(tokenizer.backend_tokenizer).from_str(tokenizer.backend_tokenizer.to_str())
    return PreTrainedTokenizerFast(tokenizer_object=copy, bos_token="<|endoftext|>")


def with_bos(tokenizer):
    """The same tokenizer, putting its first token before every text, as Llama's does."""
    other = copy_of(tokenizer)
    other.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
    )
    return other


@pytest.fixture(scope="session")
def tokenizers(tokenizer):
    return {"plain": tokenizer, "with_bos": with_bos(tokenizer)}


@pytest.mark.parametrize("kind", ["plain", "with_bos"])
@given(data=st.data())
def test_lm_eval_scores_exactly_the_last_token(tokenizers, documents, kind, data):
    tokenizer = tokenizers[kind]
    text = "".join(
        data.draw(st.lists(st.sampled_from([*documents, "é", "\n    ", " ", "return x1", "日本"]), min_size=1))
    )
    text = text[: data.draw(st.integers(1, len(text)))]
    split = split_last_token(text, 3, tokenizer, MAX_LENGTH)
    if split is not None:
        context, target = split
        shown, scored = scored_by_lm_eval(tokenizer, context, target)
        assert len(scored) == 1
        assert shown + scored == tokenizer.encode(context + target)
        assert text.endswith(context + target)
        assert 3 <= len(shown) <= MAX_LENGTH


@pytest.mark.parametrize("kind", ["plain", "with_bos"])
def test_a_line_of_known_tokens_is_split_before_its_last(tokenizers, kind):
    context, target = split_last_token("import items\nfor items in self", 3, tokenizers[kind], MAX_LENGTH)
    assert context + target == "import items\nfor items in self"
    assert target == " self"


def test_a_character_of_several_tokens_is_no_target(tokenizer):
    assert len(tokenizer.encode("日")) == 3
    assert split_last_token("import items\nfor items in 日", 3, tokenizer, MAX_LENGTH) is None


def test_text_that_the_tokenizer_changes_is_no_question(tokenizers):
    tokenizer = copy_of(tokenizers["plain"])
    tokenizer.backend_tokenizer.normalizer = Lowercase()
    assert split_last_token("import items\nfor items in self", 3, tokenizer, MAX_LENGTH) is not None
    assert split_last_token("import items\nFOR items in self", 3, tokenizer, MAX_LENGTH) is None


@pytest.mark.parametrize("kind", ["plain", "with_bos"])
def test_a_long_context_is_all_that_the_model_sees(tokenizers, documents, kind):
    context, target = split_last_token(documents[0] + "import items", 3, tokenizers[kind], MAX_LENGTH)
    shown, _ = scored_by_lm_eval(tokenizers[kind], context, target)
    assert len(shown) == MAX_LENGTH


def test_a_line_of_one_token_is_no_question(tokenizer):
    # lm-eval would move the indentation to the target, and score two tokens.
    assert split_last_token("import items import items\n    self", 3, tokenizer, MAX_LENGTH) is None


def test_targets_are_words_at_line_ends_with_enough_context(tmp_path, write, documents, config, tokenizer):
    write(tmp_path / "data", documents)
    write_tasks(tmp_path / "data", tmp_path / "tasks", config, tokenizer, MAX_LENGTH)
    lines = lines_of(tmp_path / "tasks")
    assert len(lines) == config.last_token_questions
    texts = set(documents)
    for line in lines:
        shown, _ = scored_by_lm_eval(tokenizer, line["context"], line["target"])
        assert config.last_token_context <= len(shown) <= MAX_LENGTH
        assert line["target"][-1].isalnum()
        assert any(line["context"] + line["target"] + "\n" in text for text in texts)


def test_in_prose_the_target_is_the_word_before_the_full_stop(tmp_path, write, documents, config, tokenizer):
    prose = ["".join(f"{line}." * bool(line.strip()) + "\n" for line in text.splitlines()) for text in documents]
    write(tmp_path / "data", prose)
    write_tasks(tmp_path / "data", tmp_path / "tasks", config, tokenizer, MAX_LENGTH)
    lines = lines_of(tmp_path / "tasks")
    assert lines
    assert all(line["target"].strip()[-1].isalnum() for line in lines)


def test_where_only_a_title_ends_in_a_letter_the_prose_below_it_is_asked_about(
    tmp_path, write, documents, config, tokenizer
):
    def prose(text, title):
        return title + "".join(f"{line}.\n" for line in text.splitlines() if line.strip())

    write(tmp_path / "data", [prose(text, "A title\n") for text in documents])
    write_tasks(tmp_path / "data", tmp_path / "tasks", config, tokenizer, MAX_LENGTH)
    write(tmp_path / "untitled", [prose(text, "") for text in documents])
    write_tasks(tmp_path / "untitled", tmp_path / "untitled-tasks", config, tokenizer, MAX_LENGTH)
    assert (
        len(lines_of(tmp_path / "tasks")) == len(lines_of(tmp_path / "untitled-tasks")) == config.last_token_questions
    )


def test_prose_of_one_line_is_asked_about_any_of_its_words(tmp_path, write, documents, config, tokenizer):
    """Its only line ends in a character of several tokens."""
    write(tmp_path / "data", [" ".join(text.split()) + " 日" for text in documents])
    write_tasks(tmp_path / "data", tmp_path / "tasks", config, tokenizer, MAX_LENGTH)
    lines = lines_of(tmp_path / "tasks")
    assert len({line["document"] for line in lines}) == len(documents)
    assert all(line["target"][-1].isalnum() for line in lines)


def test_long_documents_are_found_wherever_their_digests_stand(tmp_path, write, documents, config, tokenizer):
    config = dataclasses.replace(config, last_token_questions=2, bits_per_byte_documents=2)
    write(tmp_path / "data", [*(f"short {number}" for number in range(200)), *documents[:2]])
    write_tasks(tmp_path / "data", tmp_path / "tasks", config, tokenizer, MAX_LENGTH)
    assert len({line["document"] for line in lines_of(tmp_path / "tasks")}) == 2


def test_lines_are_spread_over_documents(tmp_path, write, documents, config, tokenizer):
    write(tmp_path / "data", documents)
    write_tasks(tmp_path / "data", tmp_path / "tasks", config, tokenizer, MAX_LENGTH)
    counts = Counter(line["document"] for line in lines_of(tmp_path / "tasks"))
    assert len(counts) == len(documents)
    assert max(counts.values()) - min(counts.values()) <= 1


def test_no_document_gives_more_than_a_few_lines(tmp_path, write, documents, config, tokenizer):
    write(tmp_path / "data", ["".join(documents), "".join(reversed(documents))])
    write_tasks(tmp_path / "data", tmp_path / "tasks", config, tokenizer, MAX_LENGTH)
    assert set(Counter(line["document"] for line in lines_of(tmp_path / "tasks")).values()) == {LINES_PER_DOCUMENT}


def test_the_evaluation_set_does_not_depend_on_order_or_shards(tmp_path, write, documents, config, tokenizer):
    def digest(name, texts, shards):
        write(tmp_path / name, texts, shards)
        write_tasks(tmp_path / name, tmp_path / f"{name}-tasks", config, tokenizer, MAX_LENGTH)
        return build(load_tasks(tmp_path / f"{name}-tasks", tmp_path / f"{name}-cache")).digest

    assert digest("a", documents, 2) == digest("b", documents[::-1], 3)
    assert digest("c", documents[1:], 2) != digest("a2", documents, 2)


@given(st.text(alphabet="ab \n", max_size=40), st.integers(2, 20))
def test_a_cut_document_ends_with_a_line(text, characters):
    result = cut(text, characters)
    assert text.startswith(result)
    assert len(result) <= characters
    if result != text:
        assert len(result) >= characters // 2
        assert result.endswith("\n") or "\n" not in text[characters // 2 : characters]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"last_token_context": MAX_LENGTH + 1}, "last_token_context must be <= 32, .* got 33"),
        ({"last_token_context": MAX_LENGTH}, "0 documents for the task matta_last_token.*last_token_context = 32"),
    ],
)
def test_a_context_that_cannot_be_had_is_a_mistake(tmp_path, write, documents, config, tokenizer, settings, message):
    write(tmp_path / "data", [document[:60] for document in documents])
    with pytest.raises(UserError, match=message):
        write_tasks(
            tmp_path / "data", tmp_path / "tasks", dataclasses.replace(config, **settings), tokenizer, MAX_LENGTH
        )


def test_one_document_is_too_few(tmp_path, write, documents, config, tokenizer):
    write(tmp_path / "data", [documents[0], " \n"])
    with pytest.raises(UserError, match=r"1 documents for the task matta_bits_per_byte.*validation_fraction"):
        write_tasks(tmp_path / "data", tmp_path / "tasks", config, tokenizer, MAX_LENGTH)
