"""The routes of the HTTP endpoint: liveness, readiness and metrics for machines, the status page for people."""

from __future__ import annotations

from collections.abc import Callable

from service.metrics import Metrics
from service.transport.calls import Calls
from service.transport.http_message import Request, Response, Routes, text
from service.transport.status_page import StatusPage
from service.transport.try_form import TryForm


def pages(
    calls: Calls,
    metrics: Metrics,
    is_ready: Callable[[], bool],
    *,
    try_form: bool,
    needs_token: bool,
    loopback_only: bool,
) -> Routes:
    """Return every route.

    Args:
        calls: Takes the form's calls; its data plane knows the models.
        metrics: The metrics to serve.
        is_ready: Tells whether the server is ready.
        try_form: Whether the status page has a form to try a model.
        needs_token: Whether inference needs a token.
        loopback_only: Whether the endpoint listens on loopback.
    """
    form = TryForm(calls.begin, loopback_only=loopback_only) if try_form else None
    plane = calls.dataplane
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
