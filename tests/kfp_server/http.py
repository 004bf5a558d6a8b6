"""The stand-in's HTTP side: requests in, answers out, and faults on request."""

import contextlib
import json
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import kfp_server_api

from kfp_server.models import PageError, RefusedError
from kfp_server.rules import KubeflowServer

_CODES = {400: 3, 401: 16, 403: 7, 404: 5, 409: 6}  # of grpc


@contextlib.contextmanager
def serving(server: KubeflowServer, certificate: ssl.SSLContext | None = None) -> Iterator[str]:
    """The address at which `server` answers until the end of the block."""
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), _handler(server))
    httpd.daemon_threads = True
    if certificate:
        httpd.socket = certificate.wrap_socket(httpd.socket, server_side=True)
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"{'https' if certificate else 'http'}://127.0.0.1:{httpd.server_address[1]}"
    finally:
        httpd.shutdown()
        httpd.server_close()
        thread.join()


def _handler(server: KubeflowServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._serve()

        do_POST = do_GET  # noqa: N815
        do_DELETE = do_GET  # noqa: N815

        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            url = urlsplit(self.path)
            with server.lock:
                server.requests.append((self.command, url.path))
                server.headers = dict(self.headers)
                fault = next(
                    (f for f in server.faults if f.times and f.method == self.command and re.search(f.path, url.path)),
                    None,
                )
                if fault:
                    fault.times -= 1
                status, answer = 200, {}
                if not fault or fault.took_effect:
                    status, answer = self._carry_out(url, body)
                server.before_answer(self.command, url.path)
            if fault is None:
                self._send(status, answer, kind="text/plain" if status == 200 else "text/html")
            elif fault.kind == "status":
                self._send(fault.status, {"error": "injected", "message": "injected"}, fault.headers)
            elif fault.kind == "page":
                self._send(fault.status, "<html>Please log in</html>", fault.headers, "text/html")
            else:
                if fault.kind == "hang":
                    time.sleep(fault.seconds)
                self.close_connection = True
                with contextlib.suppress(OSError):
                    self.connection.shutdown(socket.SHUT_RDWR)

        def _carry_out(self, url: Any, body: bytes) -> tuple[int, Any]:
            try:
                token = self.headers.get("Authorization", "").removeprefix("Bearer ")
                if server.tokens is not None and token not in server.tokens:
                    raise RefusedError(401, "Request header error: there is no valid token")
                query = dict(parse_qsl(url.query, keep_blank_values=True))
                answer = server.answer(self.command, url.path, query, body, self.headers.get("Content-Type", ""))
                return 200, kfp_server_api.ApiClient().sanitize_for_serialization(answer)
            except PageError as error:
                return error.status, f"<pre>{error}</pre>"
            except RefusedError as error:
                return error.status, {"error": str(error), "code": _CODES[error.status], "message": str(error)}

        def _send(
            self, status: int, answer: Any, headers: dict[str, str] | None = None, kind: str = "text/plain"
        ) -> None:
            content = (answer if isinstance(answer, str) else json.dumps(answer)).encode()
            with contextlib.suppress(OSError):
                self.send_response(status)
                self.send_header("Content-Type", kind if isinstance(answer, str) else "application/json")
                self.send_header("Content-Length", str(len(content)))
                for name, value in (headers or {}).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    return Handler
