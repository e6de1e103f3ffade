"""The status page at /: what is served, how well, how fast, and a form to try it.

The server makes plain HTML; a small script fetches it again every two seconds and sends the form.
Nothing is counted while nobody looks.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from html import escape
from importlib import resources
from string import Template

from prometheus_client import Gauge

from service import __version__
from service.metrics import Metrics
from service.repository.lifecycle import Lifecycle
from service.repository.servable import Servable
from service.transport import live, status_html
from service.transport.http_message import Page, Request, Response, Routes
from service.transport.try_form import MAX_PICTURE_BYTES, MAX_SENTENCE_BYTES, TryForm

_WEB = resources.files("service.transport") / "web"


class StatusPage:
    """Makes the page. Thread-safe."""

    def __init__(
        self,
        metrics: Metrics,
        lifecycle: Lifecycle,
        is_ready: Callable[[], bool],
        clock: Callable[[], float],
        form: TryForm | None,
        *,
        form_needs_token: bool = False,
    ) -> None:
        """Wire up. Without ``form`` the page has none; with ``form_needs_token`` it asks for a token."""
        self._metrics = metrics
        self._lifecycle = lifecycle
        self._is_ready = is_ready
        self._clock = clock
        self._started = clock()
        self._history = live.History()
        self._lock = threading.Lock()
        self._form = form
        self._form_needs_token = form_needs_token
        self._page = _template("page.html")
        self._form_template = _template("form.html")

    def routes(self) -> Routes:
        """Return the page, what it needs, and what its form sends to."""
        page = {
            ("GET", "/"): self._answer,
            ("GET", "/status.css"): _asset("page.css", "text/css; charset=utf-8"),
            ("GET", "/status.js"): _asset("page.js", "text/javascript; charset=utf-8"),
        }
        return page if self._form is None else {**page, ("POST", "/try"): self._form.answer}

    def _answer(self, _: Request) -> Response:
        statuses = [status for status in self._lifecycle.statuses() if not status.is_left_out]
        serving = {
            (servable.name, str(servable.version)): servable
            for name in dict.fromkeys(status.name for status in statuses)
            for servable in self._lifecycle.servables(name)
        }
        now = self._clock()
        reading = live.read(self._metrics, serving, now)
        with self._lock:
            earlier = self._history.earlier(now)
            self._history.add(reading)
        since = earlier.at if earlier is not None else self._started
        seconds = max(now - since, 1e-3)
        cards = []
        for status in statuses:
            key = (status.name, str(status.version))
            counts = reading.versions.get(key)
            if counts is not None and earlier is not None and key in earlier.versions:
                counts = counts.since(earlier.versions[key])
            cards.append(status_html.card(status, serving.get(key), counts, seconds))
        body = self._page.substitute(
            version=escape(__version__),
            ready="ready" if self._is_ready() else "not ready",
            serving=f"{len({name for name, _ in serving})} of {len({status.name for status in statuses})} models",
            in_flight=f"{_value(self._metrics.inflight):,.0f}",
            up=status_html.uptime(now - self._started),
            span=f"the last {seconds:.0f} seconds" if earlier is not None else "the time since the start",
            cards="".join(cards) or '<p class="card">No model is served.</p>',
            near="" if self._form is None else '<a class="near" href="#try-title">try it</a>',
            form=self._form_html(list(serving.values())),
        )
        return Response(200, "text/html; charset=utf-8", body.encode())

    def _form_html(self, servables: Sequence[Servable]) -> str:
        if self._form is None:
            return ""
        return self._form_template.substitute(
            options=status_html.options(servables),
            max_picture_bytes=MAX_PICTURE_BYTES,
            max_sentence_bytes=MAX_SENTENCE_BYTES,
            token="" if self._form_needs_token else "hidden",
        )


def _value(gauge: Gauge) -> float:
    return next(sample.value for family in gauge.collect() for sample in family.samples)


def _template(name: str) -> Template:
    return Template((_WEB / name).read_text(encoding="utf-8"))


def _asset(name: str, kind: str) -> Page:
    response = Response(200, kind, (_WEB / name).read_bytes())
    return lambda _: response
