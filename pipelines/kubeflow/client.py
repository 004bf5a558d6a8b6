"""The connection to a Kubeflow: kfp's own client with timeouts, retries and a token file.

urllib3 retries reads and deletions (below). `answered_once` retries creations: it first looks whether the one without
an answer took effect.
"""

import contextlib
import json
import os
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import kfp_server_api
import urllib3
from kfp import client as kfp_client
from kfp_server_api.exceptions import ApiException

from matta_core.errors import UserError
from pipelines.kubeflow.credentials import (
    check_certificates,
    host_name,
    keeps_secrets,
    read_token,
    service_accounts_token,
)
from pipelines.kubeflow.errors import KubeflowError, errors_explained, shortened
from pipelines.kubeflow.http import PATIENCE, TEXT, Patience, Rest

# Where Kubeflow's API is, and where the token for it is projected, inside the cluster.
_HOST_IN_CLUSTER = "http://ml-pipeline.kubeflow.svc.cluster.local:8888"
_TRY_AGAIN = (429, 500, 502, 503, 504)
_HEALTH = "/apis/v2beta1/healthz"


class Client(kfp_client.Client):
    """kfp.Client that writes nothing to the user's home, retries, and gives up in time."""

    def __init__(
        self, host: str, token_file: Path | None, ca_cert: Path | None, ui_host: str | None, patience: Patience
    ) -> None:
        self.host = host
        self.patience = patience
        self._token_file = token_file
        self._health: dict[str, Any] | None = None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # it warns that it does not work with Kubeflow Pipelines 1
            super().__init__(
                host=host,
                # kfp prefers it to all other credentials; `_load_config` has it read anew for each request.
                existing_token=read_token(token_file) if token_file else None,
                ssl_ca_cert=str(ca_cert) if ca_cert else None,
                ui_host=ui_host,
            )
        self._be_patient()

    @property
    def is_multi_user(self) -> bool:
        return bool(self.get_kfp_healthz().multi_user)

    @property
    def health(self) -> dict[str, Any]:
        """The server's own account of itself, asked once. kfp's model of it lacks the release.

        Raises: KubeflowError where the answer is not Kubeflow's.
        """
        if self._health is None:
            self._be_patient()  # kfp's constructor may ask
            said = json.loads(self._get(_HEALTH, "application/json"))
            if not isinstance(said, dict):
                raise KubeflowError(
                    f"{self.host} answered {shortened(repr(said))}: this is no Kubeflow Pipelines, check --host", 2
                )
            self._health = said
        return self._health

    def get_kfp_healthz(self, sleep_duration: int = 0) -> kfp_server_api.V2beta1GetHealthzResponse:
        """What kfp asks for. Its own method asks five times, without a timeout, and prints tracebacks."""
        return kfp_server_api.V2beta1GetHealthzResponse(
            multi_user=self.health.get("multi_user"), pipeline_store=self.health.get("pipeline_store")
        )

    def set_user_namespace(self, namespace: str) -> None:
        """Set it for this client only. kfp's own method writes it to ~/.config/kfp/context.json."""
        self._context_setting["namespace"] = namespace

    def workflow(self, run_id: str) -> dict[str, Any]:
        """The run's Argo workflow, as Kubeflow's database holds it.

        v2beta1 gives neither a task's pod nor its error (toApiPipelineTaskDetail in backend/src/apiserver). v1beta1
        gives both, and kfp has no generated method for it.

        Raises: KubeflowError where the answer holds no workflow.
        """
        answer = json.loads(self._get(f"/apis/v1beta1/runs/{quote(run_id)}", "application/json"))
        try:
            workflow = json.loads(answer["pipeline_runtime"]["workflow_manifest"])
            workflow["metadata"]["name"], workflow["status"]["nodes"]
        except (KeyError, TypeError, ValueError):
            raise KubeflowError(f"{self.host} tells no workflow of run {run_id}", 5) from None
        return workflow

    def pod_log(self, run_id: str, pod: str, *, namespace: str, day: str) -> str:
        """What a pod's main container wrote: read from the pod, or from an archive where there is one.

        kfp has no generated method for it. The API server answers one address; where Kubeflow's page stands before the
        server, it answers another of its own (backend/src/apiserver/main.go, frontend/server/app.ts). `day` is the day
        on which the workflow was made, YYYY-MM-DD.

        Raises: KubeflowError where there is no log.
        """
        try:
            text = self._get(f"/apis/v1alpha1/runs/{quote(run_id)}/nodes/{quote(pod)}/log", TEXT)
        except ApiException as error:
            if error.status != 404:
                raise
            where = {"podname": pod, "runid": run_id, "podnamespace": namespace, "createdat": day}
            return self._get(f"/k8s/pod/logs?{urlencode(where)}", TEXT)
        # The server answers 200 before it looks for the log (run_log_server.go): an error may stand in the body.
        with contextlib.suppress(ValueError):
            said = json.loads(text)
            if isinstance(said, dict) and said.keys() <= {"error_message", "error_details"} and said:
                raise KubeflowError(shortened(said.get("error_message", "")) or "the log is not there", 5)
        return text

    def run_link(self, run_id: str) -> str:
        return f"{self._get_url_prefix().rstrip('/')}/#/runs/details/{run_id}"

    def recurring_run_link(self, recurring_run_id: str) -> str:
        return f"{self._get_url_prefix().rstrip('/')}/#/recurringrun/details/{recurring_run_id}"

    def _get(self, path: str, accept: str) -> str:
        """The body of an answer for which kfp has no method, or no complete model."""
        api_client = self._run_api.api_client
        headers = {"Accept": accept, **({"Cookie": api_client.cookie} if api_client.cookie else {})}
        api_client.update_params_for_auth(headers, [], ["Bearer"])
        answer = api_client.request("GET", f"{api_client.configuration.host}{path}", headers=headers)
        return answer.data.decode(errors="replace")

    def _load_config(self, *arguments: Any) -> kfp_server_api.Configuration:
        config = super()._load_config(*arguments)
        if config.api_key.get("authorization") and not keeps_secrets(self.host):
            raise UserError(
                f"--host {self.host}: a token is not sent over http://, where others can read it, except to localhost "
                "and to services of the cluster (*.svc, *.svc.cluster.local): give the host's https:// address"
            )
        if self._token_file:
            config.refresh_api_key_hook = lambda c: c.api_key.update(authorization=read_token(self._token_file))
        # urllib3 retries idempotent methods. Creations are POSTs: it retries them only where the connection was never
        # made. A certificate that does not verify ("other") will not verify the next time.
        tries = self.patience.attempts - 1
        config.retries = urllib3.Retry(
            total=tries,
            other=0,
            redirect=0,
            raise_on_redirect=False,
            raise_on_status=False,
            allowed_methods=["GET", "DELETE"],
            status_forcelist=_TRY_AGAIN,
            backoff_factor=self.patience.backoff_seconds,
            backoff_max=self.patience.longest_wait_seconds,
            retry_after_max=self.patience.longest_wait_seconds,
        )
        return config

    def _be_patient(self) -> None:
        api_client = self._run_api.api_client  # all of kfp's services share it
        if not isinstance(api_client.rest_client, Rest):
            api_client.rest_client = Rest(api_client.configuration, self.patience)


