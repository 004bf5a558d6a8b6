"""Small models and artifacts that many tests share. Nothing here takes longer than a second."""

import json
import os
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from matta_core.artifacts import Artifact, finish_artifact
from matta_core.families import family_of
from matta_core.nesting.size import resolve
from matta_core.recipe import LossConfig, SizeConfig, TrainConfig

SEQUENCE_LENGTH = 16


def widths(**sizes):
    """Sizes that differ in FFN width alone."""
    return {name: SizeConfig(intermediate_size=width) for name, width in sizes.items()}


# A training that learns within a second; without a Teacher.
TRAINING = TrainConfig(
    model={"model_type": "gpt2", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2},
    sizes={"s": 8, "xl": 32},
    student="s",
    steps=12,
    batch_size=8,
    learning_rate=1e-2,
    warmup_steps=2,
    eval_every_steps=4,
    eval_sequences=6,
    checkpoint_every_steps=1,
    loss=LossConfig(teacher_weight=0.0),
)


def tiny_gpt2(intermediate_size=32, vocab_size=50, seed=0, **overrides):
    """A GPT-2 of two layers, random weights with a spread that makes logits differ."""
    return tiny_model("gpt2", seed, n_inner=intermediate_size, vocab_size=vocab_size, **overrides)


def tiny_model(model_type, seed=0, **overrides):
    """A model of any family: two layers, FFN width 32, four query heads in two groups (GPT-2: two heads)."""
    values = {
        "vocab_size": 50,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2 if model_type == "gpt2" else 4,
        "max_position_embeddings": SEQUENCE_LENGTH,
        "initializer_range": 0.2,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": None,
        "tie_word_embeddings": True,
    }
    family = family_of(model_type)
    values |= dict.fromkeys(family.dropouts, 0.0)
    values |= {family.word("intermediate_size"): 32} if "intermediate_size" in family.keys else {}
    values |= {} if model_type == "gpt2" else {"num_key_value_heads": 2, "head_dim": 4}
    if model_type == "gemma3_text":
        values |= {"sliding_window": 6, "layer_types": None, "sliding_window_pattern": 2, "query_pre_attn_scalar": 4}
    if model_type == "phi3":
        rotary = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}
        values |= {"sliding_window": 6, "rope_parameters": rotary}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **(values | overrides)))
        for parameter in model.parameters():  # biases start at zero: a wrong slice of one would not show
            if parameter.dim() == 1:
                torch.nn.init.normal_(parameter, mean=parameter.mean().item(), std=0.1)
    return model


def can_be_smaller(model_type, key):
    """Whether a size of such a model may keep fewer of what the key counts."""
    return any(key in axis.keys for axis in family_of(model_type).nested)


def granularity(ta, **size):
    """The size "s" of a TA, as a recipe's `sizes` would say it."""
    width = family_of(ta.config.model_type).count(ta.config, "intermediate_size")
    sizes = {"s": SizeConfig(**size), "xl": SizeConfig(intermediate_size=width)}
    return resolve(ta.config, sizes)["s"]


def byte_tokenizer(hole: int = 0) -> PreTrainedTokenizerFast:
    """<|endoftext|> and the 256 bytes: every text can be encoded, a token is a byte. The `hole` ids from 200 on are no
    token's."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<|endoftext|>": 0} | {letter: number for number, letter in enumerate(alphabet, start=1)}
    vocabulary = {token: number + hole * (number >= 200) for token, number in vocabulary.items()}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|endoftext|>", bos_token="<|endoftext|>", unk_token=None
    )


def make_dataset(path: Path, *, train_rows=24, validation_rows=6, length=SEQUENCE_LENGTH, hole=0, shards=2) -> Artifact:
    """A TokenizedDataset of repeated counting sequences: easy to learn, so that a loss can be seen to fall."""
    tokenizer = byte_tokenizer(hole)
    tokenizer.save_pretrained(path / "tokenizer")
    for split, rows in (("train", train_rows), ("validation", validation_rows)):
        (path / split).mkdir()
        starts = np.random.default_rng(len(split)).integers(1, 200, rows)
        tokens = (starts[:, None] + np.arange(length)).astype(np.int32)
        tokens += hole * (tokens >= 200)
        for shard, part in enumerate(np.array_split(tokens, shards)):
            column = pa.FixedSizeListArray.from_arrays(pa.array(part.reshape(-1)), length)
            table = pa.table({"input_ids": column})
            pq.write_table(table, path / split / f"part-{shard:05d}-of-{shards:05d}.parquet")
    (path / "stats.json").write_text(json.dumps({}))
    metadata = {
        "sequence_length": length,
        "vocab_size": len(tokenizer) + hole,
        "num_train_sequences": train_rows,
        "num_validation_sequences": validation_rows,
    }
    return finish_artifact(path, "TokenizedDataset", key="0" * 64, metadata=metadata)


def in_a_child(work: Callable[[], object]) -> int:
    """Run `work()` in a fork of this process; its exit status: -9 for killed, 1 for failed."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def bos_tokenizer() -> PreTrainedTokenizerFast:
    """byte_tokenizer with a <bos> of its own, id 257, that it puts before every text, as Llama's does."""
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"bos_token": "<bos>"})
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", tokenizer.bos_token_id)]
    )
    return tokenizer
