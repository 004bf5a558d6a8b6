"""One model, every question: what lm-eval's answers become."""

import json
import math

import pytest
import torch
from lm_eval.api.instance import Instance
from support import bos_tokenizer, byte_tokenizer, tiny_gpt2
from tokenizers import Tokenizer
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from components.evaluate.catalogue import load_tasks
from components.evaluate.questions import build
from components.evaluate.scoring import _LanguageModel, score
from matta_core.recipe import TaskConfig
from matta_core.tokens import as_in_training, choose_bos

CHOICES = ["(A)no", "(B)yes", "(C)perhaps"]


@pytest.fixture
def evaluation_set(tmp_path):
    """Last words, multiple choice, and texts that a model writes."""
    rows = {
        "lambada_openai": [{"text": "one two three"}, {"text": "four five six"}],
        "agieval_sat_math": [{"query": f"Q{gold}", "choices": CHOICES, "gold": [gold]} for gold in range(3)],
        "gsm8k": [{"question": "1+1?", "answer": "#### 2"}, {"question": "1+2?", "answer": "#### 3"}],
    }
    configs = {}
    for name, content in rows.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content))
        configs[name] = TaskConfig(data_files=str(tmp_path / f"{name}.jsonl"), num_fewshot=0)
    return build(load_tasks(configs, tmp_path / "work"))


@pytest.fixture
def model():
    return tiny_gpt2(32, len(byte_tokenizer()), max_position_embeddings=320).eval()


def log_likelihood(model, context, target):
    tokenizer = byte_tokenizer()
    tokens = tokenizer.encode(context + target)
    scored = len(tokenizer.encode(target))
    with torch.no_grad():
        log_probs = model(torch.tensor([tokens[:-1]])).logits[0].log_softmax(-1)
    return sum(log_probs[place - 1, tokens[place]].item() for place in range(len(tokens) - scored, len(tokens)))


def test_a_choice_is_right_where_torch_finds_it_the_likeliest(model, evaluation_set):
    values = score(model, byte_tokenizer(), evaluation_set, batch_size=2)
    likeliest = [
        max(range(3), key=lambda choice: log_likelihood(model, f"Q{gold}", f" {CHOICES[choice]}")) for gold in range(3)
    ]
    assert values[2:5] == [float(likeliest[gold] == gold) for gold in range(3)]


def test_values_do_not_depend_on_the_batch_size(model, evaluation_set):
    assert score(model, byte_tokenizer(), evaluation_set, batch_size=1) == score(
        model, byte_tokenizer(), evaluation_set, batch_size=8
    )


def test_a_written_answer_counts_where_it_is_the_right_one(model, evaluation_set, monkeypatch):
    from lm_eval.models.huggingface import HFLM

    monkeypatch.setattr(HFLM, "generate_until", lambda self, requests: ["so it is #### 2"] * len(requests))
    assert score(model, byte_tokenizer(), evaluation_set, batch_size=2)[5:] == [1.0, 0.0]


def test_a_broken_model_has_no_value_for_any_question(model, evaluation_set):
    """What it wrote would be read as a wrong answer."""
    torch.nn.init.constant_(model.transformer.ln_f.weight, math.nan)
    assert score(model, byte_tokenizer(), evaluation_set, batch_size=2) == [None] * 7


def test_examples_in_the_prompt_are_the_same_for_every_model(tmp_path, model):
    """They are drawn at random: a second model must not get the next draw."""
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"text": f"a word {n}"}) + "\n" for n in range(30)))
    (task,) = load_tasks({"lambada_openai": TaskConfig(data_files=str(tmp_path / "rows.jsonl"), limit=4)}, tmp_path)
    task.task.set_config("num_fewshot", 2)
    asked = build([task])
    first = score(model, byte_tokenizer(), asked, batch_size=4)
    prompts = [instance.args for instance in task.task.instances]
    assert prompts[0][0].count("a word") == 3
    assert score(model, byte_tokenizer(), asked, batch_size=4) == first
    assert [instance.args for instance in task.task.instances] == prompts


