"""What the stand-in knows and what it answers: pipelines, versions, experiments, runs, recurring runs."""

import json
import re
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import kfp_server_api

from kfp_server.logs import log_of_api_server, log_of_page
from kfp_server.models import PageError, RefusedError, check_query, matches, parse, read_upload
from kfp_server.runs import Look

PAGE = 2  # items at most: every listing that matters has several pages


@dataclass
class Fault:
    """What goes wrong with the next `times` calls that match `method` and `path` (a regular expression).

    `took_effect`: the call is carried out before; only its answer is lost.
    """

    method: str
    path: str
    kind: str  # "status", "cut" (the connection), "hang" (no answer for `seconds`), "page" (a login page)
    status: int = 500
    headers: dict[str, str] = field(default_factory=dict)
    seconds: float = 3.0
    took_effect: bool = False
    times: int = 1


class KubeflowServer:
    """State and rules.

    `behind_page`: what answers is not the API server but Kubeflow's page (ml-pipeline-ui), which hands on the API's
    calls and has a way to logs of its own. `finds_archived_logs`: as from 2.17 on; before, the API server looked for
    them where none are kept. `requests` holds (method, path) of every call, `headers` those of the last;
    `most_enabled` is the largest number of schedules of one name that were ever enabled together; `health` is what it
    says of itself besides `multi_user`: a release says its name from 2.16 on and its store from 2.14 on, a build from
    the main branch calls itself "master".
    """

    def __init__(self, *, multi_user: bool = False, tokens: set[str] | None = None, behind_page: bool = False) -> None:
        self.multi_user = multi_user
        self.behind_page = behind_page
        self.finds_archived_logs = True
        self.tokens = tokens
        self.health = {"commit_sha": "8a1d8d9", "tag_name": "2.17.0", "pipeline_store": "database"}
        self.pipelines: dict[str, Any] = {}
        self.versions: dict[str, Any] = {}
        self.experiments: dict[str, Any] = {}
        self.runs: dict[str, Any] = {}
        self.recurring_runs: dict[str, Any] = {}
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str]] = []
        self.headers: dict[str, str] = {}
        self.most_enabled = 0
        self.before_answer: Callable[[str, str], None] = lambda method, path: None
        self.frames: list[Look] = []  # what each further look at a run finds
        self.look: Look | None = None  # what the last one found
        self.lock = threading.RLock()

    def calls(self, method: str, path: str) -> int:
        return sum(m == method and re.search(path, p) is not None for m, p in self.requests)

    def answer(self, method: str, path: str, query: dict[str, str], body: bytes, content_type: str) -> Any:
        if self.behind_page and not re.match("/apis/v(1|2)beta1/|/k8s/pod/logs$", path):
            raise PageError(404, f"Cannot {method} {path}")
        for pattern, verb, handler in self._routes():
            if verb == method and (match := re.fullmatch(pattern, path)):
                return handler(query, body, content_type, **match.groupdict())
        raise RefusedError(404, f"Not Found: {method} {path}")

    def _routes(self) -> list[tuple[str, str, Callable]]:
        api = "/apis/v2beta1"
        return [
            (f"{api}/healthz", "GET", self._get_healthz),
            (f"{api}/pipelines", "GET", self._list(self.pipelines, "Pipelines", {"namespace"})),
            (f"{api}/pipelines", "POST", self._create_pipeline),
            (f"{api}/pipelines/(?P<pipeline_id>[^/]+)/versions", "GET", self._list_versions),
            (f"{api}/pipelines/upload_version", "POST", self._upload_version),
            (f"{api}/experiments", "GET", self._list(self.experiments, "Experiments", {"namespace"})),
            (f"{api}/experiments", "POST", self._create_experiment),
            (f"{api}/runs", "GET", self._list(self.runs, "Runs", {"namespace", "experiment_id"})),
            (f"{api}/runs", "POST", self._create_run),
            (f"{api}/runs/(?P<run_id>[^/:]+)", "GET", self._get_run),
            (f"{api}/runs/(?P<run_id>[^/:]+):terminate", "POST", self._terminate_run),
            ("/apis/v1beta1/runs/(?P<run_id>[^/:]+)", "GET", self._get_run_v1),
            ("/apis/v1alpha1/runs/(?P<run_id>[^/]+)/nodes/(?P<node>[^/]+)/log", "GET", self._read_log),
            *([("/k8s/pod/logs", "GET", self._read_log_on_page)] if self.behind_page else []),
            (
                f"{api}/recurringruns",
                "GET",
                self._list(self.recurring_runs, "RecurringRuns", {"namespace", "experiment_id"}),
            ),
            (f"{api}/recurringruns", "POST", self._create_recurring_run),
            (f"{api}/recurringruns/(?P<key>[^/:]+)", "DELETE", self._delete_recurring_run),
            (f"{api}/recurringruns/(?P<key>[^/:]+):(?P<verb>enable|disable)", "POST", self._switch_recurring_run),
        ]

    # Each handler below gets query, body and content type, and returns a model or a dict.

    def _get_healthz(self, query: dict, body: bytes, content_type: str) -> Any:
        return {"multi_user": self.multi_user, **self.health}

    def _create_pipeline(self, query: dict, body: bytes, content_type: str) -> Any:
        pipeline = parse("V2beta1Pipeline", body)
        self._check_namespace(pipeline.namespace, "CreatePipeline")
        if any(
            other.name == pipeline.name and other.namespace == pipeline.namespace for other in self.pipelines.values()
        ):
            raise RefusedError(409, f"Already exist error: The name {pipeline.name} already exist")
        pipeline.pipeline_id, pipeline.created_at = str(uuid.uuid4()), datetime.now(UTC)
        return self.pipelines.setdefault(pipeline.pipeline_id, pipeline)

    def _list_versions(self, query: dict, body: bytes, content_type: str, pipeline_id: str) -> Any:
        self._get(self.pipelines, pipeline_id, "Pipeline")
        of_pipeline = {key: item for key, item in self.versions.items() if item.pipeline_id == pipeline_id}
        return self._list(of_pipeline, "PipelineVersions", set())(query, body, content_type)

    def _upload_version(self, query: dict, body: bytes, content_type: str) -> Any:
        check_query(query, {"name", "pipelineid", "description"})
        pipeline = self._get(self.pipelines, query.get("pipelineid", ""), "Pipeline")
        documents = read_upload(body, content_type)
        name = query["name"]
        if any(other.name == name and other.pipeline_id == pipeline.pipeline_id for other in self.versions.values()):
            raise RefusedError(409, f"Already exist error: The name {name} already exist")
        spec = {"pipeline_spec": documents[0], **({"platform_spec": documents[1]} if len(documents) > 1 else {})}
        version = kfp_server_api.V2beta1PipelineVersion(
            pipeline_id=pipeline.pipeline_id,
            pipeline_version_id=str(uuid.uuid4()),
            display_name=name,
            name=name,
            created_at=datetime.now(UTC),
            pipeline_spec=spec,
        )
        return self.versions.setdefault(version.pipeline_version_id, version)

    def _create_experiment(self, query: dict, body: bytes, content_type: str) -> Any:
        experiment = parse("V2beta1Experiment", body)
        self._check_namespace(experiment.namespace, "CreateExperiment")
        for other in self.experiments.values():
            if (other.display_name, other.namespace) == (experiment.display_name, experiment.namespace):
                raise RefusedError(409, f"Already exist error: The experiment {experiment.display_name} exists")
        experiment.experiment_id, experiment.created_at = str(uuid.uuid4()), datetime.now(UTC)
        return self.experiments.setdefault(experiment.experiment_id, experiment)

    def _create_run(self, query: dict, body: bytes, content_type: str) -> Any:
        run = parse("V2beta1Run", body)
        self._check_job(run)
        run.run_id, run.created_at, run.state = str(uuid.uuid4()), datetime.now(UTC), "PENDING"
        return self.runs.setdefault(run.run_id, run)

    def _get_run(self, query: dict, body: bytes, content_type: str, run_id: str) -> Any:
        run = self._get(self.runs, run_id, "Run")
        if self.frames:
            self.look = self.frames.pop(0) if len(self.frames) > 1 else self.frames[0]
            self.look(run)
        return run

    def _get_run_v1(self, query: dict, body: bytes, content_type: str, run_id: str) -> Any:
        """The older API, of which only what the newer one lacks: toApiRunDetailV1."""
        run = self._get(self.runs, run_id, "Run")
        manifest = {"workflow_manifest": json.dumps(self.look.workflow)} if self.look else {}
        return {"run": {"id": run.run_id, "name": run.display_name}, "pipeline_runtime": manifest}

    def _read_log(self, query: dict, body: bytes, content_type: str, run_id: str, node: str) -> str:
        look = self.look if run_id in self.runs else None
        return log_of_api_server(look, run_id, node, finds_archived=self.finds_archived_logs)

    def _read_log_on_page(self, query: dict, body: bytes, content_type: str) -> str:
        return log_of_page(self.look, query, multi_user=self.multi_user)

    def _terminate_run(self, query: dict, body: bytes, content_type: str, run_id: str) -> Any:
        self._get(self.runs, run_id, "Run").state = "CANCELING"
        return {}

    def _create_recurring_run(self, query: dict, body: bytes, content_type: str) -> Any:
        item = parse("V2beta1RecurringRun", body)
        self._check_job(item)
        if not 1 <= int(item.max_concurrency) <= 10:
            raise RefusedError(400, f"The max concurrency of the recurring run is out of range: {item.max_concurrency}")
        schedule = item.trigger and item.trigger.cron_schedule
        if schedule is None or len(schedule.cron.split()) != 6:
            raise RefusedError(400, "Schedule cron is not a supported format")
        item.recurring_run_id, item.created_at = str(uuid.uuid4()), datetime.now(UTC)
        item.status = "ENABLED" if item.mode == "ENABLE" else "DISABLED"
        self.recurring_runs[item.recurring_run_id] = item
        self._count_enabled(item.display_name)
        return item

    def _delete_recurring_run(self, query: dict, body: bytes, content_type: str, key: str) -> Any:
        self._get(self.recurring_runs, key, "RecurringRun")
        del self.recurring_runs[key]
        return {}

    def _switch_recurring_run(self, query: dict, body: bytes, content_type: str, key: str, verb: str) -> Any:
        item = self._get(self.recurring_runs, key, "RecurringRun")
        item.mode, item.status = ("ENABLE", "ENABLED") if verb == "enable" else ("DISABLE", "DISABLED")
        self._count_enabled(item.display_name)
        return {}

    def _count_enabled(self, name: str) -> None:
        enabled = [r for r in self.recurring_runs.values() if r.display_name == name and r.mode == "ENABLE"]
        self.most_enabled = max(self.most_enabled, len(enabled))

    def _list(self, items: dict[str, Any], name: str, scopes: set[str]) -> Callable:
        def handler(query: dict, body: bytes, content_type: str) -> Any:
            check_query(query, {"page_token", "page_size", "sort_by", "filter", *scopes})
            namespace = query.get("namespace", "")
            if not self.multi_user and namespace:
                raise RefusedError(400, f"In single-user mode, List{name} cannot filter by namespace.")
            found = [
                item
                for item in items.values()
                if matches(item, query.get("filter"))
                and (not namespace or self._namespace(item) == namespace)
                and query.get("experiment_id") in (None, getattr(item, "experiment_id", None))
            ]
            start = int(query.get("page_token") or 0)
            size = min(int(query.get("page_size") or PAGE), PAGE)
            attribute = re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
            return getattr(kfp_server_api, f"V2beta1List{name}Response")(
                **{attribute: found[start : start + size] or None},
                total_size=len(found),
                next_page_token=str(start + size) if start + size < len(found) else None,
            )

        return handler

    def _namespace(self, item: Any) -> str | None:
        if isinstance(item, kfp_server_api.V2beta1Run | kfp_server_api.V2beta1RecurringRun):
            return self.experiments[item.experiment_id].namespace
        return item.namespace

    def _check_namespace(self, namespace: str | None, call: str) -> None:
        if self.multi_user and not namespace:
            raise RefusedError(400, f"{call}: Namespace is empty.")
        if not self.multi_user and namespace:
            raise RefusedError(400, f"In single-user mode, {call} takes no namespace.")

    def _check_job(self, job: Any) -> None:
        """A run or recurring run: of an experiment and a version that exist, with parameters that the pipeline has."""
        self._get(self.experiments, job.experiment_id, "Experiment")
        reference = job.pipeline_version_reference
        version = self._get(self.versions, reference.pipeline_version_id, "PipelineVersion")
        if version.pipeline_id != reference.pipeline_id:
            raise RefusedError(400, "The version is of another pipeline")
        known = version.pipeline_spec["pipeline_spec"]["root"].get("inputDefinitions", {}).get("parameters", {})
        for name, value in (job.runtime_config.parameters or {}).items():
            if name not in known:
                raise RefusedError(400, f"The pipeline has no parameter {name}")
            if known[name]["parameterType"] == "STRING" and not isinstance(value, str):
                raise RefusedError(400, f"The parameter {name} must be a string")

    @staticmethod
    def _get(items: dict[str, Any], key: str | None, kind: str) -> Any:
        if key not in items:
            raise RefusedError(404, f"ResourceNotFoundError: {kind} {key} not found")
        return items[key]
