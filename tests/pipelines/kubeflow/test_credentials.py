"""Tokens, certificates, and what kfp finds by itself."""

import json
import socket
import ssl
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from kfp_server import KubeflowServer, serving

from matta_core.errors import UserError
from pipelines.kubeflow.client import connect


@pytest.fixture
def token_file(tmp_path):
    file = tmp_path / "token"
    file.write_text("old\n")
    return file


@pytest.fixture
def guarded(impatient):
    return KubeflowServer(tokens={"old"})


@pytest.fixture
def guarded_host(guarded):
    with serving(guarded) as address:
        yield address


def test_a_token_is_read_again_when_its_file_changes(guarded, guarded_host, token_file):
    client = connect(guarded_host, token_file=token_file)
    client.list_experiments()
    guarded.tokens = {"new"}
    token_file.write_text("new")
    client.list_experiments()
    assert guarded.headers["authorization"] == "Bearer new"


def test_a_token_that_is_renewed_while_a_request_is_under_way_is_tried_once_more(guarded, guarded_host, token_file):
    client = connect(guarded_host, token_file=token_file)
    guarded.tokens = {"new"}
    guarded.before_answer = lambda method, path: token_file.write_text("new")
    client.list_experiments()
    assert guarded.calls("GET", "/experiments$") == 2


def test_a_token_that_stays_wrong_is_tried_once(guarded, guarded_host, token_file, command):
    token_file.write_text("wrong")
    status, _, error = command("schedule", "--host", guarded_host, "--token-file", token_file, "--list")
    assert status == 2
    assert "answered 401 Unauthorized: Request header error: there is no valid token; give a valid token" in error
    assert len(guarded.requests) == 1


@pytest.mark.parametrize(("text", "problem"), [("", "it is empty"), ("two words", "it is not one")])
def test_a_token_file_holds_one_token(guarded_host, token_file, command, text, problem):
    token_file.write_text(text)
    status, _, error = command("schedule", "--host", guarded_host, "--token-file", token_file, "--list")
    assert status == 2
    assert f"{token_file} must hold one token and nothing else: {problem}" in error


def test_the_service_accounts_token_is_taken_where_kubernetes_projects_one(
    guarded, guarded_host, token_file, monkeypatch
):
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(token_file))
    connect(guarded_host)
    assert guarded.headers["authorization"] == "Bearer old"


@pytest.fixture
def projected(token_file, monkeypatch):
    monkeypatch.setattr("kfp.client.KF_PIPELINES_SA_TOKEN_PATH", str(token_file))


@pytest.fixture
def everywhere_is_here(monkeypatch):
    """Every name is this machine's."""
    resolve = socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, *arguments, **named: resolve("127.0.0.1", *arguments, **named)
    )


@pytest.mark.parametrize("name", ["ml-pipeline.kubeflow.svc", "ml-pipeline.kubeflow.svc.cluster.local"])
def test_the_projected_token_is_for_the_clusters_own_kubeflow(
    guarded, guarded_host, projected, everywhere_is_here, name
):
    connect(guarded_host.replace("127.0.0.1", name))
    assert guarded.headers["authorization"] == "Bearer old"


@pytest.mark.parametrize(
    "name", ["127.0.0.1", "kubeflow.example.com", "ml-pipeline.kubeflow.svc.cluster.local.example"]
)
def test_the_projected_token_goes_to_no_other_host(kubeflow, projected, everywhere_is_here, name):
    with serving(kubeflow) as host:
        connect(host.replace("127.0.0.1", name))
    assert "authorization" not in kubeflow.headers


def test_a_token_file_that_the_environment_names_must_be_there(guarded_host, command, monkeypatch):
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", "/nowhere")
    status, _, error = command("schedule", "--host", guarded_host, "--list")
    assert status == 2
    assert "cannot read the token in /nowhere" in error


@pytest.mark.parametrize(
    "name",
    ["kubeflow.example.com", "10.0.0.1", "localhost@example.com", "example.com\\@localhost", "x.svc.example.com"],
)
@pytest.mark.parametrize("by_environment", [False, True])
def test_a_token_is_not_sent_over_plain_http_through_a_network(
    guarded, guarded_host, token_file, everywhere_is_here, command, monkeypatch, name, by_environment
):
    options = ["--token-file", token_file]
    if by_environment:
        monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(token_file))
        options = []
    host = guarded_host.replace("127.0.0.1", name)
    status, _, error = command("schedule", "--host", host, *options, "--list")
    assert status == 2
    assert f"--host {host}: a token is not sent over http://" in error
    assert error.endswith("give the host's https:// address\n")
    assert not guarded.requests


