"""Errors between a user and Kubeflow, in one line: the host, what happened, what to do."""

import contextlib
import json
from collections.abc import Iterator

import urllib3
from kfp_server_api.exceptions import ApiException

_LONGEST_MESSAGE = 300
_LEADS_ELSEWHERE = "the address leads elsewhere, perhaps to a login page: give the final one, or --token-file"
_IN_TROUBLE = "the server is in trouble: look at the pods ml-pipeline, or try again later"
_REMEDIES = {
    400: "the request was refused for what the message says",
    401: "give a valid token by --token-file, or renew the one that is there",
    403: "ask for the role kubeflow-pipelines-edit in that namespace, or give another --namespace or --token-file",
    404: "it is gone, or this address is no Kubeflow Pipelines: check --host",
    409: "it exists already: choose another name",
    413: "the pipeline is larger than the server takes",
    429: "the server is asked too often: try again later",
}


class KubeflowError(RuntimeError):
    """Kubeflow refused (exit status 2: the user can mend it) or gave no useful answer (exit status 5)."""

    def __init__(self, message: str, exit_status: int) -> None:
        super().__init__(message)
        self.exit_status = exit_status


@contextlib.contextmanager
def errors_explained(host: str) -> Iterator[None]:
    """Turn the errors of kfp's client into a KubeflowError of one line: the host, what happened, what to do."""
    try:
        yield
    except ApiException as error:
        status = error.status or 0
        refused = 300 <= status < 500 and status not in (408, 429)
        remedy = _REMEDIES.get(status, _LEADS_ELSEWHERE if status < 400 else _REMEDIES[400] if refused else _IN_TROUBLE)
        said = _server_message(error)
        raise KubeflowError(
            f"{host} answered {status} {error.reason}{f': {said}' if said else ''}; {remedy}", 2 if refused else 5
        ) from error
    except urllib3.exceptions.HTTPError as error:
        reason = getattr(error, "reason", None) or error
        if isinstance(reason, urllib3.exceptions.SSLError):
            raise KubeflowError(
                f"{host}: its certificate cannot be verified ({shortened(str(reason))}); give its authority's "
                "certificate by --ca-cert",
                2,
            ) from error
        raise KubeflowError(
            f"{host} gave no answer ({type(reason).__name__}: {shortened(str(reason))}); check --host, and that the "
            "server is up",
            5,
        ) from error


def _server_message(error: ApiException) -> str:
    """The server's message, without its stack trace."""
    try:
        body = json.loads(error.body)
        return shortened(str(body.get("message") or body.get("error") or ""))
    except (ValueError, TypeError, AttributeError):
        return shortened(error.body or "")


def shortened(text: str | bytes) -> str:
    text = " ".join((text.decode("utf-8", "replace") if isinstance(text, bytes) else text).split())
    return text if len(text) <= _LONGEST_MESSAGE else text[:_LONGEST_MESSAGE] + "…"
