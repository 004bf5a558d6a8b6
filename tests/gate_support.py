"""An EvaluationReport and its StudentFamily, built by hand from the contract; figures by formulas of their own."""

import json
import math
from collections import defaultdict

import numpy as np

from components.gate.decision import decide
from components.gate.evaluation import read_report
from matta_core.artifacts import digest_of, finish_artifact, open_artifact
from matta_core.recipe import GateConfig

BITS, TOKEN = "matta_bits_per_byte", "matta_last_token"
SIZES = {"s": 1000, "m": 2000, "l": 4000}
DOCUMENTS, LINES = 40, 3


class Evaluation:
    """What a test changes before it is written: `questions`, `values` by model, `results`, `family`; `altered_rows`
    by model: what becomes of its rows; `sealed_set`: the evaluation set in the manifest.

    Bits per byte: 40 documents of uneven bytes. Last token: three lines of each. The students are better than what is
    served by 0.2 bits per byte, with little noise, and right on as many lines.
    """

    def __init__(self, folder):
        self.folder, self.altered_rows = folder, {}
        self.questions = [self._question(BITS, n, n, 500.0 + 97 * (n * 7 % 40)) for n in range(DOCUMENTS)]
        self.questions += [self._question(TOKEN, n, n // LINES, 1.0) for n in range(DOCUMENTS * LINES)]
        generator = np.random.default_rng(0)
        hardness, luck = generator.normal(0, 0.3, DOCUMENTS), generator.random(DOCUMENTS * LINES)
        self.values = {}
        levels = {"s": 2.4, "m": 2.2, "l": 2.0, "teacher": 1.8}
        levels |= {f"baseline-{name}": levels[name] + 0.2 for name in SIZES}
        for name, level in levels.items():
            noise = generator.normal(0, 0.02, DOCUMENTS)
            # A line in thirty is right for one model and wrong for the other.
            right = (luck + np.where(generator.random(DOCUMENTS * LINES) < 0.03, 0.5, 0.0)) % 1.0 < 0.6
            self.values[name] = [*(level + hardness + noise), *right.astype(float)]
        self.family = {
            "student": "s",
            "ta": "l",
            "students": {
                name: {
                    "path": name,
                    "parameters": count,
                    "bytes": 4 * count,
                    "flops_per_token": 2 * count,
                    "certificate": {"bitwise_equal": True},
                }
                for name, count in SIZES.items()
            },
        }
        self.results = {
            "tasks": {
                BITS: self._task("bits_per_byte", "bits per byte", False, DOCUMENTS),
                TOKEN: self._task("acc", "accuracy", True, DOCUMENTS * LINES),
            },
            "models": {name: self._model(name) for name in self.values},
            "baselines": {name: f"baseline-{name}" for name in SIZES},
            "baseline_target": "pushed",
        }
        self.results["evaluation_set"] = digest_of(
            {name: task["digest"] for name, task in self.results["tasks"].items()}
        )
        self.sealed_set = self.results["evaluation_set"]
        self.refigure()

    def refigure(self, *models):
        """Make the figures of results.json those of the values again."""
        for name in models or self.values:
            self.results["models"][name]["tasks"] = {task: self._figure(name, task) for task in (BITS, TOKEN)}

    def places(self, task):
        return [place for place, question in enumerate(self.questions) if question["task"] == task]

    def shift(self, model, task, by):
        """Add to a model's values of a task."""
        for place in self.places(task):
            self.values[model][place] += by
        self.refigure(model)

    def without_baselines(self, *names):
        for name in names or SIZES:
            self.results["baselines"][name] = None
            self.results["models"].pop(f"baseline-{name}")
            self.values.pop(f"baseline-{name}")

    def write(self):
        """The paths of the two artifacts."""
        evaluation, students = self.folder / "evaluation", self.folder / "students"
        (evaluation / "documents").mkdir(parents=True)
        students.mkdir()
        (students / "family.json").write_text(json.dumps(self.family))
        (evaluation / "results.json").write_text(json.dumps(self.results))
        self._write_lines(evaluation / "questions.jsonl", self.questions)
        for name, values in self.values.items():
            rows = [
                {"task": question["task"], "question": question["question"], "value": value}
                for question, value in zip(self.questions, values, strict=True)
            ]
            rows = self.altered_rows.get(name, list)(rows)
            self._write_lines(evaluation / "documents" / f"{name}.jsonl", rows)
        family = finish_artifact(students, "StudentFamily", key="f")
        finish_artifact(
            evaluation,
            "EvaluationReport",
            key="e",
            inputs={"students": family.digest},
            metadata={"evaluation_set": self.sealed_set},
        )
        return evaluation, students

    def decide(self, **config):
        evaluation, _ = self.write()
        report = read_report(open_artifact(evaluation, "EvaluationReport"))
        return decide(GateConfig.from_dict(config, "gate"), self.family, report)

    @staticmethod
    def _question(task, index, document, weight):
        slices = {"length": ("short", "medium", "long")[document % 3], "source": "few" if document < 5 else "many"}
        return {"task": task, "question": index, "document": f"d{document}", "weight": weight, "slices": slices}

    @staticmethod
    def _task(metric, unit, higher_is_better, questions):
        return {
            "metric": metric,
            "higher_is_better": higher_is_better,
            "unit": unit,
            "version": "1",
            "digest": digest_of([metric]),
            "questions": questions,
            "documents": DOCUMENTS,
        }

    @staticmethod
    def _model(name):
        return {
            "role": "baseline" if name.startswith("baseline") else "teacher" if name == "teacher" else "student",
            "size": name.removeprefix("baseline-"),
            "version": "0123456789abcdef" if name.startswith("baseline") else None,
            "prefill": {"1": {"seconds": 0.01}, "8": {"seconds": 0.05}},
            "decode": {"1": {"seconds_per_token": 0.002}, "8": {"seconds_per_token": 0.004}},
            "peak_memory_bytes": 1_000_000,
        }

    def _figure(self, model, task):
        sums = defaultdict(lambda: [0.0, 0.0])
        places = self.places(task)
        for place in places:
            question = self.questions[place]
            sums[question["document"]][0] += question["weight"] * self.values[model][place]
            sums[question["document"]][1] += question["weight"]
        y, x = np.array(list(sums.values())).T
        ratio, n = y.sum() / x.sum(), len(x)
        error = math.sqrt(n / (n - 1) * ((y - ratio * x) ** 2).sum()) / x.sum()
        return {"value": ratio, "standard_error": error, "questions": len(places), "documents": n}

    @staticmethod
    def _write_lines(path, values):
        path.write_text("".join(json.dumps(value) + "\n" for value in values))


def failed(decision, name):
    """(check, task) of what a student failed."""
    return [(check["check"], check["task"]) for check in decision["students"][name]["checks"] if not check["passed"]]


def check_of(decision, student, name, task=None, slice_name=None):
    (found,) = [
        check
        for check in decision["students"][student]["checks"]
        if (check["check"], check["slice"]) == (name, slice_name) and task in (None, check["task"])
    ]
    return found


def comparison_of(decision, student, task, slice_name=None):
    (found,) = [
        comparison
        for comparison in decision["students"][student]["comparisons"]
        if (comparison["task"], comparison["slice"]) == (task, slice_name)
    ]
    return found
