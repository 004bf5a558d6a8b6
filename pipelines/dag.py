"""The Kubeflow DAG of a recipe. Imports kfp and the components' wrappers: neither torch nor Beam."""

import importlib
import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from kfp import dsl

from matta_core.recipe import PUSHED, Recipe
from pipelines.cluster import ClusterProfile
from pipelines.placement import launch_config, place
from pipelines.steps import STEPS, Step

MakeTask = Callable[..., dsl.PipelineTask]


def build_pipeline(recipe: Recipe, cluster: ClusterProfile | None = None) -> Callable[..., Any]:
    """From prepare_data to report, with train_teacher where the recipe says how; placed as the profile says, if any.

    Each step's settings are a pipeline parameter, one JSON string, with the recipe's as its default: a run can be
    started with others, and a step's cache key holds its own settings only. `store` is a directory in which every
    piece of work gets a folder named by its key; without it, artifacts lie where Kubeflow puts them.

    A recipe with `retrain` is for a cluster's schedule. find_data comes first, and the other steps run only where it
    found new data; renew_lease runs before the evaluation and before push, record_span after push. `scheduled_time` is
    the parameter for Kubeflow's [[ScheduledTime]]. This pipeline has no output.
    """
    parameters = _parameters(recipe, cluster)

    def matta(*values: Any) -> Any:
        step = partial(_task, recipe, cluster, dict(zip(parameters, values, strict=True)))
        if recipe.retrain is not None:
            return _steps_where_data_is_new(step, recipe, cluster)
        return _steps(step, recipe, cluster)[0].outputs["report"]

    # kfp reads a pipeline's parameters from its signature: here they depend on the recipe.
    signature = inspect.Signature(
        [
            inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default, annotation=str)
            for name, default in parameters.items()
        ],
        return_annotation=inspect.Signature.empty if recipe.retrain else dsl.Artifact,
    )
    setattr(matta, "__signature__", signature)  # noqa: B010 - no attribute that functions are known to have
    name = f"matta-{recipe.name.replace('_', '-').lower()}"
    return dsl.pipeline(matta, name=name, description="Teacher, TA and nested Students")


def component_of(step: Step) -> Any:
    """The Kubeflow component that the step's row names."""
    return getattr(importlib.import_module(f"components.{step.folder}.component"), step.name)


def _parameters(recipe: Recipe, cluster: ClusterProfile | None) -> dict[str, str]:
    """The pipeline's parameters with their defaults; a section that the recipe leaves out is empty."""
    sections = [step.section for step in STEPS.values() if step.section and not step.only_on_cluster]
    settings = {section: getattr(recipe, section) for section in sections}
    parameters = {"store": (cluster and cluster.store) or "", "name": recipe.name}
    parameters |= {f"{section}_config": config.to_json() if config else "" for section, config in settings.items()}
    if recipe.retrain is not None:
        parameters |= {"retrain_config": recipe.retrain.to_json(), "scheduled_time": ""}
    return parameters


def _task(
    recipe: Recipe,
    cluster: ClusterProfile | None,
    parameters: dict[str, Any],
    name: str,
    /,
    *,
    also: Sequence[str] = (),
    **wired: Any,
) -> dsl.PipelineTask:
    """A task of the step. What its component requires, and `also`, it gets from the pipeline's parameters by name, its
    `config` from that of its section; all else is wired."""
    step = STEPS[name]
    component = component_of(step)
    known = parameters | ({"config": parameters[f"{step.section}_config"]} if step.section else {})
    required = [asked for asked, spec in component.component_spec.inputs.items() if not spec.optional]
    if launch := launch_config(name, cluster):
        wired["launch_config"] = launch
    task = component(**{asked: known[asked] for asked in (*required, *also) if asked in known}, **wired)
    # Our own keys find finished work in a store, from which a folder may have been deleted.
    task.set_caching_options(step.cached(recipe) and not (cluster and cluster.store))
    if cluster is not None:
        place(task, name, cluster)
    return task


def _steps(
    step: MakeTask,
    recipe: Recipe,
    cluster: ClusterProfile | None,
    renewed: Callable[[dsl.PipelineTask], list[dsl.PipelineTask]] = lambda task: [],
    **source: Any,
) -> tuple[dsl.PipelineTask, Any]:
    """The report's task, and what push recorded. `renewed(task)`: what else to wait for once `task` has ended."""
    data = step("prepare_data", **source).outputs["dataset"]
    teacher: dict[str, Any] = {}
    if recipe.train_teacher:
        teacher = {"teacher_checkpoint": step("train_teacher", dataset=data).outputs["checkpoint"]}
    # Only where they are needed: other steps' settings are else no part of what train's cache is known by.
    also = ["push_config"] if recipe.train.start_from == PUSHED else []
    scores: dict[str, Any] = {}
    if recipe.score_teacher.online:
        also.append("score_teacher_config")
    else:
        scores = {"scores": step("score_teacher", dataset=data, **teacher).outputs["scores"]}
    checkpoint = step("train", also=also, dataset=data, **(scores or teacher)).outputs["checkpoint"]
    extracted = step("extract_students", checkpoint=checkpoint, dataset=data)
    students = extracted.outputs["students"]
    to_evaluate = {"dataset": data, "students": students, **teacher}
    if cluster is None:  # torch and lm-eval start once
        evaluation = step("evaluate", **to_evaluate).after(*renewed(extracted)).outputs["report"]
    else:  # each model in a pod of its own; what is served is read once, before them
        planned = step("plan_evaluation", students=students).after(*renewed(extracted))
        with dsl.ParallelFor(planned.outputs["models"], name="evaluate-models") as model:
            part = step("evaluate", plan=planned.outputs["plan"], model=model, **to_evaluate).outputs["report"]
        evaluation = step("merge_evaluations", parts=dsl.Collected(part)).outputs["report"]
    decided = step("gate", evaluation=evaluation, students=students)
    decision = decided.outputs["decision"]
    pushed = step("push", decision=decision, students=students, evaluation=evaluation).after(*renewed(decided))
    reported = step(
        "report",
        dataset=data,
        checkpoint=checkpoint,
        students=students,
        evaluation=evaluation,
        decision=decision,
        record=pushed.outputs["record"],
        **scores,
        **teacher,
    )
    return reported, pushed.outputs["record"]


def _steps_where_data_is_new(step: MakeTask, recipe: Recipe, cluster: ClusterProfile | None) -> None:
    run = {"run": dsl.PIPELINE_JOB_ID_PLACEHOLDER}  # the same when a step or the run is tried again
    source = step("find_data", **run).output

    def renewed(task: dsl.PipelineTask) -> list[dsl.PipelineTask]:
        return [step("renew_lease", **run, source=source).after(task)]

    with dsl.If(source != "none", name="new data"):
        _, record = _steps(step, recipe, cluster, renewed, source=source)
        # What was pushed is noted even where the report fails.
        step("record_span", **run, source=source, record=record)
