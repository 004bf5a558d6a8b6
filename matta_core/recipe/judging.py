"""What the students are asked, and what they must keep to be served."""

import math
import re
from dataclasses import dataclass

from matta_core.recipe.settings import Section, setting

BUILT_IN_TASKS = ("matta_bits_per_byte", "matta_last_token")  # they are made of the held-out documents


@dataclass(frozen=True)
class TaskConfig(Section):
    """One lm-eval task, named by its key in `evaluate.tasks`."""

    data_files: str | None = setting(
        None, help="a local .json, .jsonl or .parquet file with the task's test split; none: from the Hugging Face hub"
    )
    metric: str | None = setting(None, help="of the task's metrics; none: its first that is a mean over questions")
    limit: int | None = setting(None, low=2, unit="questions", help="the first so many; none: all")
    num_fewshot: int | None = setting(None, low=0, help="examples in the prompt; none: as the task says")


@dataclass(frozen=True)
class EvaluateConfig(Section):
    """Tasks and sample sizes of the evaluation."""

    last_token_questions: int = setting(200, low=2, unit="questions", help="of the last-token task, a line each")
    last_token_context: int = setting(96, low=8, unit="tokens", help="of context, at least, before the last token")
    bits_per_byte_documents: int = setting(32, low=2, unit="documents", help="of the validation split")
    bits_per_byte_characters: int = setting(
        8192, low=256, unit="characters", help="of each document, at most, from its start to the end of a line"
    )
    tasks: dict[str, TaskConfig] = setting(
        default_factory=dict, help="further lm-eval tasks by name, for instance lambada_openai: {limit: 500}"
    )
    batch_size: int = setting(
        32, low=1, unit="requests per pass", changes_result=False, help="at most: fewer where the logits are large"
    )
    latency_repeats: int = setting(15, low=3, help="the median of these is reported")


@dataclass(frozen=True)
class GatePolicy(Section):
    """What a student must keep to be blessed. None asks for nothing. Tasks have their names in the evaluation."""

    minimum: dict[str, float] | None = setting(None, help="by task: the least figure, where higher is better")
    maximum: dict[str, float] | None = setting(None, help="by task: the largest figure, where lower is better")
    non_inferior: dict[str, float] | None = setting(
        None,
        help="by task: the margin, in the task's unit, by which it may be worse than what is served; "
        "none: it must not be shown to be worse in any task; {}: nothing is asked",
    )
    improve: dict[str, float] | None = setting(
        None, help="by task: by how much, beyond noise, it must be better than what is served (0: at all)"
    )
    slices: dict[str, float] | None = setting(
        None, help="by task: the margin of non_inferior, asked of every slice of the documents"
    )
    unseen_loss: dict[str, float] | None = setting(
        None,
        help="by task: what the student may lose on a document of a kind of which none was evaluated, in the task's "
        "unit, at least; none: twice its loss on the worst that was",
    )
    min_documents: int | None = setting(None, low=2, help="per task and slice; fewer are too few to decide (none: 30)")
    small_slices: str | None = setting(
        None, choices=("refuse", "skip"), help="with fewer documents than that; none: refuse"
    )
    max_parameters: int | None = setting(None, low=1)
    max_bytes: int | None = setting(None, low=1, unit="bytes of weights")
    max_flops_per_token: int | None = setting(None, low=1)
    max_prefill_seconds: float | None = setting(None, above=0.0, unit="seconds, batch 1")
    max_decode_seconds: float | None = setting(None, above=0.0, unit="seconds per token, batch 1")
    max_memory_bytes: int | None = setting(None, low=1, unit="bytes at the peak of inference")

    def check(self) -> None:
        for name in ("minimum", "maximum", "non_inferior", "improve", "slices", "unseen_loss"):
            for task, value in (getattr(self, name) or {}).items():
                if not math.isfinite(value):
                    raise ValueError(f"{name}.{task} must be finite, got {value}")
                if (name not in ("minimum", "maximum") or task in BUILT_IN_TASKS) and value < 0:
                    raise ValueError(f"{name}.{task} must be >= 0, got {value:g}")
                if task == "matta_last_token" and value > 1:
                    raise ValueError(f"{name}.{task} must be <= 1, as 0.12 is 12%, got {value:g}")


@dataclass(frozen=True)
class GateConfig(Section):
    """Which students are good enough to serve."""

    policy: GatePolicy = setting(default_factory=GatePolicy, help="for every student")
    per_student: dict[str, GatePolicy] = setting(
        default_factory=dict, help="by size name; what is set here takes the place of the general policy's"
    )
    without_baseline: str = setting(
        "refuse",
        choices=("refuse", "bless_on_thresholds"),
        help="where nothing of a size is served yet: refuse it, or judge it without comparisons",
    )
    evaluation_set: str | None = setting(
        None, help="the beginning of the digest that the thresholds were set for; another evaluation set is refused"
    )
    confidence: float = setting(0.95, low=0.5, high=0.999, help="of all comparisons of a decision together")
    monotone_task: str = setting("matta_bits_per_byte", help="in which larger students must not be worse")
    monotone_tolerance: float | None = setting(
        2.0,
        low=0.0,
        unit="standard errors of the paired difference",
        help="a larger student may be worse than the next smaller by so much; none: not checked",
    )

    def check(self) -> None:
        if self.evaluation_set is not None and not re.fullmatch("[0-9a-f]{12,64}", self.evaluation_set):
            raise ValueError(f"evaluation_set must be 12 to 64 hexadecimal digits, got {self.evaluation_set!r}")
