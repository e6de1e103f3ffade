"""The HTTP pages, driven through the real request handler on a connection of bytes in memory."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from service.logs import _BOUNDS
from service.metrics import Metrics
from service.model_metrics import ModelMetrics
from service.transport import http_endpoint
from service.transport.http_endpoint import HttpEndpoint
from service.transport.http_message import SAFE_HEADERS, Request, Response
from service.transport.pages import for_machines


class Connection:
    """A socket that holds a request and keeps the response."""

    def __init__(self, request: bytes, on_byte: Callable[[], None] | None) -> None:
        self._request = io.BytesIO(request)
        self._on_byte = on_byte
        self.response = b""
        self.timeouts: list[float] = []

    def makefile(self, *_: object) -> io.BytesIO:
        return io.BytesIO()

    def recv_into(self, buffer: memoryview) -> int:
        if self._on_byte is None:
            return self._request.readinto(buffer)
        self._on_byte()
        return self._request.readinto(buffer[:1])

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


def echo(request: Request) -> Response:
    length = request.body_bytes
    body = request.read(length) if length is not None else b"no length"
    return Response(200, "text/plain", body + repr(sorted(request.query.items())).encode())


def ignore(_: Request) -> Response:
    return Response(200, "text/plain", b"ignored")


def fail(_: Request) -> Response:
    raise ValueError("/secret/path")


@pytest.fixture
def ready() -> list[bool]:
    return [True]


@pytest.fixture
def send(monkeypatch: pytest.MonkeyPatch, ready: list[bool]) -> Callable[[str], bytes]:
    monkeypatch.setattr(http_endpoint, "_Server", FakeServer)
    metrics = Metrics("1.2.3", "x")
    bound = ModelMetrics(metrics, "m", "1", lambda: 1234)
    bound.observe_success(0.5, "f" * 32)
    bound.settle()
    routes = for_machines(metrics, lambda: ready[0])
    others = {("POST", "/echo"): echo, ("POST", "/ignore"): ignore, ("GET", "/fail"): fail}
    HttpEndpoint(("127.0.0.1", 0), {**routes, **others}, pytest.fail)

    def exchange(request: str, on_byte: Callable[[], None] | None = None) -> bytes:
        connection = Connection(request.encode(), on_byte)
        FakeServer.made.handler(connection, ("127.0.0.1", 1), SimpleNamespace())  # type: ignore[arg-type]
        assert connection.timeouts[0] == connection.timeouts[-1] == max(connection.timeouts) == 10
        return connection.response

    return exchange


@pytest.fixture
def get(send: Callable[[str], bytes]) -> Callable[..., tuple[int, dict[str, str], bytes]]:
    def one(path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
        more = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        response = send(f"{method} {path} HTTP/1.1\r\nHost: x\r\n{more}Connection: close\r\n\r\n")
        head, _, body = response.partition(b"\r\n\r\n")
        status, *lines = head.decode().split("\r\n")
        return int(status.split()[1]), dict(line.split(": ", 1) for line in lines), body

    return one


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


OPEN_METRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"


@pytest.mark.parametrize(
    "accept",
    [
        "application/openmetrics-text; version=1.0.0",
        # What Prometheus 3 sends.
        "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
    ],
)
def test_who_asks_for_openmetrics_gets_exemplars(get: Get, accept: str) -> None:
    _, headers, body = get("/metrics", Accept=accept)
    assert headers["Content-Type"].startswith(OPEN_METRICS)
    assert body.endswith(b"# EOF\n")
    families = {family.name: family for family in text_string_to_metric_families(body.decode())}
    samples = families["convserve_request_duration_seconds"].samples
    ((bucket, shown),) = [(sample.labels["le"], sample.exemplar) for sample in samples if sample.exemplar is not None]
    assert (bucket, shown.labels, shown.value) == ("0.8", {"trace_id": "f" * 32}, 0.5)
    assert float(shown.timestamp) == 1.234


@pytest.mark.parametrize(
    "accept", ["text/plain", "*/*", "application/openmetrics-text; version=x", "text/html", ";;,="]
)
def test_who_does_not_ask_gets_plain_text(get: Get, accept: str) -> None:
    status, headers, body = get("/metrics", Accept=accept)
    assert (status, headers["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert b"f" * 32 not in body
    assert b"# EOF" not in body


def test_a_query_is_ignored_and_another_path_not_found(get: Get) -> None:
    assert get("/livez?verbose=1")[0] == 200
    for path in ("/nothing", "/metrics/", "/../metrics"):
        status, _, body = get(path)
        assert (status, b"inference is gRPC" in body) == (404, True)


def test_head_sends_the_length_but_no_body(get: Get) -> None:
    status, headers, body = get("/livez", "HEAD")
    assert (status, headers["Content-Length"], body) == (200, "5", b"")


def test_nothing_can_be_changed(get: Get) -> None:
    assert get("/metrics", "POST")[0] == 405
    for method in ("PUT", "DELETE", "OPTIONS"):
        assert get("/metrics", method)[0] == 501


def test_every_response_forbids_the_browser_what_no_page_needs(get: Get) -> None:
    for path in ("/metrics", "/nothing"):
        headers = get(path)[1]
        assert SAFE_HEADERS.items() <= headers.items()
        assert "Access-Control-Allow-Origin" not in headers
    assert "unsafe" not in SAFE_HEADERS["Content-Security-Policy"]


def test_a_page_that_fails_says_nothing_of_why(get: Get, caplog: pytest.LogCaptureFixture) -> None:
    status, _, body = get("/fail")
    assert (status, body) == (500, b"internal error\n")
    assert "/secret/path" in caplog.text
    assert {record.name for record in caplog.records} <= set(_BOUNDS), "callers can have it logged without end"


def test_a_body_is_read_to_its_declared_length(send: Callable[[str], bytes]) -> None:
    response = send("POST /echo?a=1&b=&a=2 HTTP/1.1\r\nContent-Length: 5\r\n\r\nabcdeGET /livez HTTP/1.1\r\n\r\n")
    assert response.endswith(b"\r\n\r\nabcde[('a', '2'), ('b', '')]")


@pytest.mark.parametrize("header", ["Content-Length: 20", "Transfer-Encoding: chunked", "Content-Length: x"])
def test_a_body_that_nobody_reads_is_not_taken_for_a_request(send: Callable[[str], bytes], header: str) -> None:
    response = send(f"POST /ignore HTTP/1.1\r\n{header}\r\n\r\nGET /livez HTTP/1.1\r\n\r\n")
    assert response.endswith(b"Connection: close\r\n\r\nignored")


def test_a_body_that_nobody_reads_arrives_all_the_same(send: Callable[..., bytes]) -> None:
    """Closing on a caller who still sends would take the answer away from him."""
    request, arrived = "POST /ignore HTTP/1.1\r\nContent-Length: 5\r\n\r\nabcde", []
    assert send(request, lambda: arrived.append(1)).endswith(b"ignored")
    assert len(arrived) == len(request)


@pytest.mark.parametrize("declared", ["", "x", "-1", "1" * 30])
def test_a_length_that_is_no_number_is_none(send: Callable[[str], bytes], declared: str) -> None:
    assert b"no length" in send(f"POST /echo HTTP/1.1\r\nContent-Length: {declared}\r\n\r\n")


def test_a_body_that_ends_early_gets_no_answer(send: Callable[[str], bytes]) -> None:
    with pytest.raises(ConnectionError):
        send("POST /echo HTTP/1.1\r\nContent-Length: 5\r\n\r\nabc")


@pytest.mark.parametrize(
    ("request_text", "seconds_a_byte", "answered"),
    [
        ("GET /livez HTTP/1.1\r\nConnection: close\r\n\r\n", 6.0, False),
        ("GET /livez HTTP/1.1\r\nConnection: close\r\n\r\n", 0.2, True),
        ("POST /echo HTTP/1.1\r\nContent-Length: 5\r\n\r\nabcde", 0.2, True),
        ("POST /echo HTTP/1.1\r\nContent-Length: 90\r\n\r\n" + "x" * 90, 0.2, False),
    ],
)
def test_what_trickles_in_is_given_up(
    send: Callable[..., bytes],
    monkeypatch: pytest.MonkeyPatch,
    request_text: str,
    seconds_a_byte: float,
    answered: bool,
) -> None:
    now = 100.0

    def pass_time() -> None:
        nonlocal now
        now += seconds_a_byte

    monkeypatch.setattr(http_endpoint.time, "monotonic", lambda: now)
    assert send(request_text, pass_time).startswith(b"HTTP/1.1 200") is answered


def test_a_target_that_is_no_url_is_refused(send: Callable[[str], bytes]) -> None:
    assert send("GET http://[ HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 400")


def test_the_server_does_not_tell_its_python(get: Get) -> None:
    assert get("/livez")[1]["Server"].strip() == "convserve"


def test_starting_and_closing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_endpoint, "_Server", FakeServer)
    endpoint = HttpEndpoint(("127.0.0.1", 0), {}, pytest.fail)
    assert endpoint.port == 4242
    endpoint.start()
    assert endpoint._thread.is_alive()
    endpoint.close()
    assert FakeServer.made.stopped.is_set()
    assert FakeServer.made.closed


def test_a_connection_too_many_is_closed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[str] = []
    closed: list[str] = []
    monkeypatch.setattr(ThreadingHTTPServer, "process_request", lambda _, request, __: served.append(request))
    monkeypatch.setattr(ThreadingHTTPServer, "process_request_thread", lambda *_: None)
    server = http_endpoint._Server.__new__(http_endpoint._Server)
    monkeypatch.setattr(http_endpoint, "_MAX_CONNECTIONS", 2)
    server._open = []
    monkeypatch.setattr(server, "shutdown_request", closed.append)
    for name in ("first", "second", "third"):
        server.process_request(name, None)
    server.process_request_thread("first", None)
    server.process_request("fourth", None)
    assert (served, closed) == (["first", "second", "fourth"], ["third"])


def test_a_thread_that_cannot_be_started_keeps_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", fail)
    server = http_endpoint._Server.__new__(http_endpoint._Server)
    server._open = []
    with pytest.raises(RuntimeError, match="can't start"):
        server.process_request("request", None)
    assert server._open == []


def test_a_connection_that_fails_still_gives_its_place_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ConnectionResetError

    monkeypatch.setattr(ThreadingHTTPServer, "process_request_thread", fail)
    server = http_endpoint._Server.__new__(http_endpoint._Server)
    server._open = [None]
    with pytest.raises(ConnectionResetError):
        server.process_request_thread("request", None)
    assert server._open == []
    server.handle_error("request", None)
