"""The HTTP endpoint: a small HTTP/1.1 server on its own threads, for operators and scrapers.

It handles connections and their bounds; a table of routes gives the answers.
"""

from __future__ import annotations

import io
import logging
import socket
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import parse_qsl, urlsplit

from service.transport.address import bare, family
from service.transport.http_message import SAFE_HEADERS, Request, Response, Routes, text
from service.vital import OnDeath, vital_thread

_LOG = logging.getLogger(__name__)
_TIMEOUT_SECONDS = 10  # for request line and headers, for a body, for an answer: who is slower holds a thread no longer
_MAX_CONNECTIONS = 64
_MAX_KEPT = 48  # of them; with more, a connection ends with its answer: who asks again and again shuts nobody out
_PAUSE_SECONDS = 0.1
_NOT_FOUND = "not found: here are /metrics, /livez, /readyz and the status page; inference is gRPC, on another port"
_MAX_DISCARDED_BYTES = 1 << 20


class HttpEndpoint:
    """Owns the listener and its threads."""

    def __init__(self, address: tuple[str, int], routes: Routes, on_death: OnDeath) -> None:
        """Bind. ``on_death`` is called if the thread that takes connections in dies.

        Raises:
            OSError: The address cannot be bound.
        """
        self._server = _Server(address, type("Handler", (_Handler,), {"routes": routes}))
        self._thread = vital_thread("http", self._server.serve_forever, on_death)

    @property
    def port(self) -> int:
        """The port that was bound."""
        return int(self._server.server_address[1])

    def start(self) -> None:
        """Answer requests."""
        self._thread.start()

    def close(self) -> None:
        """Stop and release the port."""
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    """Threads are bounded: a connection too many is closed at once."""

    daemon_threads = True
    request_queue_size = 128  # five, as it comes: a probe among many would wait for seconds to be connected

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        host, port = address
        self.address_family = family(host)
        super().__init__((bare(host), port), handler)
        self._open: list[None] = []  # an entry a connection; only the thread that takes them in adds any

    @property
    def crowded(self) -> bool:
        """Whether a connection that is answered should make room."""
        return len(self._open) > _MAX_KEPT

    def server_bind(self) -> None:
        if self.address_family == socket.AF_INET6:  # :: is IPv4's interfaces too, as it is for gRPC
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()

    def get_request(self) -> Any:
        try:
            return super().get_request()
        except OSError:
            # No descriptor is left. The connection goes on waiting, and asking again at once would burn a core.
            time.sleep(_PAUSE_SECONDS)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        if len(self._open) >= _MAX_CONNECTIONS:
            self.shutdown_request(request)
            return
        self._open.append(None)
        try:
            super().process_request(request, client_address)
        except Exception:  # no thread could be started, so none takes the entry out
            self._open.pop()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._open.pop()

    def handle_error(self, request: Any, client_address: Any) -> None:
        _LOG.debug("an HTTP connection failed", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    routes: Routes
    _unread = 0  # bytes of the body
    timeout: ClassVar[float] = _TIMEOUT_SECONDS
    _arriving: _Arriving
    protocol_version = "HTTP/1.1"
    server_version = "convserve"
    sys_version = ""

    def setup(self) -> None:
        super().setup()
        self.rfile.close()  # which would wait anew for each byte
        self._arriving = _Arriving(self.connection, self.timeout)
        self.rfile = io.BufferedReader(self._arriving)

    def handle_one_request(self) -> None:
        self._arriving.expect()
        super().handle_one_request()

    def do_GET(self) -> None:
        self._answer("GET")

    def do_HEAD(self) -> None:
        self._answer("GET")

    def do_POST(self) -> None:
        self._answer("POST")

    def _answer(self, method: str) -> None:
        try:
            url = urlsplit(self.path)
        except ValueError:
            self.close_connection = True
            self._send(text(400, "bad request"))
            return
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(headers, dict(parse_qsl(url.query, keep_blank_values=True)), self._read)
        self._unread = request.body_bytes or 0
        self.close_connection |= isinstance(self.server, _Server) and self.server.crowded
        # What nobody reads of this request would be taken for the next one.
        self.close_connection |= "content-length" in headers or "transfer-encoding" in headers
        self._send(self._response(method, url.path, request))
        if self._unread:
            # Closing on a caller who still sends would take the answer away from him.
            self.wfile.flush()
            self._read(min(self._unread, _MAX_DISCARDED_BYTES))

    def _response(self, method: str, path: str, request: Request) -> Response:
        page = self.routes.get((method, path))
        if page is None:
            known = any(path == other for _, other in self.routes)
            return text(405, "method not allowed") if known else text(404, _NOT_FOUND)
        try:
            return page(request)
        except OSError:  # the body did not come, so nobody waits for an answer
            raise
        except Exception:
            _LOG.exception("an HTTP page failed")
            return text(500, "internal error")

    def _read(self, length: int) -> bytes:
        """Read ``length`` bytes, within one patience for all of them."""
        self._arriving.expect()
        parts: list[bytes] = []
        while length > 0:
            part = self.rfile.read1(min(length, 1 << 16))
            if not part:
                raise ConnectionError("the connection ended before the body was complete")
            parts.append(part)
            length -= len(part)
            self._unread -= len(part)
        return b"".join(parts)

    def _send(self, response: Response) -> None:
        self.send_response(response.status)
        self.send_header("Content-Type", response.kind)
        self.send_header("Content-Length", str(len(response.body)))
        for name, value in SAFE_HEADERS.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(response.body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is http.server's
        _LOG.debug(format, *args)


class _Arriving(io.RawIOBase):
    """What arrives on a connection, under one time limit for all of it: a byte now and then buys no more time."""

    def __init__(self, connection: socket.socket, patience_seconds: float) -> None:
        self._connection = connection
        self._patience_seconds = patience_seconds
        self._give_up = 0.0

    def expect(self) -> None:
        """Be patient anew, for the next part."""
        self._give_up = time.monotonic() + self._patience_seconds

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left = self._give_up - time.monotonic()
        if left <= 0:
            raise TimeoutError("a request arrived too slowly")
        self._connection.settimeout(left)
        try:
            return self._connection.recv_into(buffer)
        finally:
            self._connection.settimeout(self._patience_seconds)  # for what is written
