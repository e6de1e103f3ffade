"""The HTTP endpoint: /metrics, /livez, /readyz, and a status page at /. Read-only, for operators."""

from __future__ import annotations

import html
import logging
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from service import __version__
from service.metrics import Metrics
from service.repository.lifecycle import Lifecycle

_LOG = logging.getLogger(__name__)
_TIMEOUT_SECONDS = 10  # a scraper that hangs holds one thread, for so long
_MAX_CONNECTIONS = 64


class HttpEndpoint:
    """A small HTTP/1.1 server in threads of its own."""

    def __init__(
        self, address: tuple[str, int], metrics: Metrics, lifecycle: Lifecycle, is_ready: Callable[[], bool]
    ) -> None:
        """Bind.

        Raises:
            OSError: The address cannot be bound.
        """
        pages: dict[str, Callable[[], tuple[int, str, bytes]]] = {
            "/metrics": lambda: (200, "text/plain; version=0.0.4; charset=utf-8", metrics.expose()),
            "/livez": lambda: (200, "text/plain", b"live\n"),
            "/readyz": lambda: (200, "text/plain", b"ready\n") if is_ready() else (503, "text/plain", b"not ready\n"),
            "/": lambda: (200, "text/html; charset=utf-8", _status_page(lifecycle).encode()),
        }
        self._server = _Server(address, _handler(pages))
        self._thread = threading.Thread(target=self._server.serve_forever, name="http", daemon=True)

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

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(address, handler)
        self._places = threading.BoundedSemaphore(_MAX_CONNECTIONS)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._places.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        _LOG.debug("an HTTP connection failed", exc_info=True)


def _handler(pages: dict[str, Callable[[], tuple[int, str, bytes]]]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = _TIMEOUT_SECONDS
        protocol_version = "HTTP/1.1"
        server_version = "convserve"
        sys_version = ""

        def do_GET(self) -> None:
            page = pages.get(self.path.partition("?")[0])
            status, kind, body = page() if page else (404, "text/plain", b"not found\n")
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815 - the name is http.server's

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is http.server's
            _LOG.debug(format, *args)

    return Handler


def _status_page(lifecycle: Lifecycle) -> str:
    rows = []
    for status in lifecycle.statuses():
        found = [servable for servable in lifecycle.servables(status.name) if servable.version == status.version]
        provider = found[0].provider.actual if found else ""
        verified = ("yes" if found[0].verified else "no") if found else ""
        cells = (status.name, status.version, status.state, provider, verified)
        rows.append("<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in cells) + "</tr>")
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><title>convserve</title>"
        "<style>body{font-family:system-ui;margin:2rem}td,th{padding:.3rem 1rem;text-align:left}</style>"
        f"<h1>convserve {__version__}</h1><table><tr><th>Model<th>Version<th>State<th>Provider<th>Verified</tr>"
        f"{''.join(rows)}</table><p><a href=/metrics>metrics</a></p></html>"
    )
