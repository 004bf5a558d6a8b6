import dataclasses
import json
import signal
import subprocess
import sys
import time
from itertools import chain

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from kfp import dsl
from support import bos_tokenizer
from transformers import AutoTokenizer

from components.prepare_data import component, step
from components.prepare_data.documents import content_hash, split_of
from components.prepare_data.step import prepare_data
from components.prepare_data.tokenizer import train_tokenizer
from matta_core.artifacts import open_artifact
from matta_core.errors import UserError
from matta_core.recipe import EvaluateConfig, PrepareDataConfig

TEXTS = [f"document {i}: " + f"the number {i} and {i * i}, " * (i % 7 + 1) for i in range(80)]


def write_corpus(folder):
    """80 different documents in two files."""
    folder.mkdir()
    for name, texts in (("a", TEXTS[:30]), ("b", TEXTS[30:])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return folder


@pytest.fixture
def corpus(tmp_path):
    return write_corpus(tmp_path / "corpus")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """The settings and the artifact of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("prepared")
    config = config_for(write_corpus(folder / "corpus"))
    return config, prepare_data(config, output=folder / "out")


def config_for(folder, **settings):
    defaults = {"sequence_length": 16, "vocab_size": 300, "validation_fraction": 0.25, "num_workers": 1}
    return PrepareDataConfig(**{"source": f"{folder}/*", **defaults, **settings})


def rows(path, column):
    return [row for file in sorted(path.iterdir()) for row in pq.read_table(file)[column].to_pylist()]


def stats(artifact):
    return json.loads((artifact.path / "stats.json").read_text())


def test_shards_hold_the_documents_in_the_order_of_their_hashes(prepared):
    _, artifact = prepared
    assert open_artifact(artifact.path, "TokenizedDataset").digest == artifact.digest
    tokenizer = AutoTokenizer.from_pretrained(artifact.path / "tokenizer")
    for split, num_shards in (("train", 4), ("validation", 1)):
        texts = sorted((t.rstrip() for t in TEXTS), key=content_hash)
        texts = [text for text in texts if split_of(content_hash(text), 0.25) == split]
        files = sorted((artifact.path / split).iterdir())
        assert [file.name for file in files] == [f"part-{i:05d}-of-{num_shards:05d}.parquet" for i in range(num_shards)]
        for shard, file in enumerate(files):
            table = pq.read_table(file)
            assert table.schema.field("input_ids").type == pa.list_(pa.int32(), 16)
            mine = [text for text in texts if int(content_hash(text)[16:32], 16) % num_shards == shard]
            stream = [[*tokenizer(text)["input_ids"], tokenizer.eos_token_id] for text in mine]
            stream = list(chain.from_iterable(stream))
            assert list(chain.from_iterable(table["input_ids"].to_pylist())) == stream[: len(stream) // 16 * 16]
        if split == "validation":
            assert rows(artifact.path / "validation_documents", "text") == texts
    assert artifact.metadata == {
        "sequence_length": 16,
        "vocab_size": 300,
        "num_train_sequences": len(rows(artifact.path / "train", "input_ids")),
        "num_validation_sequences": len(rows(artifact.path / "validation", "input_ids")),
    }


def test_the_component_publishes_where_the_artifact_lies(prepared, tmp_path):
    config, artifact = prepared
    dataset = dsl.Dataset(uri=str(tmp_path / "kubeflow"))
    evaluation = EvaluateConfig(last_token_context=16).to_json()
    component.prepare_data.python_func(
        config=config.to_json(), evaluate_config=evaluation, store=str(tmp_path), dataset=dataset
    )
    assert dataset.uri == str(tmp_path / "kubeflow")  # Kubeflow's launcher takes no other
    assert open_artifact(dataset.path, "TokenizedDataset").path == tmp_path / f"prepare_data-{artifact.key[:16]}"
    assert dataset.metadata == {"kind": "TokenizedDataset", "digest": artifact.digest}


def test_statistics_add_up(corpus, tmp_path):
    (corpus / "c.jsonl").write_text('{"text": " \\n"}\n' + json.dumps({"text": TEXTS[3] + "\r\n"}) + "\n")
    facts = stats(prepare_data(config_for(corpus), output=tmp_path / "out"))
    assert (facts["files"], facts["documents_read"]) == (3, 82)
    assert (facts["documents_empty"], facts["documents_duplicate"]) == (1, 1)
    assert facts["train"]["documents"] + facts["validation"]["documents"] == 80
    assert facts["train"]["bytes"] + facts["validation"]["bytes"] == sum(len(text.rstrip()) for text in TEXTS)
    for split in ("train", "validation"):
        count = facts[split]
        assert count["tokens"] == count["sequences"] * 16 + count["dropped_tokens"]
        assert count["bytes_per_token"] == count["bytes"] / count["tokens"]


def test_duplicates_never_straddle_the_splits(corpus, tmp_path):
    copies = "".join(json.dumps({"text": text + "\n\n"}) + "\n" for text in TEXTS)
    (corpus / "copies.jsonl").write_text(copies)
    artifact = prepare_data(config_for(corpus), output=tmp_path / "out")
    documents = [rows(tmp_path / "out" / "validation_documents", column) for column in ("text", "source")]
    train_text = AutoTokenizer.from_pretrained(artifact.path / "tokenizer").decode(
        list(chain.from_iterable(rows(artifact.path / "train", "input_ids")))
    )
    assert stats(artifact)["documents_duplicate"] == 80
    assert len(set(documents[0])) == len(documents[0]) > 0
    assert not any(text in train_text for text in documents[0])
    assert not any("copies" in source for source in documents[1])  # of equal texts, the first name stays


def test_the_documents_with_the_lowest_hashes_are_kept(corpus, tmp_path):
    facts = stats(prepare_data(config_for(corpus, max_documents=40), output=tmp_path / "out"))
    lowest = sorted((text.rstrip() for text in TEXTS), key=content_hash)[:40]
    held_out = [text for text in lowest if split_of(content_hash(text), 0.25) == "validation"]
    assert rows(tmp_path / "out" / "validation_documents", "text") == held_out
    assert facts["train"]["documents"] == 40 - len(held_out)
    assert facts["documents_beyond_maximum"] == 40


def test_a_text_that_spells_the_eos_token_does_not_end_there(tmp_path):
    for i in range(40):
        (tmp_path / f"{i}.txt").write_text(f"{i} before <|endoftext|> after")
    artifact = prepare_data(
        PrepareDataConfig(
            str(tmp_path / "*.txt"), sequence_length=2, vocab_size=257, validation_fraction=0.3, num_workers=1
        ),
        output=tmp_path / "out",
    )
    eos = AutoTokenizer.from_pretrained(artifact.path / "tokenizer").eos_token_id
    ids = list(chain.from_iterable(rows(artifact.path / "train", "input_ids")))
    assert 0 < ids.count(eos) <= stats(artifact)["train"]["documents"]


def test_a_tokenizer_that_exists_is_taken_over(corpus, tmp_path):
    train_tokenizer([TEXTS], 280, 99).save_pretrained(tmp_path / "tokenizer")
    config = config_for(corpus, tokenizer=str(tmp_path / "tokenizer"))
    artifact = prepare_data(config, output=tmp_path / "{key}")
    assert artifact.metadata["vocab_size"] == 280
    assert AutoTokenizer.from_pretrained(artifact.path / "tokenizer").model_max_length == 99
    train_tokenizer([TEXTS], 290, 99).save_pretrained(tmp_path / "tokenizer")
    assert prepare_data(config, output=tmp_path / "{key}").metadata["vocab_size"] == 290  # other files, other work


def test_a_vocabulary_that_the_text_cannot_fill_is_said(corpus, tmp_path, capfd):
    artifact = prepare_data(config_for(corpus, vocab_size=50_000), output=tmp_path / "out")
    assert 257 < artifact.metadata["vocab_size"] < 50_000
    assert "not 50,000: going on with these" in capfd.readouterr().out


def test_invalid_utf8_is_the_users_mistake_even_inside_a_worker(corpus, tmp_path):
    for i in range(5):
        (corpus / f"bad{i}.txt").write_bytes(b"caf\xe9")
    message = (
        rf"{corpus}/bad0.txt is not UTF-8: byte 0xe9 at offset 3; .*bad2.txt .*; and 2 more: "
        rf"convert to UTF-8, or set prepare_data.on_invalid_utf8=skip"
    )
    with pytest.raises(UserError, match=message):
        prepare_data(config_for(corpus), output=tmp_path / "out")
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_invalid_utf8_can_be_skipped_and_is_counted(corpus, tmp_path):
    (corpus / "bad.txt").write_bytes(b"caf\xe9")
    config = config_for(corpus, on_invalid_utf8="skip", max_documents=1000)
    facts = stats(prepare_data(config, output=tmp_path / "out"))
    assert (facts["documents_invalid_utf8"], facts["documents_beyond_maximum"]) == (1, 0)
    assert facts["train"]["documents"] + facts["validation"]["documents"] == 80


def test_only_invalid_utf8_is_skipped(corpus, tmp_path):
    (corpus / "bad.jsonl").write_text('{"body": "x"}\n')
    with pytest.raises(UserError, match=r"bad.jsonl:1 has no string 'text'.*mend these files"):
        prepare_data(config_for(corpus, on_invalid_utf8="skip"), output=tmp_path / "out")


def test_an_empty_corpus_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text(" \n")
    (tmp_path / "b.txt").write_text("")
    with pytest.raises(UserError, match="has no text: 2 documents, of which 2 are empty"):
        prepare_data(config_for(tmp_path, source=f"{tmp_path}/*.txt"), output=tmp_path / "out")


def test_a_split_without_documents_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("one document cannot be in both splits")
    with pytest.raises(UserError, match=r"leaves the (train|validation) split without a document: 1 different"):
        prepare_data(config_for(tmp_path, source=f"{tmp_path}/*.txt"), output=tmp_path / "out")


@pytest.mark.parametrize(("fraction", "split"), [(0.5, "train"), (0.1, "validation")])
def test_a_corpus_too_small_for_one_sequence_is_refused(corpus, tmp_path, fraction, split):
    config = config_for(
        corpus,
        sequence_length={"train": 100_000, "validation": 1000}[split],
        validation_fraction=fraction,
        num_shards=1,
    )
    with pytest.raises(UserError, match=rf"the {split} split is too small for one sequence: [\d,]+ tokens in 1 shards"):
        prepare_data(config, output=tmp_path / "out")


def test_documents_too_short_to_be_asked_about_are_told_before_training_and_lose_nothing(prepared, tmp_path):
    config, whole = prepared
    message = (
        r"^0 of the held-out documents in .* have a word after evaluate.last_token_context = 500 tokens, .*lower that"
    )
    for _ in range(2):  # also where the dataset is there already
        with pytest.raises(UserError, match=message):
            prepare_data(config, output=tmp_path / "out", evaluation=EvaluateConfig(last_token_context=500))
    assert open_artifact(tmp_path / "out", "TokenizedDataset").digest == whole.digest
    prepare_data(config, output=tmp_path / "out", evaluation=EvaluateConfig(last_token_context=16))


def test_a_changed_corpus_is_other_work(corpus, tmp_path):
    first = prepare_data(config_for(corpus), output=tmp_path / "{key}")
    assert prepare_data(config_for(corpus), output=tmp_path / "{key}").path == first.path
    with (corpus / "a.jsonl").open("a") as file:
        file.write('{"text": "one more"}\n')
    assert prepare_data(config_for(corpus), output=tmp_path / "{key}").path != first.path


@pytest.mark.parametrize("ended_in", ["_make_tokenizer", "_tokenize_documents", "_stats"])
def test_a_run_that_was_cut_off_goes_on_and_leaves_no_trace(prepared, tmp_path, monkeypatch, ended_in):
    config, whole = prepared

    def cut_off(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(step, ended_in, cut_off)
        with pytest.raises(KeyboardInterrupt):
            prepare_data(config, output=tmp_path)
    for leftover in ("train/part-00009-of-00010.parquet", "validation_documents/half"):
        (tmp_path / leftover).parent.mkdir(exist_ok=True)
        (tmp_path / leftover).write_text("half")
    assert prepare_data(config, output=tmp_path).digest == whole.digest


@pytest.mark.slow
def test_a_killed_process_loses_nothing(prepared, tmp_path):
    config, whole = prepared
    program = (
        "import sys; from components.prepare_data.step import prepare_data; "
        "from matta_core.recipe import PrepareDataConfig; "
        "prepare_data(PrepareDataConfig.from_json(sys.argv[1]), output=sys.argv[2])"
    )
    for sign in (".in_progress/documents/train", "train"):
        process = subprocess.Popen([sys.executable, "-c", program, config.to_json(), str(tmp_path)])
        while not (tmp_path / sign).exists() and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert prepare_data(config, output=tmp_path).digest == whole.digest


@pytest.mark.slow
def test_workers_in_processes_of_their_own_change_nothing(prepared, tmp_path):
    config, alone = prepared
    together = prepare_data(dataclasses.replace(config, num_workers=2), output=tmp_path)
    assert together.digest == alone.digest


@pytest.mark.slow
def test_the_command_tells_a_mistake_in_one_line_and_reuses_finished_work_without_beam(corpus, tmp_path):
    settings = {f"prepare_data.{key}": value for key, value in config_for(corpus).to_dict().items()}
    settings["evaluate.last_token_context"] = config_for(corpus).sequence_length  # a recipe is checked whole
    overrides = [part for key, value in settings.items() if value is not None for part in ("--set", f"{key}={value}")]
    command = [sys.executable, "-X", "importtime", "-m", "components.prepare_data", "--output", str(tmp_path / "out")]
    first, second = [subprocess.run([*command, *overrides], capture_output=True, text=True) for _ in range(2)]
    assert first.returncode == second.returncode == 0
    assert "apache_beam" in first.stderr
    assert "apache_beam" not in second.stderr
    assert "torch" not in second.stderr
    assert f"reused {tmp_path / 'out'}" in second.stdout
    refused = subprocess.run(
        [*command[:1], *command[3:], "--set", "prepare_data.source=/nowhere/*.txt"], capture_output=True, text=True
    )
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: prepare_data.source = '/nowhere/*.txt' matches no file")
    assert refused.stderr.count("\n") == 1


def documents_of(artifact, split="train"):
    """The token ids of a split's one shard, a list per document, with what surrounds it."""
    ids = list(chain.from_iterable(rows(artifact.path / split, "input_ids")))
    eos = AutoTokenizer.from_pretrained(artifact.path / "tokenizer").eos_token_id
    ends = [place for place, token in enumerate(ids) if token == eos]
    return [ids[start + 1 : end + 1] for start, end in zip([-1, *ends], ends, strict=False)]


@pytest.mark.parametrize("add_bos", ["auto", False])
def test_every_document_begins_with_one_bos_where_the_tokenizer_puts_it(corpus, tmp_path, add_bos):
    tokenizer = bos_tokenizer()
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    config = config_for(corpus, tokenizer=str(tmp_path / "tokenizer"), add_bos=add_bos, num_shards=1)
    artifact = prepare_data(config, output=tmp_path / "out")
    ours = AutoTokenizer.from_pretrained(artifact.path / "tokenizer")
    whole = documents_of(artifact)
    assert len(whole) > 40
    for ids in whole:
        assert ids == [*ours.encode(ours.decode(ids, skip_special_tokens=True)), ours.eos_token_id]
        assert ids.count(ours.bos_token_id) == (add_bos == "auto")
    assert stats(artifact)["bos_token"] == ("<bos>" if add_bos == "auto" else None)


def test_a_bos_that_ends_documents_too_stands_once_between_two(corpus, tmp_path):
    artifact = prepare_data(config_for(corpus, add_bos=True, num_shards=1), output=tmp_path / "out")
    ours = AutoTokenizer.from_pretrained(artifact.path / "tokenizer")
    first, *others = documents_of(artifact)
    assert first == [ours.bos_token_id]  # before the first document
    assert all(len(ids) > 1 and ids.count(ours.bos_token_id) == 1 for ids in others)
    assert ours.encode("x")[0] == ours.bos_token_id == ours.eos_token_id


def test_a_tokenizer_without_bos_cannot_be_asked_for_one(corpus, tmp_path):
    tokenizer = bos_tokenizer()
    tokenizer.bos_token = None
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    config = config_for(corpus, tokenizer=str(tmp_path / "tokenizer"), add_bos=True)
    with pytest.raises(
        UserError, match=r"tokenizer = '.*' does not fit prepare_data.add_bos = true: it has no BOS: name"
    ):
        prepare_data(config, output=tmp_path / "out")
