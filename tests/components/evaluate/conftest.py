"""A held-out set of made-up code, and a family of tiny models that have never seen any."""

import json
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support import tiny_gpt2

from components.prepare_data.tokenizer import train_tokenizer
from matta_core.artifacts import finish_artifact
from matta_core.recipe import EvaluateConfig

SEQUENCE_LENGTH = 32


@pytest.fixture(scope="session")
def config():
    return EvaluateConfig(
        last_token_questions=20,
        last_token_context=12,
        bits_per_byte_documents=6,
        bits_per_byte_characters=300,
        latency_repeats=3,
    )


@pytest.fixture
def unmeasured(monkeypatch):
    """Memory is measured in a process of its own, which takes seconds, and is not what the test is about."""
    from components.evaluate import costs

    monkeypatch.setattr(costs, "peak_memory_bytes", lambda models, *_: dict.fromkeys(models, 1))


def made_up_document(seed: int, lines: int = 30) -> str:
    """Lines of words, indented now and then, that end in words, numbers, colons and brackets; one is not ASCII."""
    rng = random.Random(seed)
    words = ["value", "return", "self", "naïve", "längd", "x1", "42", "for", "items", "import", f"name{seed}"]
    text = ""
    for _ in range(lines):
        indentation, end = " " * rng.choice([0, 4, 8]), rng.choice(["", "", ":", ")"])
        text += indentation + " ".join(rng.choices(words, k=rng.randint(1, 6))) + end + "\n"
    return text


def write_documents(dataset, documents, shards=2):
    """The validation_documents of a TokenizedDataset."""
    folder = dataset / "validation_documents"
    folder.mkdir(parents=True)
    for shard in range(shards):
        part = documents[shard::shards]
        columns = {"source": [f"{text.strip()[:9]}.py" for text in part], "text": part}
        pq.write_table(pa.table(columns), folder / f"part-{shard:05d}-of-{shards:05d}.parquet")


@pytest.fixture(scope="session")
def documents():
    return [made_up_document(seed) for seed in range(8)]


@pytest.fixture(scope="session")
def tokenizer(documents):
    return train_tokenizer([documents], 330, SEQUENCE_LENGTH)


@pytest.fixture(scope="session")
def write():
    return write_documents


@pytest.fixture(scope="session")
def make_artifacts(documents, tokenizer):
    """Make a dataset, students s and xl, and a teacher below a folder; `alter(name, model)` changes a student."""

    def make(root, alter=lambda name, model: None):
        write_documents(root / "dataset", documents)
        tokenizer.save_pretrained(root / "dataset" / "tokenizer")
        dataset = finish_artifact(
            root / "dataset", "TokenizedDataset", key="0" * 64, metadata={"sequence_length": SEQUENCE_LENGTH}
        )
        members = {}
        for name, width in {"s": 16, "xl": 64}.items():
            model = tiny_gpt2(width, len(tokenizer), seed=width, max_position_embeddings=SEQUENCE_LENGTH)
            alter(name, model)
            model.save_pretrained(root / "students" / name)
            members[name] = {"path": name, "parameters": width, "bytes": 4 * width, "flops_per_token": 2 * width}
        family = {"student": "s", "ta": "xl", "students": members}
        (root / "students" / "family.json").write_text(json.dumps(family))
        finish_artifact(root / "students", "StudentFamily", key="0" * 64, inputs={"dataset": dataset.digest})
        # A Teacher that sees more at once than the students do.
        teacher = tiny_gpt2(128, len(tokenizer), seed=7, max_position_embeddings=2 * SEQUENCE_LENGTH)
        teacher.save_pretrained(root / "teacher" / "ta")
        finish_artifact(root / "teacher", "MattaCheckpoint", key="0" * 64)

    return make
