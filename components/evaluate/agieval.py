"""Converts AGIEval's own files into the form that lm-eval's tasks read.

AGIEval publishes rows of {passage, question, options, label}; lm-eval reads the hub's `hails/agieval-*`, rows of
{query, choices, gold}. The query is AGIEval's zero-shot prompt (Zhong et al. 2023, arXiv 2304.06364;
`convert_zero_shot` in src/dataset_loader.py of its repository): passage, question, options, and "Among A through D, the
answer is". AGIEval's 220 rows of sat-math, converted, take the 110,388 bytes in Arrow that the card of
`hails/agieval-sat-math` states, and give the row that was found published word for word
(tests/components/evaluate/test_hub.py); no row of the other tasks was compared.

The hub's rows do not name the passage. So each of their questions counts as a document of its own, whereas in AGIEval's
own file the questions of one passage are one document. The figures are the same; their standard errors differ.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matta_core.errors import UserError

# AGIEval's English tasks with options to choose from. The Chinese prompts differ, and `math` has no options.
TASKS = {
    "agieval_aqua_rat",
    "agieval_logiqa_en",
    "agieval_lsat_ar",
    "agieval_lsat_lr",
    "agieval_lsat_rc",
    "agieval_sat_en",
    "agieval_sat_en_without_passage",
    "agieval_sat_math",
}
_LETTERS = "ABCDEFG"


def convert(task: str, source: Path, target: Path) -> Path:
    """A file with the hub's rows: `source` if it has them, else `target`, which is written from AGIEval's rows.

    Raises: UserError with the line that is neither.
    """
    if task not in TASKS or source.suffix != ".jsonl":
        return source
    rows = []
    for number, line in enumerate(source.read_bytes().strip().split(b"\n"), start=1):
        try:
            row = json.loads(line)
            if number == 1 and "query" in row:
                return source
            rows.append(as_on_the_hub(row, with_passage=task != "agieval_sat_en_without_passage"))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise UserError(
                f"evaluate.tasks.{task}.data_files: {source}:{number} is no row of AGIEval ({error!r}): it needs "
                f"passage, question, options and a label among {_LETTERS}, or, as on the hub, query, choices and gold"
            ) from None
    target.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return target


def as_on_the_hub(row: Mapping[str, Any], *, with_passage: bool = True) -> dict[str, Any]:
    """The hub's row {"query", "choices", "gold": [index of the right choice]}, and its passage."""
    options = list(row["options"])
    passage = (row["passage"] or "") if with_passage else ""
    gold = _LETTERS.index(row["label"])
    if gold >= len(options):
        raise ValueError(f"label {row['label']} of {len(options)} options")
    query = (
        f"{passage}Q: {row['question']} Answer Choices: {' '.join(options)}\n"
        f"A: Among A through {_LETTERS[len(options) - 1]}, the answer is"
    )
    return {"query": query, "choices": options, "gold": [gold], "passage": passage}
