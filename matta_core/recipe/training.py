"""The settings of the steps from documents to the trained TA, and of scheduled retraining."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from matta_core.artifacts.kinds.checkpoint import SIZE_NAME
from matta_core.families import FAMILIES, Family, axes_by_setting
from matta_core.recipe.loss import LossConfig
from matta_core.recipe.optimizer import OptimizerConfig
from matta_core.recipe.settings import Section, has_scheme, is_in_bucket, setting
from matta_core.recipe.sizes import DEPTH, SizeConfig

PRESETS = ("split", "sandwich", "all")  # of train.shares
PUSHED = "pushed"  # a value of start_from: the Student that is served now


def must_be_model(name: str, value: str | None) -> None:
    """Check the name of a model. Raises: ValueError where it is a URL, from which transformers does not load."""
    if value is not None and has_scheme(value):
        raise ValueError(f"{name} must be a folder or a name on the hub, got {value!r}: copy it first")


@dataclass(frozen=True)
class PrepareDataConfig(Section):
    """Documents to packed, fixed-length sequences of token ids."""

    source: str = setting(
        "stdlib",
        help="'stdlib' (the running interpreter's own library), or a glob of files, here or on gs://: .jsonl, .ndjson, "
        ".json, .csv, .tsv and .parquet hold a document per row, any other file is one document; all may be .gz",
    )
    text_field: str = setting("text", help="the field or column that holds the text, where a row is a document")
    tokenizer: str | None = setting(
        None,
        help="a Hugging Face tokenizer (name or folder); none: train a byte-level BPE on the train split",
    )
    vocab_size: int = setting(2048, low=257, high=1_000_000, unit="tokens", help="of the BPE that is trained here")
    add_bos: str | bool = setting(
        "auto",
        choices=("auto", True, False),
        help="whether the tokenizer puts its BOS before every text, here, in evaluation and where a student is served; "
        "auto: as it does by itself. Each document has at most one, before it, and one eos after it",
    )
    sequence_length: int = setting(128, low=2, high=131072, unit="tokens")
    validation_fraction: float = setting(0.05, above=0.0, high=0.5, help="of documents, by a hash of the text")
    max_documents: int | None = setting(None, low=2, help="keep only so many, those with the lowest hashes")
    num_shards: int = setting(4, low=1, high=100_000, help="parquet files of train; validation has its share")
    on_invalid_utf8: str = setting("error", choices=("error", "skip"))
    num_workers: int = setting(2, low=1, high=1024, unit="processes", changes_result=False)

    def check(self) -> None:
        must_be_model("tokenizer", self.tokenizer)
        if has_scheme(self.source) and not is_in_bucket(self.source):
            raise ValueError(f"source must be 'stdlib', a glob of local files or gs://bucket/glob, got {self.source!r}")


@dataclass(frozen=True)
class DrawnConfig(Section):
    """Widths that are drawn anew in each step, between those of Student and TA, so that sizes that no recipe names, and
    mixtures, are good, too."""

    number: int = setting(0, low=0, high=64, help="widths per step")
    share: float = setting(0.25, above=0.0, high=1.0, help="of a step's sequences, those that each trains on")
    by_layer: bool = setting(False, help="each layer has a width of its own, as in mixtures")


@dataclass(frozen=True)
class ConsolidationConfig(Section):
    """What follows the joint run: each size goes on alone from its slice of the TA, on labels and Teacher."""

    steps_fraction: float = setting(
        0.2, low=0.0, high=10.0, help="for how long, of train.steps; 0: not at all, students are slices of the TA"
    )
    learning_rate_fraction: float = setting(
        0.5,
        above=0.0,
        high=1.0,
        help="of train.learning_rate: where the joint run's cosine ends and that of a size alone begins, which ends "
        "at train.final_learning_rate_fraction",
    )
    sizes: tuple[str, ...] | None = setting(
        None, help="which; none: all whose layers have one width. The others stay slices of the TA, as mixtures do"
    )


@dataclass(frozen=True)
class TrainConfig(Section):
    """One training run of a TA with its nested students. With a single size it is plain training."""

    model: dict[str, Any] = setting(
        help="the TA's config in Hugging Face's words, without what the TA's size sets: model_type, hidden_size, …"
    )
    sizes: dict[str, SizeConfig] = setting(
        help="what each size keeps of the TA, by name, ascending, each contained in the next; the last is the TA. "
        "A number is an intermediate_size, or what the family names; else a mapping of some of its axes and of "
        "depth: " + ", ".join((*axes_by_setting(), *DEPTH))
    )
    student: str = setting(help="the name of the size that is served today")
    steps: int = setting(low=1, unit="optimizer steps")
    start_from: str | None = setting(
        None,
        changes_result=False,  # its files' digests do: `components.train.step` puts them into the key
        help="what the TA begins with: a Hugging Face folder or hub name, or the directory that train made, of the "
        "TA's shape or of one of the sizes, which then grows into the TA; 'pushed': the student's version that is "
        "served now, below push.target; none: random weights",
    )
    start_order: str = setting(
        "as_is",
        choices=("as_is", "importance"),
        help="importance: sort start_from's neurons, heads and layers by what they matter on training data, and cut it "
        "down to the TA's shape where it is larger; for models that have no trained students inside, which sorting "
        "would take apart",
    )
    calibration_sequences: int = setting(32, low=1, unit="training sequences", help="that importance is measured on")
    batch_size: int = setting(16, low=1, unit="sequences per optimizer step, over all ranks")
    micro_batch_size: int | None = setting(
        None, low=1, unit="sequences per pass and rank", help="none: the rank's whole share at once"
    )
    shares: dict[str, float] | str = setting(
        "split",
        help="of a step's sequences, those that each size trains on: {xl: 1.0, s: 0.5, m: 0.25, l: 0.25}, 0 for a size "
        "left out; or split: all for the TA, half for the student, and the other half for the sizes between; sandwich: "
        "all for TA and student, one part of them for each size between; all: all for all. What a size costs and what "
        "it weighs beside the other students is its share. A size that is never trained comes out worse than a smaller "
        "one that is",
    )
    nest_from: float | None = setting(
        None,
        low=0.0,
        high=0.99,
        help="the share of the steps that the TA takes alone, before the students learn inside it: a ripe TA teaches "
        "better, and they cost nothing until then; none: 0.3 from random weights, and 0 with start_from, whose model "
        "has a student inside",
    )
    drawn: DrawnConfig = setting(default_factory=DrawnConfig)
    consolidation: ConsolidationConfig = setting(default_factory=ConsolidationConfig)
    loss: LossConfig = setting(default_factory=LossConfig)
    optimizer: OptimizerConfig = setting(default_factory=OptimizerConfig)
    learning_rate: float = setting(1e-3, above=0.0, high=1.0, help="of AdamW's scale, whichever optimizer")
    final_learning_rate_fraction: float = setting(0.1, low=0.0, high=1.0, help="where the cosine ends")
    warmup_steps: int = setting(20, low=0, unit="optimizer steps")
    weight_decay: float = setting(0.1, low=0.0, high=1.0, help="on matrices only")
    max_grad_norm: float = setting(1.0, above=0.0)
    precision: str = setting("auto", choices=("auto", "fp32", "bf16"), help="auto: bf16 where it pays")
    activation_checkpointing: bool = setting(False, changes_result=False)
    head_chunk_tokens: int | None = setting(
        None,
        low=1,
        unit="tokens",
        changes_result=False,
        help="the head and the loss see so many at a time; none: as many as suit the vocabulary and the device",
    )
    pass_order: str = setting(
        "auto",
        choices=("auto", "together", "one_by_one"),
        changes_result=False,
        help="together: TA and students go through a batch side by side, so that the TA answers once for all of them: "
        "faster where the vocabulary is large; one_by_one: at the memory of the largest; auto: together where it fits",
    )
    eval_every_steps: int = setting(100, low=1, unit="optimizer steps")
    eval_sequences: int = setting(64, low=1, unit="sequences")
    checkpoint_every_steps: int = setting(100, low=1, unit="optimizer steps", changes_result=False)
    log_every_steps: int = setting(10, low=1, unit="optimizer steps", changes_result=False)
    seed: int = setting(0, low=0)

    def __post_init__(self) -> None:
        sizes = _numbers_named(self.sizes, self.model)  # in Python as in a recipe
        object.__setattr__(self, "sizes", {name: SizeConfig(size) for name, size in sizes.items()})
        super().__post_init__()

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str = "") -> Self:
        """Parse as any section. A plain number in `sizes` counts what the family says."""
        if isinstance(values, Mapping) and isinstance(values.get("sizes"), Mapping):
            values = {**values, "sizes": _numbers_named(values["sizes"], values.get("model"))}
        return super().from_dict(values, where)

    def check(self) -> None:
        if not self.sizes:
            raise ValueError("sizes must name at least one size")
        key = _number_of(self.model)
        numbers = [size[key] for size in self.sizes.values() if list(size) == [key]]
        if numbers != sorted(set(numbers)):
            raise ValueError(f"sizes must be ascending and different, got {numbers}")
        known = axes_by_setting()
        if beyond := [name for name in self.sizes[self.ta] if name in DEPTH or known[name][0] != name]:
            raise ValueError(
                f"sizes: the last is the TA itself, whole: its layers are train.model's, and all alike; give "
                f"{self.ta} one number for each axis that train.model leaves out, without {beyond[0]}"
            )
        for name in self.sizes:
            if not re.fullmatch(SIZE_NAME, name) or (
                name in ("teacher", "references", "compact") and len(self.sizes) > 1
            ):
                raise ValueError(
                    f"sizes are folders' names: at most 63 letters, digits, - and _, and not 'teacher', 'references' "
                    f"or 'compact' in a family; got {name!r}"
                )
        if self.student not in self.sizes:
            raise ValueError(f"student must be one of {', '.join(self.sizes)}, got {self.student!r}")
        self._check_shares()
        if self.consolidation_steps and self.consolidation.learning_rate_fraction < self.final_learning_rate_fraction:
            raise ValueError(
                f"consolidation.learning_rate_fraction must be >= final_learning_rate_fraction = "
                f"{self.final_learning_rate_fraction}, got {self.consolidation.learning_rate_fraction}"
            )
        if unknown := [name for name in self.consolidation.sizes or () if name not in self.sizes]:
            raise ValueError(f"consolidation.sizes must be among {', '.join(self.sizes)}, got {unknown[0]!r}")
        must_be_model("start_from", self.start_from)
        if self.start_order == "importance" and self.start_from is None:
            raise ValueError("start_order must be as_is where start_from is none: random weights have no importance")
        if self.warmup_steps >= self.steps:
            raise ValueError(f"warmup_steps must be < steps = {self.steps}, got {self.warmup_steps}")

    def _check_shares(self) -> None:
        if isinstance(self.shares, str):
            if self.shares not in PRESETS:
                raise ValueError(f"shares must be {', '.join(PRESETS)} or a mapping of sizes, got {self.shares!r}")
        else:
            for name, share in self.shares.items():
                if name not in self.sizes:
                    raise ValueError(f"shares must be of sizes, {', '.join(self.sizes)}; got {name!r}")
                if isinstance(share, bool) or not isinstance(share, int | float) or not 0.0 <= share <= 1.0:
                    raise ValueError(f"shares.{name} must be from 0 to 1, got {share!r}")
        shares = self.share_of_size()
        if not shares[self.ta]:
            raise ValueError(f"shares must give the TA, {self.ta}, more than 0: students are cut out of it")
        for name, share in (shares | dict.fromkeys(self.drawn_names, self.drawn.share)).items():
            if share and not self._rows(share):
                raise ValueError(
                    f"batch_size must be at least {math.ceil(0.5 / share)}, so that {name} with its share of "
                    f"{share:.3g} has a sequence in a step; got {self.batch_size}"
                )

    def share_of_size(self) -> dict[str, float]:
        """For each size its share of a step's sequences."""
        if not isinstance(self.shares, str):
            return {name: float(self.shares.get(name, 0.0)) for name in self.sizes}
        between = [name for name in self.sizes if name not in (self.ta, self.student)]
        of_student = 0.5 if self.shares == "split" and between else 1.0
        of_others = 1.0 if self.shares == "all" else (0.5 if self.shares == "split" else 1.0) / max(1, len(between))
        return dict.fromkeys(self.sizes, of_others) | {self.student: of_student} | {self.ta: 1.0}

    def rows_per_size(self) -> dict[str, int]:
        """For each size, and each draw, how many of a step's sequences it trains on."""
        shares = self.share_of_size() | dict.fromkeys(self.drawn_names, self.drawn.share)
        return {name: self._rows(share) for name, share in shares.items()}

    def _rows(self, share: float) -> int:
        return math.floor(share * self.batch_size + 0.5)

    @property
    def drawn_names(self) -> list[str]:
        """What the draws of a step are called, beside the sizes: no size has a dot in its name."""
        return [f"drawn.{number}" for number in range(self.drawn.number if len(self.sizes) > 1 else 0)]

    @property
    def first_nested_step(self) -> int:
        """The step, from 0, in which students first learn."""
        share = self.nest_from if self.nest_from is not None else (0.3 if self.start_from is None else 0.0)
        return math.floor(share * self.steps)

    @property
    def consolidation_steps(self) -> int:
        """For how many steps each size goes on alone. A single size is alone from the beginning."""
        return round(self.consolidation.steps_fraction * self.steps) if len(self.sizes) > 1 else 0

    @property
    def ta(self) -> str:
        """The name of the largest size."""
        return list(self.sizes)[-1]


