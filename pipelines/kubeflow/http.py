"""HTTP below kfp's client: how long it waits, and what it takes for an answer."""

import json
from dataclasses import dataclass
from typing import Any

import kfp_server_api
from kfp_server_api.exceptions import ApiException
from kfp_server_api.rest import RESTClientObject

from pipelines.kubeflow.errors import KubeflowError, shortened

TEXT = "text/plain"


@dataclass(frozen=True)
class Patience:
    """How long to wait for an answer, and how often to ask again."""

    connect_seconds: float = 10
    read_seconds: float = 60
    attempts: int = 5
    backoff_seconds: float = 1  # then twice as long each time
    longest_wait_seconds: int = 60  # also where Retry-After says more


PATIENCE = Patience()


class Rest(RESTClientObject):
    """kfp's HTTP layer, which by itself waits for ever and takes a login page for an empty answer."""

    def __init__(self, configuration: kfp_server_api.Configuration, patience: Patience) -> None:
        super().__init__(configuration)
        self._configuration = configuration
        self._timeout = (patience.connect_seconds, patience.read_seconds)

    def request(self, method: str, url: str, headers: dict[str, str] | None = None, **arguments: Any) -> Any:
        """The base class's request with a timeout. After a 401 it tries once more if the token has changed since."""
        headers = dict(headers or {})
        arguments["_request_timeout"] = arguments.get("_request_timeout") or self._timeout
        try:
            # The base class takes Content-Type out of the headers of an upload: each try gets its own.
            response = super().request(method, url, headers=dict(headers), **arguments)
        except ApiException as error:
            token = self._configuration.get_api_key_with_prefix("authorization")
            if error.status != 401 or token in (None, headers.get("authorization")):
                raise
            response = super().request(method, url, headers={**headers, "authorization": token}, **arguments)
        if headers.get("Accept") == TEXT and "text/html" not in response.urllib3_response.headers.get(
            "Content-Type", ""
        ):
            return response
        try:
            json.loads(response.data)
        except ValueError:
            raise KubeflowError(
                f"{url} answered with something that is not JSON, perhaps a login page: check --host, and give "
                f"--token-file: {shortened(response.data)}",
                2,
            ) from None
        return response
