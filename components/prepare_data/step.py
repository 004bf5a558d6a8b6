"""prepare_data: documents to packed, fixed-length sequences of token ids, and the tokenizer that made them."""

import contextlib
import json
import logging
import shutil
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NoReturn

from components.common.step_runner import run_step
from components.common.step_runner import say as say_for_step
from components.common.storage.listing import SourceFile, find_files
from components.prepare_data.documents import shard_counts, shard_names
from components.prepare_data.fingerprint import fingerprint, tokenizer_files
from matta_core.artifacts import IN_PROGRESS, Artifact, write_json_atomically
from matta_core.artifacts.kinds.dataset import STATS, SplitStats, Stats
from matta_core.errors import UserError
from matta_core.progress import progress
from matta_core.recipe import EvaluateConfig, PrepareDataConfig

if TYPE_CHECKING:
    from tqdm import tqdm
    from transformers import PreTrainedTokenizerFast

say = partial(say_for_step, "prepare_data")
SPLITS = ("train", "validation")


def prepare_data(
    config: PrepareDataConfig, *, output: str | Path, evaluation: EvaluateConfig | None = None
) -> Artifact:
    """Make a TokenizedDataset. The same documents and settings give the same digest, with any number of workers.

    `evaluation` is what will be asked of the students. It is no part of the dataset, which is finished even if the
    held-out documents are not enough for it.

    Files: train/ and validation/ (parquet shards, one column `input_ids` of fixed length), validation_documents/
    (`source`, `text`: what was held out), tokenizer/, stats.json.

    Raises: UserError where the source is empty, unreadable, not UTF-8 or too small, or the tokenizer unusable.
    """
    files = find_files(config.source)
    contents = {"documents": fingerprint(files), "tokenizer": fingerprint(tokenizer_files(config.tokenizer))}
    work = partial(_work, config, files)
    artifact = run_step("prepare_data", "TokenizedDataset", output, config, {}, work, extra_key=contents)
    if evaluation is not None:
        from components.prepare_data.held_out import check_held_out

        check_held_out(artifact.path, evaluation)
    return artifact


def _work(config: PrepareDataConfig, files: list[SourceFile], path: Path) -> dict[str, Any]:
    """Make documents, tokenizer and sequences. A killed run goes on with the first that is not finished."""
    unfinished = path / IN_PROGRESS
    counts = _collect_documents(config, files, unfinished)
    tokenizer = _make_tokenizer(config, counts["train.documents"], unfinished, path / "tokenizer")
    from matta_core.tokens import bos_token_id, num_token_ids

    bos = bos_token_id(tokenizer)
    counts |= _tokenize_documents(config, bos, tokenizer.eos_token_id, unfinished, path)
    _empty(path / "validation_documents")
    shutil.copytree(unfinished / "documents" / "validation", path / "validation_documents", dirs_exist_ok=True)

    vocab_size = num_token_ids(tokenizer)
    stats = _stats(counts, len(files), vocab_size, None if bos is None else tokenizer.bos_token)
    write_json_atomically(unfinished / STATS, stats)
    (unfinished / STATS).replace(path / STATS)
    for split, facts in (("train", stats["train"]), ("validation", stats["validation"])):
        say(
            f"{split}: {facts['documents']:,} documents, {facts['bytes'] / 1e6:.1f} MB, {facts['tokens']:,} tokens, "
            f"{facts['sequences']:,} sequences of {config.sequence_length}"
        )
    return {
        "sequence_length": config.sequence_length,
        "vocab_size": vocab_size,
        "num_train_sequences": counts["train.sequences"],
        "num_validation_sequences": counts["validation.sequences"],
    }


def _collect_documents(config: PrepareDataConfig, files: list[SourceFile], unfinished: Path) -> Counter[str]:
    """Write shards of documents. Returns how many were read, dropped and kept."""
    pipeline = _import_pipeline()
    report = unfinished / "documents.json"
    if not report.exists():
        say(f"reading {len(files):,} files of {config.source}")
        folder = unfinished / "documents"
        _empty(folder)
        collect = partial(pipeline.collect_documents, files=files, config=config, folder=folder, report=report)
        pipeline.run(collect, config.num_workers)
    result = json.loads(report.read_text())
    counts = Counter(result["counts"])
    _check_documents(config, counts, result["problems"])
    say(
        f"{counts['read']:,} documents read, {counts['empty']:,} empty, {counts['invalid_utf8']:,} not UTF-8, "
        f"{_duplicates(counts):,} duplicates; {_kept(counts):,} kept"
    )
    return counts


def _make_tokenizer(
    config: PrepareDataConfig, num_documents: int, unfinished: Path, folder: Path
) -> "PreTrainedTokenizerFast":
    """The tokenizer in `folder`, which is made first if it does not exist yet."""
    from components.prepare_data import tokenizer as making  # transformers takes seconds to import

    if folder.exists():
        return making.load_tokenizer(str(folder))
    if config.tokenizer is not None:
        tokenizer = making.load_tokenizer(config.tokenizer)
    else:
        say(f"training a tokenizer of {config.vocab_size:,} tokens on {num_documents:,} documents")
        with progress(num_documents, "training the tokenizer", "documents") as bar:
            texts = _texts(unfinished / "documents" / "train", bar)
            tokenizer = making.train_tokenizer(texts, config.vocab_size, config.sequence_length)
        if len(tokenizer) < config.vocab_size:
            say(f"the text has only {len(tokenizer):,} tokens to learn, not {config.vocab_size:,}: going on with these")
    if told := making.settle_bos(tokenizer, config.tokenizer, config.add_bos):
        say(told)
    _empty(unfinished / "tokenizer")
    tokenizer.save_pretrained(unfinished / "tokenizer")
    (unfinished / "tokenizer").rename(folder)
    return tokenizer