def connect(
    host: str | None,
    *,
    namespace: str | None = None,
    usual_namespace: str | None = None,
    token_file: Path | None = None,
    ca_cert: Path | None = None,
    ui_host: str | None = None,
) -> Client:
    """A client in the right namespace, to which the server has answered.

    Credentials are looked for in this order: `token_file` (read for each request, so that it can be renewed); the
    service account's token, from the file that KF_PIPELINES_SA_TOKEN_PATH names or, for a host in the cluster, from
    where Kubernetes projects it; whatever kfp.Client finds: the cookie in ~/.config/kfp/context.json, the client of
    KF_PIPELINES_IAP_OAUTH2_CLIENT_ID. A token is sent only over https, to this machine, or to a service of the cluster.
    TLS certificates are always verified, against the public authorities or, with `ca_cert`, against those in it.

    `usual_namespace` is taken where the server has several users and nobody named a namespace; a server for a single
    user has none.

    Raises: UserError for an impossible option; KubeflowError where the server refuses, or gives no answer.
    """
    host = host or os.environ.get(kfp_client.client.KF_PIPELINES_ENDPOINT_ENV)
    if not host and "KUBERNETES_SERVICE_HOST" in os.environ:
        host = _HOST_IN_CLUSTER
    if not host:
        raise UserError(
            "--host is missing: give the address of Kubeflow Pipelines, such as https://kubeflow.example.com/pipeline, "
            "or http://localhost:8080 behind `kubectl port-forward -n kubeflow svc/ml-pipeline-ui 8080:80`"
        )
    if "://" not in host:
        host = f"https://{host}"
    if not host.startswith(("https://", "http://")):
        raise UserError(f"--host must begin with https:// or http://, got {host}")
    if not host_name(host):
        raise UserError(f"--host must be an address such as https://kubeflow.example.com/pipeline, got {host}")
    if ca_cert is not None:
        check_certificates(ca_cert)
    if token_file is None:
        token_file = service_accounts_token(host)
    with errors_explained(host):
        client = Client(host, token_file, ca_cert, ui_host, PATIENCE)
        is_multi_user = client.is_multi_user
    if is_multi_user:
        namespace = namespace or client.get_user_namespace() or usual_namespace
        if not namespace:
            raise UserError(f"{host} serves several users: name yours by --namespace")
        client.set_user_namespace(namespace)
    elif namespace:
        raise UserError(f"{host} serves a single user and knows no namespaces: leave out --namespace {namespace}")
    else:
        client.set_user_namespace("")
    return client


