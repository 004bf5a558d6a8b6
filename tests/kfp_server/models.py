"""What a request must be: the official models of kfp_server_api, and kfp's protos for what is uploaded."""

import email
import email.policy
import json
from typing import Any

import kfp_server_api
import yaml
from dateutil.parser import isoparse
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2

_NATIVE = {"str": str, "int": int, "bool": bool, "float": (int, float)}


class RefusedError(Exception):
    """A request that the server answers with an error, as grpc-gateway words it."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class PageError(RefusedError):
    """Told by Kubeflow's page, as HTML."""


def parse(model: str, body: bytes) -> Any:
    """The official model of a JSON body. Raises: RefusedError for a field, type or enum value that it does not have."""
    try:
        data = json.loads(body)
    except ValueError as error:
        raise RefusedError(400, f"the body is not JSON: {error}") from None
    check(data, model, model)
    client = kfp_server_api.ApiClient(kfp_server_api.Configuration())
    assert client.client_side_validation
    return client.deserialize(type("Response", (), {"data": body})(), model)


def check(data: Any, kind: str, where: str) -> None:
    """What the models' own setters leave unchecked."""
    if kind == "object":
        return
    if kind.startswith("list["):
        if not isinstance(data, list):
            raise RefusedError(400, f"{where}: not a list: {data!r}")
        for item in data:
            check(item, kind[5:-1], where)
    elif kind.startswith("dict("):
        for key, item in data.items():
            check(item, kind[5:-1].split(", ", 1)[1], f"{where}.{key}")
    elif kind == "datetime":
        if isoparse(data).tzinfo is None:
            raise RefusedError(400, f"{where}: no RFC 3339 time: {data!r}")
    elif kind in _NATIVE:
        # protojson takes a number for an int64, which the models call str.
        if not isinstance(data, _NATIVE[kind]) and not (kind == "str" and type(data) is int):
            raise RefusedError(400, f"{where}: not {kind}: {data!r}")
    elif allowed := getattr(getattr(kfp_server_api, kind), "allowable_values", None):
        if data not in allowed:
            raise RefusedError(400, f"{where}: not among {allowed}: {data!r}")
    else:
        model = getattr(kfp_server_api, kind)
        types = {model.attribute_map[name]: item for name, item in model.openapi_types.items()}
        for key, item in data.items():
            if key not in types:
                raise RefusedError(400, f'{where}: unknown field "{key}"')
            check(item, types[key], f"{where}.{key}")


def matches(item: Any, text: str | None) -> bool:
    """Whether an item passes a filter, checked with the official model."""
    if not text:
        return True
    for predicate in parse("V2beta1Filter", text.encode()).predicates:
        if predicate.operation != "EQUALS" or predicate.key not in type(item).openapi_types:
            raise RefusedError(400, f"this stand-in knows no filter {predicate}")
        if getattr(item, predicate.key) != predicate.string_value:
            return False
    return True


def check_query(query: dict[str, str], known: set[str]) -> None:
    if unknown := query.keys() - known:
        raise RefusedError(400, f"unknown query parameters: {unknown}")


def read_upload(body: bytes, content_type: str) -> list[dict]:
    """The documents of an uploaded package, as kfp's protos read them."""
    message = email.message_from_bytes(
        b"Content-Type: " + content_type.encode() + b"\r\n\r\n" + body, policy=email.policy.HTTP
    )
    (part,) = message.iter_parts()
    if part.get_param("name", header="content-disposition") != "uploadfile":
        raise RefusedError(400, "the form has no uploadfile")
    documents = list(yaml.safe_load_all(part.get_content()))
    try:
        for document, proto in zip(
            documents, (pipeline_spec_pb2.PipelineSpec, pipeline_spec_pb2.PlatformSpec), strict=False
        ):
            json_format.ParseDict(document, proto())
    except json_format.ParseError as error:
        raise RefusedError(400, f"Failed to parse the pipeline: {error}") from None
    return documents
