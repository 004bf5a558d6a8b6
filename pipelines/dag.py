"""The Kubeflow DAG of a recipe. Imports kfp and the components' wrappers: neither torch nor Beam."""

import inspect
from collections.abc import Callable
from typing import Any

from kfp import dsl

from components.evaluate.component import evaluate
from components.extract_students.component import extract_students
from components.find_data.component import find_data, record_span, renew_lease
from components.gate.component import gate
from components.merge_evaluations.component import merge_evaluations
from components.plan_evaluation.component import plan_evaluation
from components.prepare_data.component import prepare_data
from components.push.component import push
from components.report.component import report
from components.score_teacher.component import score_teacher
from components.train.component import train
from components.train_teacher.component import train_teacher
from matta_core.recipe import PUSHED, Recipe
from pipelines.kubeflow.cluster import ClusterProfile
from pipelines.kubeflow.placement import launch_config, place

# They read or change what is served, or say what was done: never taken from Kubeflow's cache. Our own keys know of what
# is served.
UNCACHED = ("find_data", "plan_evaluation", "evaluate", "gate", "push", "report", "renew_lease", "record_span")


def _is_cached(step: str, recipe: Recipe, cluster: ClusterProfile | None) -> bool:
    """Whether Kubeflow may take the step's result from its cache, whose key holds settings, inputs and image alone.

    Not where the step reads what that key does not see: files, buckets and the hub. Not with a store, in which our own
    keys find finished work, and from which a folder may have been deleted.
    """
    reads_outside = {
        "prepare_data": recipe.retrain is not None
        or (recipe.prepare_data.source, recipe.prepare_data.tokenizer) != ("stdlib", None),
        "train_teacher": recipe.train_teacher is not None and recipe.train_teacher.start_from is not None,
        "score_teacher": recipe.score_teacher.teacher is not None,
        "train": recipe.train.start_from is not None,
    }
    stored = cluster and cluster.store
    return not (stored or step in UNCACHED or reads_outside.get(step, False))


