"""The results of all models: each is scored on the same questions, then its costs are measured. Needs torch."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from components.common.step_runner import say
from components.evaluate import catalogue, questions, scoring, tasks
from components.evaluate.baselines import Baseline, fetch_all
from components.evaluate.candidates import Candidate, baseline_candidates
from components.evaluate.costs import costs
from components.evaluate.figures import summarise
from matta_core.artifacts import IN_PROGRESS, Artifact, write_json_atomically
from matta_core.artifacts.kinds.evaluation import QUESTIONS, RESULTS, ModelResults, Place, Results, Task, TaskFigure
from matta_core.distributed import pick_device
from matta_core.errors import UserError
from matta_core.objectives import OBJECTIVE
from matta_core.pretrained import load_config, load_model, load_tokenizer, moved
from matta_core.progress import progress
from matta_core.recipe import EvaluateConfig
from matta_core.tokens import as_in_training, num_token_ids

# Tokens written per sequence when decoding is timed, but at most half of the shortest context.
NEW_TOKENS = 16


def evaluate_all(
    config: EvaluateConfig,
    dataset: Artifact,
    candidates: Mapping[str, Candidate],
    baselines: Mapping[str, Baseline | None],
    target: str | None,
    path: Path,
    *,
    only: str | None = None,
    shortest_baseline: int | None = None,
) -> dict[str, Any]:
    """Write an EvaluationReport to `path` and return its metadata. `candidates` has no baselines: these are fetched
    here.

    `only` names the one model of a part. `shortest_baseline` is then the number of tokens that all baselines see at
    once.
    """
    # All models trained here have one tokenizer and see the same tokens. The Teacher shares its vocabulary.
    tokenizer = as_in_training(load_tokenizer(dataset.path / "tokenizer"))
    asked = _evaluation_set(config, dataset, candidates, tokenizer, path)
    fetched = {
        size: baseline for size, baseline in baselines.items() if only is None or (baseline and baseline.name == only)
    }
    everyone = dict(candidates) | baseline_candidates(
        fetched, fetch_all(target, fetched, path / IN_PROGRESS / "baselines")
    )
    shortest = _shortest_context(dataset, everyone)
    if only is not None:
        shortest = min(shortest, shortest_baseline or shortest)
        everyone = {only: everyone[only]}
    _check_room(asked, shortest)
    cut = questions.cut_questions(asked, lambda text: len(tokenizer.encode(text)), shortest)
    for name, number in cut.items():
        if number:
            say(
                "evaluate",
                f"{name}: {number} of {asked.descriptions[name]['questions']} questions are longer than the {shortest} "
                f"tokens that all models see at once: their beginnings are cut off",
            )

    device = pick_device()
    results: dict[str, ModelResults] = {}
    with progress(len(everyone), "evaluate", "models") as bar:
        for name, candidate in everyone.items():
            values = _values(
                candidate, tokenizer, asked, config.batch_size, device, path / "documents" / f"{name}.jsonl"
            )
            figures = summarise(asked.questions, values)
            results[name] = {
                "role": candidate.role,
                "size": candidate.size,
                "version": candidate.version,
                "digest": candidate.digest,
                "tasks": figures,
            }
            with bar.external_write_mode():
                say("evaluate", f"{name}: {_told(figures, asked.descriptions)}")
            bar.update()

    for size, baseline in baselines.items():
        if baseline is not None and baseline.is_student and size in results:
            results[size]["version"] = baseline.version
    place = _place(device, shortest)
    for name, cost in costs(everyone, device, place["sequence_length"], place["new_tokens"], config.latency_repeats):
        results[name] |= cost
    say(
        "evaluate",
        "a token in "
        + ", ".join(
            f"{name} {1e3 * model['decode']['1']['seconds_per_token']:.2f} ms" for name, model in results.items()
        ),
    )
    write_json_atomically(path / RESULTS, _content(asked, cut, results, baselines, target, place))
    return {"evaluation_set": asked.digest, "models": list(everyone)}


def _evaluation_set(
    config: EvaluateConfig,
    dataset: Artifact,
    candidates: Mapping[str, Candidate],
    tokenizer: PreTrainedTokenizerBase,
    path: Path,
) -> questions.EvaluationSet:
    """The questions of the built-in tasks and of the recipe's. Writes tasks/ and questions.jsonl, and makes documents/.

    The baselines' contexts do not count here: what is served now must not change what is asked.
    """
    shortest = _shortest_context(dataset, candidates)
    work = path / IN_PROGRESS
    with scoring.quiet():
        tasks.write_tasks(dataset.path, path / "tasks", config, tokenizer, shortest)
        built_in = tasks.load_tasks(path / "tasks", work / "datasets")
        asked = questions.build([*built_in, *catalogue.load_tasks(config.tasks, work / "catalogue")])
    questions.write_questions(path / QUESTIONS, asked)
    # A killed process may have got other questions from the hub than this one, which goes on with its work.
    of_finished = work / "evaluation_set"
    if of_finished.exists() and of_finished.read_text() != asked.digest:
        shutil.rmtree(path / "documents")
    of_finished.write_text(asked.digest)
    (path / "documents").mkdir(exist_ok=True)
    return asked


def _shortest_context(dataset: Artifact, candidates: Mapping[str, Candidate]) -> int:
    """The number of tokens that all models see at once; at most the length that students were trained on."""
    configs = [load_config(candidate.path) for candidate in candidates.values()]
    return min(dataset.metadata["sequence_length"], *map(scoring.context_length, configs))


def _check_room(asked: questions.EvaluationSet, shortest: int) -> None:
    for task in asked.tasks:
        if task.new_tokens >= shortest:
            raise UserError(
                f"evaluate.tasks.{task.name} has a model write {task.new_tokens} tokens, and a prompt before them, but "
                f"not all models see more than {shortest} at once: leave it out"
            )


def _values(
    candidate: Candidate,
    tokenizer: PreTrainedTokenizerBase,
    asked: questions.EvaluationSet,
    batch_size: int,
    device: torch.device,
    file: Path,
) -> list[float | None]:
    """The model's value for every question. It is read from its file, or else scored and written there."""
    if not file.exists():
        # All models are scored in fp32: in half precision, figures would depend on how a batch was padded.
        model = moved(load_model(candidate.path, OBJECTIVE.model_class, torch.float32), device).eval()
        values = scoring.score(model, _tokenizer(candidate, tokenizer), asked, batch_size)
        unfinished = file.parent.parent / IN_PROGRESS / file.name
        lines = (
            {"task": question["task"], "question": question["question"], "value": value}
            for question, value in zip(asked.questions, values, strict=True)
        )
        unfinished.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        unfinished.replace(file)
    return [json.loads(line)["value"] for line in file.read_text(encoding="utf-8").splitlines()]