def _number_of(model: Any) -> str:
    """The key that a plain number counts. `build_config` refuses a model of no known family."""
    model_type = model.get("model_type") if isinstance(model, Mapping) else None
    family = FAMILIES.get(model_type) if isinstance(model_type, str) else None
    return family.number if family else Family.number


def _numbers_named(sizes: Mapping[str, Any], model: Any) -> dict[str, Any]:
    """The sizes, with {key: number} for a plain number."""
    key = _number_of(model)
    return {name: {key: size} if type(size) is int else size for name, size in sizes.items()}


@dataclass(frozen=True)
class ScoreTeacherConfig(Section):
    """The Teacher's top-k log-probabilities and samples of the rest, computed once."""

    teacher: str | None = setting(
        None, help="a Hugging Face checkpoint (name or folder); none: the one that train_teacher made"
    )
    online: bool = setting(
        False,
        changes_result=False,
        help="true: the Teacher scores each batch in training, and nothing is cached: where the cache would take more "
        "room than there is, or few steps are taken; the loss is the same",
    )
    top_k: int = setting(16, low=1, help="log-probabilities kept per position")
    tail_samples: int = setting(
        64,
        low=0,
        help="token ids drawn from the rest of the vocabulary, by their probability, that stand for it in forward KL; "
        "0: the rest is one outcome, as it is in the other divergences, which makes the divergence smaller than it is",
    )
    batch_size: int = setting(32, low=1, unit="sequences per pass", changes_result=False)
    precision: str = setting("auto", choices=("auto", "fp32", "bf16"))

    def check(self) -> None:
        must_be_model("teacher", self.teacher)