def build_pipeline(recipe: Recipe, cluster: ClusterProfile | None = None) -> Callable[..., Any]:
    """From prepare_data to report, with train_teacher where the recipe says how; placed as the profile says, if any.

    Each step's settings are a pipeline parameter, one JSON string, with the recipe's as its default: a run can be
    started with others, and a step's cache key holds its own settings only. `store` is a directory in which every
    piece of work gets a folder named by its key; without it, artifacts lie where Kubeflow puts them.

    A recipe with `retrain` is for a cluster's schedule: find_data comes first, all the rest only where there is new
    data, renew_lease before the evaluation and before push, record_span after push; `scheduled_time` is the parameter
    for Kubeflow's [[ScheduledTime]]. It has no output.
    """

    def step(component: Any, **arguments: Any) -> dsl.PipelineTask:
        name = component.name.replace("-", "_")
        if cluster is not None and (launch := launch_config(name, cluster)):
            arguments["launch_config"] = launch
        task = component(**arguments)
        task.set_caching_options(_is_cached(name, recipe, cluster))
        if cluster is not None:
            place(task, name, cluster)
        return task

    def steps(
        *,
        store: str,
        name: str,
        prepare_data_config: str,
        train_teacher_config: str,
        score_teacher_config: str,
        train_config: str,
        extract_students_config: str,
        evaluate_config: str,
        gate_config: str,
        push_config: str,
        renewed: Callable[[dsl.PipelineTask], list[dsl.PipelineTask]] = lambda task: [],
        **source: Any,
    ) -> tuple[dsl.PipelineTask, Any]:
        """The report's task, and what push recorded. `renewed(task)`: what else to wait for once `task` has ended."""
        prepared = step(
            prepare_data, config=prepare_data_config, evaluate_config=evaluate_config, store=store, **source
        )
        data = prepared.outputs["dataset"]
        teacher = {}
        if recipe.train_teacher:
            trained = step(train_teacher, config=train_teacher_config, store=store, dataset=data)
            teacher = {"teacher_checkpoint": trained.outputs["checkpoint"]}
        scored = step(score_teacher, config=score_teacher_config, store=store, dataset=data, **teacher)
        scores = scored.outputs["scores"]
        # Only then: push's settings are else no part of what train's cache is known by.
        begins = {"push_config": push_config} if recipe.train.start_from == PUSHED else {}
        fitted = step(train, config=train_config, store=store, dataset=data, scores=scores, **begins)
        checkpoint = fitted.outputs["checkpoint"]
        extracted = step(
            extract_students, config=extract_students_config, store=store, checkpoint=checkpoint, dataset=data
        )
        students = extracted.outputs["students"]
        to_evaluate = {
            "config": evaluate_config,
            "score_teacher_config": score_teacher_config,
            "push_config": push_config,
            "store": store,
            "dataset": data,
            "students": students,
            **teacher,
        }
        if cluster is None:  # torch and lm-eval start once
            evaluation = step(evaluate, **to_evaluate).after(*renewed(extracted)).outputs["report"]
        else:  # each model in a pod of its own; what is served is read once, before them
            planned = step(plan_evaluation, push_config=push_config, students=students).after(*renewed(extracted))
            plan, models = planned.outputs["plan"], planned.outputs["models"]
            with dsl.ParallelFor(models, name="evaluate-models") as model:
                part = step(evaluate, plan=plan, model=model, **to_evaluate).outputs["report"]
            evaluation = step(merge_evaluations, store=store, parts=dsl.Collected(part)).outputs["report"]
        decided = step(gate, config=gate_config, store=store, evaluation=evaluation, students=students)
        decision = decided.outputs["decision"]
        pushed = step(
            push, config=push_config, store=store, decision=decision, students=students, evaluation=evaluation
        ).after(*renewed(decided))
        record = pushed.outputs["record"]
        reported = step(
            report,
            store=store,
            name=name,
            dataset=data,
            checkpoint=checkpoint,
            students=students,
            evaluation=evaluation,
            decision=decision,
            record=record,
            scores=scores,
            **teacher,
        )
        return reported, record

    def steps_where_data_is_new(*, retrain_config: str, scheduled_time: str, **parameters: str) -> None:
        known = {
            "config": retrain_config,
            "push_config": parameters["push_config"],
            "name": parameters["name"],
            "run": dsl.PIPELINE_JOB_ID_PLACEHOLDER,  # the same when a step or the run is tried again
        }
        source = step(find_data, **known, scheduled_time=scheduled_time).output

        def renewed(task: dsl.PipelineTask) -> list[dsl.PipelineTask]:
            return [step(renew_lease, **known, source=source).after(task)]

        with dsl.If(source != "none", name="new data"):
            _, record = steps(**parameters, source=source, renewed=renewed)
            # What was pushed is noted even where the report fails.
            step(record_span, **known, source=source, record=record)

    parameters = {
        "store": (cluster and cluster.store) or "",
        "name": recipe.name,
        "prepare_data_config": recipe.prepare_data.to_json(),
        "train_teacher_config": recipe.train_teacher.to_json() if recipe.train_teacher else "",
        "score_teacher_config": recipe.score_teacher.to_json(),
        "train_config": recipe.train.to_json(),
        "extract_students_config": recipe.extract_students.to_json(),
        "evaluate_config": recipe.evaluate.to_json(),
        "gate_config": recipe.gate.to_json(),
        "push_config": recipe.push.to_json(),
    }
    if recipe.retrain is not None:
        parameters |= {"retrain_config": recipe.retrain.to_json(), "scheduled_time": ""}

    def matta(*values: Any) -> Any:
        given = dict(zip(parameters, values, strict=True))
        if recipe.retrain is not None:
            return steps_where_data_is_new(**given)
        return steps(**given)[0].outputs["report"]

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