def _tokenizer(candidate: Candidate, tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """The tokenizer for a model. A baseline uses its own, if it has one. Bits per byte and strings compare fairly
    across tokenizers; the last token of a line does not.
    """
    if candidate.role != "baseline":
        return tokenizer
    folder = Path(candidate.path)
    if (folder / "tokenizer_config.json").is_file():
        return as_in_training(load_tokenizer(folder))
    vocab_size = load_config(candidate.path).vocab_size
    if vocab_size != num_token_ids(tokenizer):
        raise UserError(
            f"{folder} is served now and has no tokenizer, and a vocabulary of {vocab_size} tokens where the dataset's "
            f"has {num_token_ids(tokenizer)}: put its tokenizer's files beside its weights, and push that"
        )
    return tokenizer


def _place(device: torch.device, shortest: int) -> Place:
    new_tokens = min(NEW_TOKENS, shortest // 2)
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "sequence_length": shortest - new_tokens,
        "new_tokens": new_tokens,
    }


def _content(
    asked: questions.EvaluationSet,
    cut: Mapping[str, int],
    models: dict[str, ModelResults],
    baselines: Mapping[str, Baseline | None],
    target: str | None,
    place: Place,
) -> Results:
    """Of results.json."""
    return {
        "evaluation_set": asked.digest,
        "tasks": {name: {**told, "cut_questions": cut.get(name, 0)} for name, told in asked.descriptions.items()},
        "models": models,
        "baselines": {size: baseline.name if baseline else None for size, baseline in baselines.items()},
        "baseline_target": target,
        "measured_on": place,
    }


def _told(figures: Mapping[str, TaskFigure], descriptions: Mapping[str, Task]) -> str:
    def one(task: str) -> str:
        value, error = figures[task]["value"], figures[task]["standard_error"]
        digits = ".1%" if descriptions[task]["unit"] == "accuracy" else ".3f"
        return f"{task} not finite" if value is None else f"{task} {value:{digits}} ± {error:{digits}}"

    return ", ".join(map(one, descriptions))