@pytest.mark.parametrize("name", ["localhost", "127.0.0.2", "[::1]", "ml-pipeline.kubeflow.svc"])
def test_a_token_is_sent_over_plain_http_within_the_machine_and_the_cluster(
    guarded, guarded_host, token_file, everywhere_is_here, name
):
    connect(guarded_host.replace("127.0.0.1", name), token_file=token_file)
    assert guarded.headers["authorization"] == "Bearer old"


def test_a_token_that_kfp_finds_by_itself_is_not_sent_over_plain_http_either(impatient, monkeypatch):
    monkeypatch.setenv("KF_PIPELINES_IAP_OAUTH2_CLIENT_ID", "id")
    monkeypatch.setattr("kfp.client.auth.get_auth_token", lambda *_: ("found", True))
    with pytest.raises(UserError, match="a token is not sent over http://"):
        connect("http://kubeflow.example.com")


def test_a_token_file_goes_before_kfps_own_credentials(guarded, guarded_host, token_file, monkeypatch):
    monkeypatch.setenv("KF_PIPELINES_IAP_OAUTH2_CLIENT_ID", "would open a browser")
    connect(guarded_host, token_file=token_file)
    assert guarded.headers["authorization"] == "Bearer old"


def test_the_cookie_and_the_namespace_that_kfp_keeps_are_used_and_left_as_they_are(impatient, tmp_path):
    server = KubeflowServer(multi_user=True)
    context = tmp_path / "home" / ".config" / "kfp" / "context.json"
    context.parent.mkdir(parents=True)
    kept = {"namespace": "ada", "client_authentication_cookie": "authservice_session=abc"}
    context.write_text(json.dumps(kept))
    with serving(server) as host:
        assert connect(host).get_user_namespace() == "ada"
        assert server.headers["Cookie"] == "authservice_session=abc"
        assert connect(host, namespace="bob").get_user_namespace() == "bob"
    assert json.loads(context.read_text()) == kept


def certificate(name, issuer=None, address="127.0.0.1"):
    """A certificate and its key; without an issuer, an authority's own."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    issuer_certificate, issuer_key = issuer or (None, key)
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer_certificate.subject if issuer_certificate else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address(address))]), critical=False)
    )
    return builder.sign(issuer_key, hashes.SHA256()), key


def pem(folder, name, certificate_and_key):
    made, key = certificate_and_key
    certificate_file, key_file = folder / f"{name}.pem", folder / f"{name}.key"
    certificate_file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return certificate_file, key_file


def serving_https(server, folder, authority, address="127.0.0.1"):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*pem(folder, "server", certificate("server", authority, address)))
    return serving(server, context)


def test_a_private_authority_is_trusted_where_it_is_named(kubeflow, tmp_path, command):
    authority = certificate("authority")
    trusted, _ = pem(tmp_path, "authority", authority)
    with serving_https(kubeflow, tmp_path, authority) as host:
        assert command("schedule", "--host", host, "--ca-cert", trusted, "--list")[0] == 0
        assert len(kubeflow.requests) == 2


def test_a_certificate_that_does_not_verify_is_refused_at_once(kubeflow, tmp_path, command):
    authority = certificate("authority")
    other, _ = pem(tmp_path, "other", certificate("other"))
    trusted, _ = pem(tmp_path, "authority", authority)
    with serving_https(kubeflow, tmp_path, authority) as host:
        for options in ((), ("--ca-cert", other)):
            status, _, error = command("schedule", "--host", host, *options, "--list")
            assert status == 2
            assert f"error: {host}: its certificate cannot be verified" in error
            assert "--ca-cert" in error
    with serving_https(kubeflow, tmp_path, authority, address="127.0.0.2") as host:
        status, _, error = command("schedule", "--host", host, "--ca-cert", trusted, "--list")
        assert status == 2
        assert "its certificate cannot be verified" in error
    assert kubeflow.requests == []


def test_there_is_no_switch_that_turns_verification_off(command):
    for name in ("submit", "schedule"):
        _, said, _ = command(name, "--help")
        assert "insecure" not in said
        assert "no-verify" not in said
