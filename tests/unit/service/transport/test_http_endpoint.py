"""The HTTP pages, driven through the real request handler on a connection of bytes in memory."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

import pytest

from service.metrics import Metrics
from service.repository.lifecycle import VersionStatus
from service.transport import http_endpoint
from service.transport.http_endpoint import HttpEndpoint
from tests.unit.service.samples import bare_servable


class Connection:
    """A socket that holds a request and keeps the response."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self.response = b""
        self.timeouts: list[float] = []

    def makefile(self, *_: object) -> io.BytesIO:
        return io.BytesIO(self._request)

    def sendall(self, data: bytes) -> None:
        self.response += bytes(data)

    def settimeout(self, seconds: float) -> None:
        self.timeouts.append(seconds)


class FakeServer:
    """Stands where ThreadingHTTPServer binds."""

    made: FakeServer

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        FakeServer.made = self
        self.server_address = (address[0], 4242)
        self.handler = handler
        self.stopped = threading.Event()
        self.closed = False

    def serve_forever(self) -> None:
        self.stopped.wait(10)

    def shutdown(self) -> None:
        self.stopped.set()

    def server_close(self) -> None:
        self.closed = True


class FakeLifecycle:
    def statuses(self) -> list[VersionStatus]:
        return [
            VersionStatus("<b>", 1, "READY"),
            VersionStatus("a", 2, "UNAVAILABLE", "/secret/path is damaged"),
        ]

    def servables(self, name: str) -> list[Any]:
        return [bare_servable(name="<b>")] if name == "<b>" else []


@pytest.fixture
def ready() -> list[bool]:
    return [True]


@pytest.fixture
def get(monkeypatch: pytest.MonkeyPatch, ready: list[bool]) -> Callable[..., tuple[int, dict[str, str], bytes]]:
    monkeypatch.setattr(http_endpoint, "_Server", FakeServer)
    HttpEndpoint(("127.0.0.1", 0), Metrics("1.2.3", "x"), FakeLifecycle(), lambda: ready[0])  # type: ignore[arg-type]

    def send(path: str, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
        connection = Connection(f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        FakeServer.made.handler(connection, ("127.0.0.1", 1), SimpleNamespace())  # type: ignore[arg-type]
        head, _, body = connection.response.partition(b"\r\n\r\n")
        status, *lines = head.decode().split("\r\n")
        assert connection.timeouts == [10]
        return int(status.split()[1]), dict(line.split(": ", 1) for line in lines), body

    return send


Get = Callable[..., tuple[int, dict[str, str], bytes]]


def test_metrics_are_prometheus_text(get: Get) -> None:
    status, headers, body = get("/metrics")
    assert (status, headers["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert b"convserve_build_info" in body
    assert int(headers["Content-Length"]) == len(body)


@pytest.mark.parametrize("is_ready", [True, False])
def test_live_is_not_ready(get: Get, ready: list[bool], is_ready: bool) -> None:
    ready[0] = is_ready
    assert get("/livez")[0] == 200
    status, _, body = get("/readyz")
    assert (status, body) == ((200, b"ready\n") if is_ready else (503, b"not ready\n"))


def test_the_status_page_shows_every_version_and_escapes_names(get: Get) -> None:
    status, headers, body = get("/")
    page = body.decode()
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert "<td>&lt;b&gt;</td><td>1</td><td>READY</td><td>CPUExecutionProvider</td><td>no</td>" in page
    assert "<td>a</td><td>2</td><td>UNAVAILABLE</td><td></td><td></td>" in page
    assert "secret" not in page


def test_a_query_is_ignored_and_another_path_not_found(get: Get) -> None:
    assert get("/livez?verbose=1")[0] == 200
    for path in ("/nothing", "/metrics/", "/../metrics"):
        assert get(path)[0] == 404


def test_head_sends_the_length_but_no_body(get: Get) -> None:
    status, headers, body = get("/livez", "HEAD")
    assert (status, headers["Content-Length"], body) == (200, "5", b"")


def test_nothing_can_be_changed(get: Get) -> None:
    for method in ("POST", "PUT", "DELETE"):
        assert get("/", method)[0] == 501


def test_the_server_does_not_tell_its_python(get: Get) -> None:
    assert get("/livez")[1]["Server"].strip() == "convserve"


def test_starting_and_closing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_endpoint, "_Server", FakeServer)
    endpoint = HttpEndpoint(("127.0.0.1", 0), Metrics("1", "x"), FakeLifecycle(), lambda: True)  # type: ignore[arg-type]
    assert endpoint.port == 4242
    endpoint.start()
    endpoint.close()
    assert FakeServer.made.closed


def test_a_connection_too_many_is_closed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[str] = []
    closed: list[str] = []
    monkeypatch.setattr(ThreadingHTTPServer, "process_request", lambda _, request, __: served.append(request))
    monkeypatch.setattr(ThreadingHTTPServer, "process_request_thread", lambda *_: None)
    server = http_endpoint._Server.__new__(http_endpoint._Server)
    server._places = threading.BoundedSemaphore(2)
    monkeypatch.setattr(server, "shutdown_request", closed.append)
    for name in ("first", "second", "third"):
        server.process_request(name, None)
    server.process_request_thread("first", None)
    server.process_request("fourth", None)
    assert (served, closed) == (["first", "second", "fourth"], ["third"])


def test_a_connection_that_fails_still_gives_its_place_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ConnectionResetError

    monkeypatch.setattr(ThreadingHTTPServer, "process_request_thread", fail)
    server = http_endpoint._Server.__new__(http_endpoint._Server)
    server._places = threading.BoundedSemaphore(1)
    assert server._places.acquire(blocking=False)
    with pytest.raises(ConnectionResetError):
        server.process_request_thread("request", None)
    assert server._places.acquire(blocking=False)
    server.handle_error("request", None)