def test_a_token_that_spans_the_cut_leaves_something_to_score():
    """What is served may have another tokenizer than that by which the questions were cut."""
    merging = Tokenizer(BPE(vocab={"a": 0, "b": 1, "ab": 2, "end": 3}, merges=[("a", "b")]))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=merging, eos_token="end", pad_token="end")
    model = _LanguageModel(tiny_gpt2(16, 4).eval(), tokenizer, batch_size=1)
    assert tokenizer.encode("aab") == [0, 2]
    assert model._encode_pair("aa", "b") == ([0, 0], [1])
    assert model._encode_pair("a", "ab") == ([0], [2])  # as lm-eval has it, where nothing spans the cut
    ((log_likelihood, _),) = model.loglikelihood([Instance("loglikelihood", {}, ("aa", "b"), 0)])
    assert -10 < log_likelihood < 0


def bigram_model(tokenizer):
    """After the BOS `a` has probability 1/2, after any other token `b` has; all other tokens share the other half."""
    size = len(tokenizer)
    model = tiny_gpt2(8, size, hidden_size=4, tie_word_embeddings=False).eval()
    after_bos, after_others = torch.tensor([1.0, -1.0, 1.0, -1.0]), torch.tensor([1.0, 1.0, -1.0, -1.0])
    likely = math.log(size - 1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.transformer.ln_f.weight.fill_(1.0)
        model.transformer.wte.weight[:] = after_others
        model.transformer.wte.weight[tokenizer.bos_token_id] = after_bos
        a, b = tokenizer.convert_tokens_to_ids(["a", "b"])
        model.lm_head.weight[a], model.lm_head.weight[b] = likely / 4 * after_bos, likely / 4 * after_others
    return model


def bits(model, tokenizer, text):
    (log_likelihood,) = _LanguageModel(model, tokenizer, batch_size=1).loglikelihood_rolling(
        [Instance("loglikelihood_rolling", {}, (text,), 0)]
    )
    return -log_likelihood / math.log(2)


def test_a_text_is_scored_after_one_bos_that_is_not_scored_itself():
    tokenizer = bos_tokenizer()
    assert bits(bigram_model(tokenizer), tokenizer, "abb") == pytest.approx(3.0, rel=1e-4)


def test_a_text_is_scored_after_the_end_of_another_where_there_is_no_bos():
    """The tokenizer knows a BOS, but the model has never seen it."""
    tokenizer = bos_tokenizer()
    choose_bos(tokenizer, add_bos=False)
    expected = 1 + math.log2(len(tokenizer) - 1) + 1 + 1  # `a` is unlikely after an eos
    assert bits(bigram_model(tokenizer), tokenizer, "abb") == pytest.approx(expected, rel=1e-4)


def test_what_spells_a_bos_is_text_after_the_one_bos():
    tokenizer = as_in_training(bos_tokenizer())
    unlikely = 1 + math.log2(len(tokenizer) - 1)
    assert bits(bigram_model(tokenizer), tokenizer, "<bos>") == pytest.approx(4 * unlikely + 1, rel=1e-4)  # but the b


@pytest.mark.parametrize("add_bos", [True, False])
def test_every_question_has_one_bos_or_none(evaluation_set, add_bos):
    tokenizer = bos_tokenizer()
    choose_bos(tokenizer, add_bos)
    model = tiny_gpt2(32, len(tokenizer), max_position_embeddings=320).eval()
    seen = []
    model.register_forward_pre_hook(
        lambda _, arguments, named: seen.extend((*arguments, *named.values())[0].tolist()), with_kwargs=True
    )
    score(model, tokenizer, evaluation_set, batch_size=1)
    whole = [ids for ids in seen if len(ids) > 1]  # a text is written token by token
    assert len(whole) == 2 + 3 * 3 + 2
    assert [ids.count(tokenizer.bos_token_id) for ids in whole] == [int(add_bos)] * len(whole)
    assert all((ids[0] == tokenizer.bos_token_id) == add_bos for ids in whole)