def answered_once(client: Client, call: Callable[[], Any], find: Callable[[], Any]) -> Any:
    """The result of `call`, a creation. Where its answer is lost, unclear or "exists already", the result of `find`.

    `find` looks the thing up by its unique name, after a pause in which a slow server may finish. It returns None where
    the thing is not there, and `call` is tried again. If `find` can never find it, `call` must be harmless to repeat.
    """
    for attempt in range(client.patience.attempts):
        try:
            return call()
        except (ApiException, urllib3.exceptions.ProtocolError, urllib3.exceptions.ReadTimeoutError) as error:
            status = getattr(error, "status", None)
            if isinstance(error, ApiException) and status not in (409, *_TRY_AGAIN):
                raise
            if status != 409:
                time.sleep(_pause(error, attempt, client.patience))
            if (found := find()) is not None:
                return found
            if status == 409 or attempt == client.patience.attempts - 1:
                raise
    raise AssertionError("at least one attempt")


def every(list_page: Callable[..., Any], items: str, **arguments: Any) -> Iterator[Any]:
    """All items of a listing, page by page."""
    token = ""
    while True:
        page = list_page(page_token=token, page_size=100, **arguments)
        yield from getattr(page, items) or []
        token = page.next_page_token
        if not token:
            return


def by_display_name(name: str) -> str:
    """The filter that keeps what is called `name`."""
    return json.dumps({"predicates": [{"operation": "EQUALS", "key": "display_name", "string_value": name}]})


def _pause(error: Exception, attempt: int, patience: Patience) -> float:
    wait = patience.backoff_seconds * 2**attempt
    headers = getattr(error, "headers", None) or {}
    if headers.get("Retry-After"):
        with contextlib.suppress(ValueError, urllib3.exceptions.InvalidHeader):
            wait = max(wait, urllib3.Retry().parse_retry_after(headers["Retry-After"]))
    return min(wait, patience.longest_wait_seconds)
