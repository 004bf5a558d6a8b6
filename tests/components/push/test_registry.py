"""Registration, against a server that checks every body with the model-registry package's own models of its API."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit

import pytest
from mr_openapi.models.model_artifact import ModelArtifact
from mr_openapi.models.model_version_create import ModelVersionCreate
from mr_openapi.models.registered_model_create import RegisteredModelCreate
from pydantic import ValidationError

from components.common.served.pointer import read_pointer
from components.common.storage.open_storage import open_storage
from matta_core.errors import UserError
from matta_core.recipe import PushConfig

API = "/api/model_registry/v1"


class Registry(ThreadingHTTPServer):
    """Kubeflow Model Registry, as far as push uses it; it refuses what is there already, as the real one does."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.models, self.versions, self.artifacts = {}, {}, {}
        self.requests, self.refuse_after, self.token = [], None, None

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        url = urlsplit(self.path)
        query = dict(parse_qsl(url.query))
        kind = url.path.removeprefix(f"{API}/")
        parent = {"registered_model": None}.get(kind, query.get("parentResourceId"))
        table = {
            "registered_model": self.server.models,
            "model_version": self.server.versions,
            "model_artifact": self.server.artifacts,
        }
        self.answer("GET", url.path, lambda: table[kind].get((parent, query["name"])))

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        path = self.path.removeprefix(f"{API}/")
        if path == "registered_models":
            create, table, parent = RegisteredModelCreate, self.server.models, None
        elif path == "model_versions":
            create, table, parent = ModelVersionCreate, self.server.versions, body["registeredModelId"]
        else:
            _, parent, last = path.split("/")
            assert last == "artifacts"
            create, table = ModelArtifact, self.server.artifacts
        self.answer("POST", self.path, lambda: self.create(create, table, parent, body))

    def create(self, model, table, parent, body):
        """Strictly: a field that the API does not know is an error, too."""
        made = model.from_dict(body)
        unknown = body.keys() - {field.alias or name for name, field in model.model_fields.items()}
        if unknown or (parent, made.name) in table:
            raise ValueError(f"unknown {unknown}, or {made.name} is there already")
        entry = body | {"id": str(1 + len(self.server.models) + len(self.server.versions) + len(self.server.artifacts))}
        table[(parent, made.name)] = entry
        return entry

    def answer(self, verb, path, find):
        server = self.server
        server.requests.append(f"{verb} {path.removeprefix(API)}")
        if server.token and self.headers.get("Authorization") != f"Bearer {server.token}":
            return self.send(401, {"code": "401", "message": "who are you?"})
        if server.refuse_after is not None and len(server.requests) > server.refuse_after:
            return self.send(503, {"code": "503", "message": "out of order"})
        try:
            found = find()
        except (ValueError, ValidationError) as error:
            return self.send(400, {"code": "400", "message": str(error)})
        if found is None:
            return self.send(404, {"code": "404", "message": "not found"})
        return self.send(200 if verb == "GET" else 201, found)

    def send(self, status, value):
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def registry():
    server = Registry()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def record_of(artifact):
    return json.loads((artifact.path / "push.json").read_text())["students"]


def test_pushed_versions_are_registered_with_their_place_and_where_they_come_from(
    registry, target, made, push_to, queried, tmp_path
):
    record = record_of(push_to(target, made, tmp_path / "record", registry=registry.url))
    for size in ("s", "xl"):
        model = registry.models[(None, f"matta-{size}")]
        version = registry.versions[(model["id"], record[size]["version"])]
        (artifact,) = [entry for (parent, _), entry in registry.artifacts.items() if parent == version["id"]]
        assert artifact["uri"] == record[size]["path"]
        assert artifact["modelFormatName"] == "huggingface"
        properties = version["customProperties"]
        assert properties["content_digest"]["string_value"] == record[size]["digest"]
        assert properties["parameters"]["int_value"] == {"s": "1000", "xl": "4000"}[size]
        assert {"students", "decision", "evaluation"} <= properties.keys()
        assert record[size]["registered"] == f"{registry.url}{API}/model_versions/{version['id']}"
    assert record["m"]["registered"] is None
    assert len(registry.models) == 2


def test_registering_again_makes_nothing_and_gives_the_same_record(registry, made, push_to, queried, tmp_path):
    settings = {"registry": registry.url}
    first = push_to(tmp_path / "pushed", made, tmp_path / "record", **settings)
    made_before = [request for request in registry.requests if request.startswith("POST")]
    second = push_to(tmp_path / "pushed", made, tmp_path / "record", **settings)
    assert second.digest == first.digest
    assert [request for request in registry.requests if request.startswith("POST")] == made_before
    assert len(made_before) == 6


