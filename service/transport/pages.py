"""The routes of the HTTP endpoint: liveness, readiness and metrics for machines, the status page for people."""

from __future__ import annotations

from collections.abc import Callable

from service.metrics import Metrics
from service.settings import Settings
from service.transport.address import is_loopback
from service.transport.calls import Calls
from service.transport.http_message import Request, Response, Routes, text
from service.transport.status_page import StatusPage
from service.transport.try_form import TryForm


def pages(calls: Calls, metrics: Metrics, is_ready: Callable[[], bool], settings: Settings) -> Routes:
    """Return every route; the calls' data plane knows the models, and ``is_ready`` tells whether the server is."""
    plane = calls.dataplane
    form = None
    # TLS keeps calls secret, or requires certified callers; this endpoint can do neither.
    if settings.try_form and not settings.tls_key:
        form = TryForm(calls.begin, loopback_only=is_loopback(settings.http_host or settings.host))
    needs_token = bool(settings.infer_tokens_file)
    page = StatusPage(metrics, plane.lifecycle, is_ready, plane.clock, form, form_needs_token=needs_token)
    return {**for_machines(metrics, is_ready), **page.routes()}


def for_machines(metrics: Metrics, is_ready: Callable[[], bool]) -> Routes:
    """Return /metrics, /livez and /readyz."""

    def scrape(request: Request) -> Response:
        body, kind = metrics.negotiate(request.headers.get("accept", ""))
        return Response(200, kind, body)

    def live(_: Request) -> Response:
        return text(200, "live")

    def ready(_: Request) -> Response:
        return text(200, "ready") if is_ready() else text(503, "not ready")

    return {("GET", "/metrics"): scrape, ("GET", "/livez"): live, ("GET", "/readyz"): ready}