@dataclass(frozen=True)
class RetrainConfig(Section):
    """Scheduled retraining: where new data is found, and how runs of one name are kept from overlapping."""

    prefix: str = setting(
        help="a directory or gs://bucket/path that holds the spans: folders named span=2026-11-24 (or "
        "span=2026-11-24T06 and the like, in UTC)"
    )
    files: str = setting("*.jsonl", help="a glob below the newest span's folder; it takes prepare_data.source's place")
    require_success_file: bool = setting(
        True, help="a span is complete once it holds _SUCCESS, as Spark, Beam and Hadoop write it; false: at once"
    )
    name: str | None = setting(None, help="of the lease: runs of one name do not overlap; none: the recipe's name")
    lease_seconds: float = setting(
        72_000.0,
        above=0.0,
        high=31_536_000.0,
        unit="seconds",
        help="after so long a run counts as crashed and another may begin: longer than any run takes, and shorter "
        "than the time between two",
    )

    def check(self) -> None:
        if has_scheme(self.prefix) and not is_in_bucket(self.prefix):
            raise ValueError(f"prefix must be a local directory or gs://bucket/path, got {self.prefix!r}")
        if self.files.startswith("/") or ".." in self.files.split("/") or not self.files:
            raise ValueError(f"files must be a glob below the span's folder, got {self.files!r}")
        if any(character in self.prefix for character in "*?["):
            raise ValueError(f"prefix must be a folder's name without wildcards, got {self.prefix!r}")
        for name in ("prefix", "files"):
            if any(character in getattr(self, name) for character in "'\"\\"):
                raise ValueError(f"{name} must be without quotes and backslashes, got {getattr(self, name)!r}")
