"""The status page as its server makes it; how it looks is for tests/deploy/test_status_page.py."""

from __future__ import annotations

import dataclasses
import math
import re
from html.parser import HTMLParser
from typing import Any

import pytest

from service.backend.base import Provider
from service.metrics import Metrics
from service.repository.lifecycle import UNLOADED, VersionStatus
from service.transport import status_html
from service.transport.http_message import Request
from service.transport.live import Counts, Histogram
from service.transport.status_chart import chart, summary
from service.transport.status_page import StatusPage
from service.transport.try_form import TryForm
from tests.unit.service.samples import bare_servable, make_servable


class FakeLifecycle:
    def __init__(self, statuses: list[VersionStatus], servables: list[Any]) -> None:
        self._statuses = statuses
        self._servables = servables

    def statuses(self) -> list[VersionStatus]:
        return self._statuses

    def servables(self, name: str) -> list[Any]:
        return [servable for servable in self._servables if servable.name == name]


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def page(
    lifecycle: FakeLifecycle, *, clock: Clock | None = None, metrics: Metrics | None = None, **options: Any
) -> Any:
    form, ready = options.pop("form", None), options.pop("ready", True)
    made = StatusPage(
        metrics or Metrics("1", "x"),
        lifecycle,
        lambda: ready,
        clock or Clock(),
        form,
        **options,  # type: ignore[arg-type]
    )
    return made.routes()


def html_of(routes: Any) -> str:
    response = routes["GET", "/"](Request())
    assert (response.status, response.kind) == (200, "text/html; charset=utf-8")
    text: str = response.body.decode()
    Balanced().check(text)
    return text


class Balanced(HTMLParser):
    """Fails on an element that is not closed, or closed in the wrong place."""

    _VOID = frozenset({"meta", "link", "img", "input"})

    def check(self, text: str) -> None:
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag not in self._VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag


def test_every_version_with_its_state_and_names_escaped() -> None:
    statuses = [VersionStatus("<b>", 3, "READY"), VersionStatus("slow", 1, "LOADING")]
    statuses.append(VersionStatus("unwanted", 1, "UNAVAILABLE", UNLOADED))
    text = html_of(page(FakeLifecycle(statuses, [bare_servable(name="<b>", version=3)])))
    assert "<h2>&lt;b&gt;</h2>" in text
    assert "<b>" not in text
    assert "version 3" in text
    assert '<span class="state ready">ready</span>' in text
    assert '<span class="state loading">loading</span>' in text
    assert "1 of 2 models serving" in text
    assert "unwanted" not in text
    assert "<title>convserve: ready<" in text


def test_a_server_without_models_says_so() -> None:
    text = html_of(page(FakeLifecycle([], []), ready=False))
    assert "No model is served." in text
    assert "<title>convserve: not ready<" in text


def test_why_a_version_failed_without_what_only_the_log_may_tell() -> None:
    failed = VersionStatus("m", 1, "UNAVAILABLE", "/secret/model.onnx is damaged", "its model file cannot be read")
    text = html_of(page(FakeLifecycle([failed], [])))
    assert "Its model file cannot be read. The log has the details." in text
    assert "secret" not in text


def test_what_runs_and_how_good_it_is() -> None:
    text = html_of(page(FakeLifecycle([VersionStatus("sums", 1, "READY")], [make_servable(name="sums")])))
    assert "75.00 % top-1 on toy test, 8 examples (40.00 % to 90.00 % at 95 % confidence)" in text
    assert "golden vectors reproduced within" in text
    assert "CPU (" in text


def test_a_fallback_and_a_model_that_nobody_verified_are_told() -> None:
    servable = bare_servable(name="m", provider=Provider("auto", "CUDAExecutionProvider", "cuda:0"))
    text = html_of(page(FakeLifecycle([VersionStatus("m", 1, "READY")], [servable])))
    assert "CUDA, cuda:0 (auto was requested)" in text
    assert "Not verified" in text


def test_rates_are_of_the_time_since_the_last_look() -> None:
    clock, metrics = Clock(), Metrics("1", "x")
    servable = make_servable(name="sums", metrics=metrics)
    lifecycle = FakeLifecycle([VersionStatus("sums", 1, "READY")], [servable])
    routes = page(lifecycle, clock=clock, metrics=metrics)
    servable.metrics.observe_success(0.5)
    metrics.requests.labels("sums", "1", "ModelInfer", "OK").inc(100)
    clock.now += 10
    first = html_of(routes)
    assert "the time since the start" in first
    assert "up 10 seconds" in first
    assert "<dt>Calls</dt><dd>10/s</dd>" in first
    clock.now += 4
    metrics.requests.labels("sums", "1", "ModelInfer", "OK").inc(8)
    metrics.requests.labels("sums", "1", "ModelInfer", "INTERNAL").inc(4)
    second = html_of(routes)
    assert "the last 4 seconds" in second
    assert "<dt>Calls</dt><dd>2.0/s</dd>" in second
    assert "<div class=bad><dt>Failed</dt><dd>1.0/s</dd>" in second
    lifecycle._servables = []
    clock.now += 20
    assert "Calls" not in html_of(routes), "it has left"
    lifecycle._servables = [servable]
    clock.now += 20
    assert "<dt>Calls</dt><dd>5.4/s</dd>" in html_of(routes), "it is new: what is counted came since the last look"


