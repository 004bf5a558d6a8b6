"""The Beam pipelines: files to shards of documents, shards of documents to shards of sequences.

Any Beam runner whose workers share a file system can run them. Their results depend neither on the number of workers
nor on the order in which these work. Workers raise nothing for a user's mistake, because Beam would wrap the error:
problems are an output.
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from shlex import quote
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.transforms import combiners
from apache_beam.transforms.environments import SubprocessSDKEnvironment
from tokenizers import Tokenizer

from components.common.storage.listing import SourceFile
from components.prepare_data.documents import content_hash, normalise, shard_counts, shard_names, shard_of
from components.prepare_data.readers import read_documents
from components.prepare_data.shards import DOCUMENTS, document_batches, pack, read_texts, sequences_schema, write_shard
from matta_core.artifacts import write_json_atomically
from matta_core.recipe import PrepareDataConfig

PROBLEMS_SHOWN = 3


def run(build: Callable[[beam.Pipeline], None], num_workers: int) -> None:
    """Build a pipeline and run it on this machine, in `num_workers` processes.

    FnApiRunner is named because Beam's default would first try to download another runner. The command of its workers
    is given because each worker would print a page of notices. Their errors are raised here all the same.
    """
    environment = None
    if num_workers > 1:
        # Their output goes to no file: a worker that cannot print, because the disk is full, hangs.
        command = f"exec {quote(sys.executable)} -m apache_beam.runners.worker.sdk_worker_main >/dev/null 2>&1"
        environment = SubprocessSDKEnvironment.from_command_string(command)
    # Without `flags=[]`, Beam would parse this process's command line.
    options = PipelineOptions(flags=[], direct_num_workers=num_workers)
    try:
        with beam.Pipeline(runner=FnApiRunner(environment), options=options) as pipeline:
            build(pipeline)
    except RuntimeError as error:
        error.add_note("If a worker process was killed, memory ran out: set fewer prepare_data.num_workers.")
        raise


def collect_documents(
    pipeline: beam.Pipeline, files: list[SourceFile], config: PrepareDataConfig, folder: Path, report: Path
) -> None:
    """Read documents, normalise them, drop empty ones and duplicates, split them, and write shards of them below
    `folder`.

    `report` is written last: {"counts": what was read, dropped and kept, "problems": the first few by place}.
    A shard holds its documents in the order of their hashes. Its text must fit into a worker's memory.
    """
    counts = shard_counts(config.num_shards, config.validation_fraction)
    read = (
        pipeline
        | "Files" >> beam.Create(files)
        | "SpreadFiles" >> beam.Reshuffle()
        | "Read" >> beam.ParDo(ReadDocuments(config)).with_outputs("counts", "problems", main="documents")
    )
    distinct = read.documents | "DropDuplicates" >> beam.CombinePerKey(min)
    kept = distinct
    if config.max_documents is not None:
        highest = (
            distinct
            | "Hashes" >> beam.Keys()
            | "LowestHashes" >> combiners.Top.Smallest(config.max_documents)
            | "HighestKept" >> beam.Map(lambda hashes: hashes[-1] if hashes else "")
        )
        kept = distinct | "KeepLowest" >> beam.Filter(
            lambda document, bound: document[0] <= bound, bound=beam.pvalue.AsSingleton(highest)
        )
    placed = kept | "Place" >> beam.Map(
        lambda document: (shard_of(document[0], config.validation_fraction, counts), document)
    )
    # Every shard's file is written, even if no document belongs to it.
    names = pipeline | "Shards" >> beam.Create([(name, None) for name in shard_names(counts)])
    written = (
        {"documents": placed, "name": names}
        | "GroupByShard" >> beam.CoGroupByKey()
        | "WriteDocuments" >> beam.ParDo(WriteDocuments(folder))
    )
    num_distinct = distinct | "Count" >> combiners.Count.Globally() | beam.Map(lambda number: {"distinct": number})
    problems = read.problems | "FirstProblems" >> combiners.Top.Smallest(PROBLEMS_SHOWN)
    (
        (read.counts, num_distinct, written)
        | "AllCounts" >> beam.Flatten()
        | "AddUp" >> beam.CombineGlobally(add_up)
        | "Report" >> beam.Map(write_report, report, problems=beam.pvalue.AsSingleton(problems))
    )


def tokenize_documents(
    pipeline: beam.Pipeline, names: list[str], tokenize_shard: "TokenizeShard", report: Path
) -> None:
    """Turn every shard of documents into the shard of packed sequences of the same name.

    `report` is written last: {"counts": tokens, sequences and dropped tokens per split}.
    """
    (
        pipeline
        | "Shards" >> beam.Create(names)
        | "SpreadShards" >> beam.Reshuffle()
        | "Tokenize" >> beam.ParDo(tokenize_shard)
        | "AddUp" >> beam.CombineGlobally(add_up)
        | "Report" >> beam.Map(write_report, report, problems=[])
    )


class ReadDocuments(beam.DoFn):
    """SourceFile -> (hash, (source, text)). Side outputs are counts per file, and messages on what is unreadable."""

    def __init__(self, config: PrepareDataConfig) -> None:
        self.text_field = config.text_field
        self.skip_invalid_utf8 = config.on_invalid_utf8 == "skip"

    def process(self, file: SourceFile) -> Iterator[Any]:
        counts: Counter[str] = Counter()
        for source, text in read_documents(file, self.text_field):
            counts["read"] += 1
            if not isinstance(text, str):
                if text.invalid_utf8 and self.skip_invalid_utf8:
                    counts["invalid_utf8"] += 1
                else:
                    counts["problems"] += 1
                    yield beam.pvalue.TaggedOutput("problems", (source, text.message, text.invalid_utf8))
            elif text := normalise(text):
                yield content_hash(text), (source, text)
            else:
                counts["empty"] += 1
        yield beam.pvalue.TaggedOutput("counts", dict(counts))


class WriteDocuments(beam.DoFn):
    """(shard's name, its documents) -> the shard's file, and its counts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def process(self, shard: tuple[str, dict[str, Iterable[Any]]]) -> Iterator[dict[str, int]]:
        name, groups = shard
        documents = [document for _, document in sorted(groups["documents"])]
        write_shard(self.folder / name, DOCUMENTS, document_batches(documents), self.folder)
        split = name.partition("/")[0]
        num_bytes = sum(len(text.encode()) for _, text in documents)
        yield {f"{split}.documents": len(documents), f"{split}.bytes": num_bytes}


class TokenizeShard(beam.DoFn):
    """Shard's name -> the file of its packed sequences, and its counts.

    Every document ends with the EOS, and begins with the BOS if there is one. If both are one token, the one that ends
    a document also begins the next.
    """

    def __init__(
        self,
        documents: Path,
        tokenizer_json: Path,
        bos_token_id: int | None,
        eos_token_id: int,
        sequence_length: int,
        output: Path,
        temporary: Path,
    ) -> None:
        self.documents = documents
        self.tokenizer_json = tokenizer_json
        self.bos_token_id = bos_token_id
        self.eos_token_id = eos_token_id
        self.sequence_length = sequence_length
        self.output = output
        self.temporary = temporary

    def setup(self) -> None:
        self.tokenizer = Tokenizer.from_file(str(self.tokenizer_json))
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        self.tokenizer.encode_special_tokens = True  # a text that spells "<|endoftext|>" must not end there

    def process(self, name: str) -> Iterator[dict[str, int]]:
        counts: Counter[str] = Counter()
        rows = write_shard(
            self.output / name,
            sequences_schema(self.sequence_length),
            pack(self._token_ids(self.documents / name, counts), self.sequence_length),
            self.temporary,
        )
        counts["sequences"] = rows
        counts["dropped_tokens"] = counts["tokens"] - rows * self.sequence_length
        split = name.partition("/")[0]
        yield {f"{split}.{count}": number for count, number in counts.items()}

    def _token_ids(self, path: Path, counts: Counter[str]) -> Iterator[np.ndarray]:
        before = [] if self.bos_token_id is None else [self.bos_token_id]
        for texts in read_texts(path):
            for encoding in self.tokenizer.encode_batch_fast(texts, add_special_tokens=False):
                token_ids = np.array([*before, *encoding.ids, self.eos_token_id], dtype=np.int32)
                counts["tokens"] += len(token_ids)
                yield token_ids
                if self.bos_token_id == self.eos_token_id:
                    before = []


def add_up(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    """The sum of counts, name by name."""
    total: Counter[str] = Counter()
    for some in counts:
        total.update(some)
    return dict(total)


def write_report(counts: dict[str, int], report: Path, problems: list[tuple[str, str]]) -> None:
    """Write the report for the process that started the pipeline."""
    write_json_atomically(report, {"counts": counts, "problems": problems})
