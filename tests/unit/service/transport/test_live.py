"""Readings of the metrics and what lies between two of them."""

from __future__ import annotations

import math

import pytest

from service.metrics import Metrics
from service.model_metrics import ModelMetrics
from service.transport import live
from service.transport.live import Histogram, History, Reading

KEY = ("m", "1")


def histogram(*counts: int) -> Histogram:
    return Histogram((1.0, 2.0, 4.0), counts, 0.0)


def counted(metrics: Metrics) -> ModelMetrics:
    return ModelMetrics(metrics, *KEY, wall_clock_ms=lambda: 0)


@pytest.mark.parametrize(
    ("share", "counts", "expected"),
    [
        (0.5, (4, 0, 0, 0), 0.5),
        (0.5, (0, 4, 0, 0), 1.5),
        (0.75, (2, 0, 2, 0), 3.0),
        (1.0, (1, 1, 1, 0), 4.0),
        (0.5, (1, 0, 0, 9), 4.0),
        (0.5, (0, 0, 0, 1), 4.0),
    ],
)
def test_quantiles_as_prometheus_has_them(share: float, counts: tuple[int, ...], expected: float) -> None:
    assert histogram(*counts).quantile(share) == pytest.approx(expected)


def test_nothing_has_neither_quantile_nor_mean() -> None:
    assert math.isnan(histogram(0, 0, 0, 0).quantile(0.5))
    assert math.isnan(histogram(0, 0, 0, 0).mean)


def test_a_reading_has_what_was_counted_even_if_it_is_not_settled() -> None:
    metrics = Metrics("1", "x")
    model = counted(metrics)
    model.observe_batch([0.001, 0.3], rows=3, padding=0.25, assemble=1e-4, infer=0.002, reason="idle")
    model.observe_success(0.01)
    model.observe_success(0.03)
    metrics.requests.labels("m", "1", "ModelInfer", "OK").inc(2)
    metrics.requests.labels("m", "1", "ClassifyImages", "OK").inc()
    metrics.requests.labels("other", "1", "ModelInfer", "NOT_FOUND").inc()
    counts = live.read(metrics, [KEY], now=5.0).versions[KEY]
    assert counts.codes == {"OK": 3}
    assert (counts.latency.count, counts.latency.mean, counts.queue.count) == (2, pytest.approx(0.02), 2)
    assert (counts.batch.count, counts.batch.mean, counts.padding.mean) == (1, 3.0, 0.25)
    assert 0.2 < counts.queue.quantile(1.0) <= 0.4


def test_a_version_without_series_is_left_out_and_gets_none() -> None:
    metrics = Metrics("1", "x")
    assert live.read(metrics, [KEY], now=0.0).versions == {}
    assert b'model="m"' not in metrics.negotiate("")[0]


def test_between_two_readings_is_what_came_between() -> None:
    metrics = Metrics("1", "x")
    model = counted(metrics)
    model.observe_success(0.01)
    metrics.requests.labels("m", "1", "ModelInfer", "OK").inc()
    first = live.read(metrics, [KEY], now=0.0).versions[KEY]
    model.observe_success(3.0)
    metrics.requests.labels("m", "1", "ModelInfer", "OK").inc()
    metrics.requests.labels("m", "1", "ModelInfer", "INTERNAL").inc()
    between = live.read(metrics, [KEY], now=1.0).versions[KEY].since(first)
    assert between.codes == {"OK": 1, "INTERNAL": 1}
    assert (between.latency.count, between.latency.mean) == (1, pytest.approx(3.0))
    assert first.since(first).latency.count == 0, "nothing came"


def test_a_version_that_was_loaded_anew_counts_from_its_loading() -> None:
    metrics = Metrics("1", "x")
    model = counted(metrics)
    for _ in range(3):
        model.observe_success(0.01)
    before = live.read(metrics, [KEY], now=0.0).versions[KEY]
    metrics.forget(*KEY)
    counted(metrics).observe_success(0.01)
    after = live.read(metrics, [KEY], now=1.0).versions[KEY]
    assert after.since(before).latency.count == after.latency.count < 3


def test_history_compares_with_what_is_about_ten_seconds_old() -> None:
    history = History()
    assert history.earlier(0.0) is None
    for second in range(20):
        history.add(Reading(float(second), {}))
    found = history.earlier(20.0)
    assert found is not None
    assert found.at == 10.0


def test_history_starts_with_what_it_has() -> None:
    history = History()
    history.add(Reading(0.0, {}))
    history.add(Reading(0.5, {}))  # several people look: one reading a second is enough
    history.add(Reading(2.0, {}))
    found = history.earlier(2.1)
    assert found is not None
    assert found.at == 0.0


def test_history_forgets_what_nobody_looked_at_for_a_minute() -> None:
    history = History()
    history.add(Reading(0.0, {}))
    assert history.earlier(61.0) is None


def test_history_is_bounded_however_many_look() -> None:
    history = History()
    for tenth in range(10_000):
        history.earlier(tenth / 10)
        history.add(Reading(tenth / 10, {}))
    assert len(history._readings) <= 61