def test_a_new_version_joins_the_model_that_is_there(registry, make, push_to, queried, tmp_path):
    for content in ("first", "second"):
        push_to(tmp_path / "pushed", make(content), tmp_path / content, registry=registry.url)
    assert (len(registry.models), len(registry.versions), len(registry.artifacts)) == (2, 4, 4)


@pytest.mark.parametrize("requests", range(6))
def test_a_registry_that_fails_in_between_is_told_and_recorded_and_the_next_push_completes_it(
    registry, made, push_to, queried, tmp_path, capsys, requests
):
    registry.refuse_after = requests
    target = tmp_path / "pushed"
    artifact = push_to(target, made, tmp_path / "record", registry=registry.url)
    record = record_of(artifact)
    assert record["s"]["pushed"] is True
    assert record["s"]["registered"] is None
    assert "did not register matta-s" in record["s"]["registry_error"]
    assert "out of order" in record["s"]["registry_error"]
    assert read_pointer(open_storage(str(target)), "s").version == record["s"]["version"]
    assert "[push] s: pushed, but NOT registered: http://127" in capsys.readouterr().out
    registry.refuse_after = None
    record = record_of(push_to(target, made, tmp_path / "record", registry=registry.url))
    assert record["s"]["registry_error"] is None
    assert (len(registry.models), len(registry.versions), len(registry.artifacts)) == (2, 2, 2)


def test_a_registry_that_is_not_there_is_told_and_the_push_stands(made, push_to, queried, tmp_path):
    record = record_of(push_to(tmp_path / "pushed", made, tmp_path / "record", registry="http://127.0.0.1:9"))
    assert record["s"]["pushed"] is True
    assert record["s"]["registry_error"].startswith("http://127.0.0.1:9 did not register matta-s")


def test_an_answer_that_makes_no_sense_is_told_and_the_push_stands(
    registry, made, push_to, queried, tmp_path, monkeypatch
):
    monkeypatch.setattr(Handler, "do_GET", lambda handler: handler.send(200, ["this is", "no registry"]))
    record = record_of(push_to(tmp_path / "pushed", made, tmp_path / "record", registry=registry.url))
    assert record["s"]["pushed"] is True
    assert "did not register matta-s" in record["s"]["registry_error"]


def test_the_token_of_the_file_is_sent(registry, made, push_to, queried, tmp_path):
    registry.token = "open sesame"
    (tmp_path / "token").write_text("open sesame\n")
    settings = {"registry": registry.url, "registry_token_file": str(tmp_path / "token")}
    assert record_of(push_to(tmp_path / "pushed", made, tmp_path / "one", **settings))["s"]["registered"]
    (tmp_path / "token").write_text("open barley")
    record = record_of(push_to(tmp_path / "pushed", made, tmp_path / "two", **settings))
    assert "who are you?" in record["s"]["registry_error"]


def test_a_token_that_cannot_be_read_is_told_before_anything_is_pushed(registry, made, push_to, queried, tmp_path):
    settings = {"registry": registry.url, "registry_token_file": str(tmp_path / "none")}
    with pytest.raises(UserError, match=r"cannot read push\.registry_token_file .*none"):
        push_to(tmp_path / "pushed", made, tmp_path / "record", **settings)
    assert not (tmp_path / "pushed").exists()


@pytest.mark.parametrize(
    "url",
    ["http://registry.example.com", "http://10.0.0.7:8080", "http://svc.example.com/x.svc", "http://[2001:db8::1]"],
)
def test_a_token_does_not_go_over_plain_http(url):
    with pytest.raises(UserError, match=r"push\.registry must be an https:// URL where there is a registry_token_file"):
        PushConfig.from_dict({"target": "pushed", "registry": url, "registry_token_file": "token"}, "push")
    PushConfig.from_dict({"target": "pushed", "registry": url}, "push")  # nothing secret is sent


@pytest.mark.parametrize(
    "url",
    [
        "https://registry.example.com",
        "http://localhost:8080",
        "http://127.0.0.2",
        "http://[::1]:80",
        "http://model-registry-service.kubeflow.svc.cluster.local:8080",
        "http://model-registry-service.kubeflow.svc:8080",
    ],
)
def test_a_token_goes_over_https_and_within_the_machine_or_the_cluster(url):
    config = PushConfig.from_dict({"target": "pushed", "registry": url, "registry_token_file": "token"}, "push")
    assert config.registry == url


def test_what_is_no_url_is_refused_when_the_recipe_is_read():
    with pytest.raises(UserError, match=r"push\.registry must be an http:// or https:// URL, got 'registry:8080'"):
        PushConfig.from_dict({"target": "x", "registry": "registry:8080"}, "push")