def _tokenize_documents(
    config: PrepareDataConfig, bos_token_id: int | None, eos_token_id: int, unfinished: Path, path: Path
) -> dict[str, int]:
    """Write shards of sequences. Returns the numbers of tokens and sequences."""
    pipeline = _import_pipeline()
    for folder in (path / "train", path / "validation", unfinished / "sequences"):
        _empty(folder)
    counts = shard_counts(config.num_shards, config.validation_fraction)
    names = shard_names(counts)
    told = " and ".join(f"{count:,} of {split}" for split, count in counts.items())
    say(f"tokenizing into {len(names):,} shards, {told}")
    tokenize_shard = pipeline.TokenizeShard(
        documents=unfinished / "documents",
        tokenizer_json=path / "tokenizer" / "tokenizer.json",
        bos_token_id=bos_token_id,
        eos_token_id=eos_token_id,
        sequence_length=config.sequence_length,
        output=path,
        temporary=unfinished / "sequences",
    )
    report = unfinished / "sequences.json"
    tokenize = partial(pipeline.tokenize_documents, names=names, tokenize_shard=tokenize_shard, report=report)
    with _watched(path, names):
        pipeline.run(tokenize, config.num_workers)
    counts = json.loads(report.read_text())["counts"]
    _check_sequences(config, counts)
    return counts


def _check_documents(config: PrepareDataConfig, counts: Counter[str], problems: list[Any]) -> None:
    if problems:
        listed = "; ".join(message for _, message, _ in problems)
        more = f"; and {counts['problems'] - len(problems):,} more" if counts["problems"] > len(problems) else ""
        remedy = "mend these files, or leave them out of prepare_data.source"
        if problems[0][2]:
            remedy = "convert to UTF-8, or set prepare_data.on_invalid_utf8=skip to leave such documents out"
        raise UserError(f"{listed}{more}: {remedy}")
    where = f"prepare_data.source = {config.source!r}"
    if _kept(counts) == 0:
        raise UserError(
            f"{where} has no text: {counts['read']:,} documents, of which {counts['empty']:,} are empty and "
            f"{counts['invalid_utf8']:,} not UTF-8; name files that hold text"
        )
    for split in SPLITS:
        if counts[f"{split}.documents"] == 0:
            raise UserError(
                f"{where} leaves the {split} split without a document: {_kept(counts):,} different documents at "
                f"validation_fraction = {config.validation_fraction}; give more documents, or "
                f"{'a larger' if split == 'validation' else 'a smaller'} prepare_data.validation_fraction"
            )


def _check_sequences(config: PrepareDataConfig, counts: dict[str, int]) -> None:
    shards = shard_counts(config.num_shards, config.validation_fraction)
    for split in SPLITS:
        if counts[f"{split}.sequences"] == 0:
            raise UserError(
                f"the {split} split is too small for one sequence: {counts[f'{split}.tokens']:,} tokens in "
                f"{shards[split]} shards, prepare_data.sequence_length = {config.sequence_length}; set a shorter "
                f"sequence_length{' or a larger validation_fraction' if split == 'validation' else ''}, fewer "
                f"num_shards, or give more text"
            )


def _stats(counts: dict[str, int], num_files: int, vocab_size: int, bos_token: str | None) -> Stats:
    return {
        "files": num_files,
        "documents_read": counts["read"],
        "documents_empty": counts["empty"],
        "documents_invalid_utf8": counts["invalid_utf8"],
        "documents_duplicate": _duplicates(counts),
        "documents_beyond_maximum": counts["distinct"] - _kept(counts),
        "vocab_size": vocab_size,
        "bos_token": bos_token,
        "train": _split_stats(counts, "train"),
        "validation": _split_stats(counts, "validation"),
    }


def _split_stats(counts: Mapping[str, int], split: str) -> SplitStats:
    return {
        "documents": counts[f"{split}.documents"],
        "bytes": counts[f"{split}.bytes"],
        "tokens": counts[f"{split}.tokens"],
        "sequences": counts[f"{split}.sequences"],
        "dropped_tokens": counts[f"{split}.dropped_tokens"],
        "bytes_per_token": counts[f"{split}.bytes"] / counts[f"{split}.tokens"],
    }


def _duplicates(counts: dict[str, int]) -> int:
    return counts["read"] - counts["empty"] - counts["invalid_utf8"] - counts["distinct"]


def _kept(counts: dict[str, int]) -> int:
    return counts["train.documents"] + counts["validation.documents"]


def _import_pipeline() -> ModuleType:
    """Import our Beam pipelines. Beam takes seconds to import. It warns that it has no Google Cloud clients, and logs
    what it also raises."""
    logging.getLogger("apache_beam").setLevel(logging.CRITICAL)
    logging.disable(logging.WARNING)
    try:
        from components.prepare_data import pipeline
    finally:
        logging.disable(logging.NOTSET)
    return pipeline


def _texts(folder: Path, bar: "tqdm[NoReturn]") -> Iterator[list[str]]:
    from components.prepare_data.shards import read_texts

    for shard in sorted(folder.iterdir()):
        for texts in read_texts(shard):
            yield texts
            bar.update(len(texts))


@contextlib.contextmanager
def _watched(path: Path, names: list[str]) -> Iterator[None]:
    """Show a bar of the shards that workers have finished. A Beam runner says nothing before its end."""
    ended = threading.Event()

    def watch() -> None:
        with progress(len(names), "tokenizing", "shards") as bar:
            while not ended.wait(0.2):
                bar.update(sum((path / name).exists() for name in names) - bar.n)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()


def _empty(folder: Path) -> None:
    """Empty a folder of what a killed run left, or make it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
