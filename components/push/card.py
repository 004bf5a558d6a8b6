"""The model card of a pushed student, in Hugging Face's form: Markdown under a header of metadata.

It goes into the PushRecord and not into the version: a version is named by the content of the model's files, and holds
nothing else.
"""

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCardData

from components.common.markdown import code, escape
from components.common.statistics import interval_95
from matta_core.artifacts.kinds.decision import Verdict
from matta_core.artifacts.kinds.evaluation import Results, TaskFigure
from matta_core.artifacts.kinds.family import Member, StudentFamily
from matta_core.recipe.extraction import amount


@dataclass(frozen=True)
class CardFacts:
    """What a card is made of."""

    name: str
    size: str
    version: str
    digest: str
    location: str
    member: Member
    family: StudentFamily
    results: Results
    verdict: Verdict  # on the student
    confidence: float
    lineage: Mapping[str, str]  # digests of the artifacts that it comes from


def model_card(facts: CardFacts) -> str:
    """The card, complete, as text. Names and words of the artifacts show as they are, and are no HTML or Markdown."""
    return f"---\n{_metadata(facts)}\n---\n\n" + "\n".join(_body(facts)) + "\n"


def _metadata(facts: CardFacts) -> str:
    tasks = facts.results["tasks"]
    figures = [
        EvalResult(
            task_type="text-generation",
            dataset_type=task,
            dataset_name=f"{task} ({tasks[task]['version']})",
            metric_type=tasks[task]["metric"],
            metric_value=figure["value"],
        )
        for task, figure in _figures(facts).items()
        if figure["value"] is not None
    ]
    card = ModelCardData(
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["matta", "matryoshka", "distillation"],
        model_name=facts.name,
        eval_results=figures or None,
    )
    text = yaml.dump(card.to_dict(), Dumper=_Header, sort_keys=False, allow_unicode=True, width=float("inf"))
    for character in _OF_HTML:  # within double quotes YAML can write them as escapes
        text = text.replace(character, f"\\x{ord(character):02X}")
    return text.strip()


_OF_HTML = "<>&"