def test_the_figures_and_charts_of_a_version_say_what_was_counted() -> None:
    def seconds(places: dict[int, int]) -> Histogram:
        bounds = tuple(0.001 * 2**place for place in range(18))
        return Histogram(bounds, tuple(places.get(place, 0) for place in range(19)), 1.0)

    counts = Counts(
        codes={"OK": 40, "INTERNAL": 30, "NOT_FOUND": 20},
        latency=seconds({2: 20, 4: 20}),
        queue=seconds({0: 3, 18: 7}),
        batch=Histogram((1, 2, 4, 8, 16), (2, 0, 6, 0, 0, 0), 26.0),
        padding=Histogram((0.5, 1.0), (8, 0, 0), 2.0),
    )
    servable = make_servable(name="sums")
    assert servable.max_batch_size == 4
    text = status_html.card(VersionStatus("sums", 1, "READY"), servable, counts, 2.0)
    Balanced().check(text)
    _, _, figures = text.partition('<dl class="figures">')
    assert dict(re.findall("<div[^>]*><dt>(.+?)</dt><dd>(.+?)</dd>", figures)) == {
        "Calls": "20/s",
        "Failed": "25/s",
        "Waiting": "0",
        "Batch": "3.2",
        "Median": "4 ms",
        "90 %": "14.4 ms",
        "99 %": "15.8 ms",
        "Padding": "25 %",
    }
    assert re.findall("<div class=bad><dt>(.+?)</dt>", text) == ["Failed"]
    assert re.findall('aria-label="(.+?)"', text) == [
        "Latency: 40 calls, 50% of them 2 ms to 4 ms",
        "Time in the queue: 10 requests, 70% of them over 131 s",
        "Rows in a batch: 8 batches, 75% of them of 3 to 4",
    ]
    idle = dataclasses.replace(counts, latency=seconds({}), batch=Histogram((1,), (0, 0), 0.0), padding=seconds({}))
    text = status_html.card(VersionStatus("sums", 1, "READY"), servable, idle, 2.0)
    assert "<dt>Batch</dt><dd>\N{EN DASH}</dd>" in text
    assert "<figure>" not in text


def test_the_form_only_where_there_is_one_and_only_for_classifiers() -> None:
    serving = FakeLifecycle(
        [VersionStatus("sums", 1, "READY"), VersionStatus("bare", 1, "READY")],
        [make_servable(name="sums"), bare_servable(name="bare")],
    )
    without = page(serving)
    assert ("POST", "/try") not in without
    assert "<form" not in html_of(without)
    assert "#try-title" not in html_of(without)
    form = TryForm(lambda *_: None, loopback_only=True)
    routes = page(serving, form=form)
    assert ("POST", "/try") in routes
    text = html_of(routes)
    assert 'href="#try-title"' in text
    assert '<option value="sums" data-kind="picture">' in text
    assert "bare</option>" not in text
    assert re.search(r'id="token-part"\s+hidden', text)
    assert not re.search(r'id="token-part"\s+hidden', html_of(page(serving, form=form, form_needs_token=True)))


def test_nothing_is_inline_and_nothing_is_fetched_from_elsewhere() -> None:
    form = TryForm(lambda *_: None, loopback_only=True)
    routes = page(FakeLifecycle([VersionStatus("m", 1, "READY")], [make_servable(name="m")]), form=form)
    text = html_of(routes)
    assert not re.search(r"<style|style=|\son\w+=|<script>|//\w", text)
    for path, kind in (("/status.css", "text/css"), ("/status.js", "text/javascript")):
        response = routes["GET", path](Request())
        assert (response.status, response.kind.partition(";")[0]) == (200, kind)
        assert b"http" not in response.body
        assert path in text


def test_a_chart_tells_in_words_what_it_shows() -> None:
    drawn = chart("Rows", [1, 0, 3], "batches", ["of 1", "of 2", "of <3"], {0: "1", 2: "3"})
    assert drawn.count("<rect") == 2
    assert 'aria-label="Rows: 4 batches, 75% of them of &lt;3"' in drawn
    assert "<title>of 1: 1 batches</title>" in drawn
    assert summary([0, 0], "calls", ["a", "b"]) == "no calls"


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (math.nan, "\N{EN DASH}"),
        (5e-5, "50 µs"),
        (0.00999, "9.99 ms"),
        (0.25, "250 ms"),
        (0.9999, "1 s"),
        (3.2, "3.2 s"),
    ],
)
def test_durations(seconds: float, expected: str) -> None:
    assert status_html.duration(seconds) == expected


@pytest.mark.parametrize(("count", "expected"), [(0, "0/s"), (1, "0.05/s"), (30, "1.5/s"), (40_000, "2,000/s")])
def test_rates(count: int, expected: str) -> None:
    assert status_html.rate(count, 20.0) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"), [(5, "5 seconds"), (150, "2 minutes"), (8000, "2 hours"), (2e5, "2 days")]
)
def test_uptimes(seconds: float, expected: str) -> None:
    assert status_html.uptime(seconds) == expected


def test_quantisation_is_told_with_its_cost() -> None:
    servable = make_servable(name="m")
    assert servable.manifest is not None
    cost = type("Cost", (), {"method": "int8-static", "accuracy_loss": 0.0006})()
    quantised = dataclasses.replace(servable, manifest=dataclasses.replace(servable.manifest, quantization=cost))
    text = html_of(page(FakeLifecycle([VersionStatus("m", 1, "READY")], [quantised])))
    assert "int8-static, which cost 0.06 points of accuracy" in text