class _Header(yaml.SafeDumper):
    """Quotes strings that HTML could interpret."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_str(self, data: str) -> yaml.ScalarNode:
        style = '"' if any(character in data for character in _OF_HTML) else None
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)


_Header.add_representer(str, _Header.represent_str)


def _body(facts: CardFacts) -> Iterator[str]:
    member, role = facts.member, "the TA itself" if facts.size == facts.family["ta"] else "a slice of the TA's weights"
    teacher = facts.results["models"].get("teacher", {})
    yield f"# {escape(facts.name)}, version {escape(facts.version)}"
    yield ""
    yield (
        f"A language model trained with MatTA (Verma et al., KDD 2025, arXiv 2505.23337): {role}, a model that was "
        f"trained together with the students nested in it, from the labels of the data and from a larger Teacher. "
        f"It is an ordinary transformers checkpoint, {_sameness(member)}."
    )
    yield ""
    yield from _table(
        ("", ""),
        [
            ("Size", escape(f"{facts.size} (of {', '.join(facts.family['students'])})")),
            ("Parameters", f"{member['parameters']:,}"),
            ("Weights", f"{member['bytes']:,} bytes"),
            ("Compute", f"{member['flops_per_token']:,.0f} FLOPs per token"),
            *_widths(member),
            *_beginning(facts.family),
            ("Content digest", code(facts.digest)),
            *((escape(f"{name.capitalize()} digest"), code(digest)) for name, digest in facts.lineage.items()),
            ("Teacher", f"{teacher['parameters']:,} parameters" if teacher.get("parameters") else "not evaluated"),
        ],
    )
    yield ""
    yield "## Figures"
    yield ""
    yield f"In brackets: the 95% interval, over documents. Evaluation set {code(facts.results['evaluation_set'])}."
    yield ""
    yield from _table(("Task", "Metric", "Better", "Value", "Questions", "Documents"), list(_figure_rows(facts)))
    yield ""
    yield from _comparison(facts)
    yield "## Limits"
    yield ""
    yield (
        "- The figures are of the tasks and documents above, and say nothing of other text, of other languages, or of "
        "use as an assistant: the model was not tuned to follow instructions and not examined for bias or harm."
    )
    yield "- It repeats what its data held, errors and private matters included, and states what is not true."
    yield "- It carries no licence of its own: that of its data, its Teacher and its first weights applies."
    yield ""
    yield "## Use"
    yield ""
    if facts.location.startswith("gs://"):
        yield f"```sh\ngcloud storage cp --recursive {shlex.quote(facts.location)} .\n```"
        path = facts.version
    else:
        path = facts.location
    yield "```python"
    yield "from transformers import AutoModelForCausalLM, AutoTokenizer"
    yield ""
    # JSON's escapes are Python's, too: nothing in the path can end the string, the line or the block.
    yield f"model = AutoModelForCausalLM.from_pretrained({json.dumps(path)})"
    yield f"tokenizer = AutoTokenizer.from_pretrained({json.dumps(path)})"
    yield "```"


def _sameness(member: Member) -> str:
    if "compact" not in member:
        return "equal bit for bit to the student that was trained"
    return (
        "its weights equal bit for bit to the student's inside the TA, with zeros that bring every layer to the widest "
        "one's shape and change nothing but the order of sums"
    )


def _beginning(family: StudentFamily) -> Iterator[tuple[str, str]]:
    """What stands before every text, as in training. Older families do not record it."""
    if "bos_token" in family:
        bos = family["bos_token"]
        yield (
            "A text begins with",
            "nothing: there is no BOS" if bos is None else f"{code(bos)}, put there by the tokenizer",
        )


def _widths(member: Member) -> Iterator[tuple[str, str]]:
    """The FFN widths, where they differ by layer or were searched."""
    if "compact" in member:
        yield "FFN widths by layer", ", ".join(map(str, member["intermediate_sizes"]))
        yield "Without padding", f"{member['compact']['parameters']:,} parameters"
    if "mix" in member:
        found = member["mix"]
        ((kind, limit),) = found["budget"].items()
        yield (
            "Widths chosen",
            (
                f"for {escape(kind)} of at most {amount(limit)}, of {found['evaluated']:,} mixtures scored out of "
                f"{found['combinations']:,}"
            ),
        )


def _figures(facts: CardFacts) -> Mapping[str, TaskFigure]:
    return facts.results["models"].get(facts.size, {}).get("tasks", {})


def _figure_rows(facts: CardFacts) -> Iterator[tuple[str, ...]]:
    for task, figure in _figures(facts).items():
        described = facts.results["tasks"][task]
        yield (
            code(task),
            code(described["metric"]),
            "higher" if described["higher_is_better"] else "lower",
            _with_interval(figure, described["unit"]),
            str(figure["questions"]),
            str(figure["documents"]),
        )


def _comparison(facts: CardFacts) -> Iterator[str]:
    yield "## Compared with what was served"
    yield ""
    baseline = facts.verdict.get("baseline")
    if baseline is None:
        yield "Nothing else of this size was served when it was evaluated: it was judged by thresholds alone."
        yield ""
        return
    served = facts.results["models"].get(baseline, {})
    yield (
        f"Version {escape(str(served.get('version')))} was served. Differences are positive where this model is "
        f"better; the intervals hold together at {facts.confidence:.0%}."
    )
    yield ""
    rows = [
        (
            " ".join((code(one["task"]), *([escape(one["slice"])] if one["slice"] else []))),
            _number(one["baseline_value"]),
            _number(one["value"]),
            _number(one["difference"], "+"),
            f"{_number(one['interval'][0], '+')} to {_number(one['interval'][1], '+')}",
            escape(one["verdict"]),
        )
        for one in facts.verdict.get("comparisons", [])
    ]
    if rows:
        yield from _table(("Task", "Served", "This", "Difference", "Interval", "Verdict"), rows)
    else:
        yield "No comparison was asked of it, or none could be made."
    yield ""


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    yield "| " + " | ".join(head) + " |"
    yield "|" + " --- |" * len(head)
    for row in rows:
        yield "| " + " | ".join(row) + " |"


def _with_interval(figure: TaskFigure, unit: str) -> str:
    if figure["value"] is None:
        return "no finite number"
    interval = interval_95(figure, unit)
    ends = "" if interval is None else f" ({' to '.join(map(_number, interval))})"
    return _number(figure["value"]) + ends


def _number(value: Any, sign: str = "") -> str:
    return f"{value:{sign}.4g}" if isinstance(value, int | float) else escape(str(value))
