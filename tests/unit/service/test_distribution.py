"""Histograms in bulk: the same as prometheus-client's own, value by value."""

from __future__ import annotations

import threading

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, disable_created_metrics, generate_latest
from prometheus_client.samples import Exemplar

from service.distribution import DistributionFamily

BOUNDS = (0.0, 0.1, 0.5, 1.0, 10.0)
VALUES = st.lists(st.sampled_from(BOUNDS) | st.floats(-1, 20))


@given(st.lists(st.tuples(st.sampled_from("ab"), VALUES), max_size=6))
def test_shows_what_prometheus_own_histogram_shows(observed: list[tuple[str, list[float]]]) -> None:
    disable_created_metrics()
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    family = DistributionFamily("x_seconds", "Help", ["kind"], BOUNDS, ours)
    histogram = Histogram("x_seconds", "Help", ["kind"], buckets=BOUNDS, registry=theirs)
    for kind, values in observed:
        family.labels(kind).observe(values)
        for value in values:
            histogram.labels(kind).observe(value)
        histogram.labels(kind)
    for line, expected in zip(_lines(ours), _lines(theirs), strict=True):
        name, _, value = line.rpartition(" ")
        assert name == expected.rpartition(" ")[0]
        # Sums are of the same numbers in another order.
        assert line == expected or abs(float(value) - float(expected.rpartition(" ")[2])) < 1e-9


def _lines(registry: CollectorRegistry) -> list[str]:
    return generate_latest(registry).decode().splitlines()


def test_series_are_dropped_by_some_of_their_labels() -> None:
    registry = CollectorRegistry()
    family = DistributionFamily("x", "Help", ["model", "phase"], BOUNDS, registry)
    for labels in (("a", "1"), ("a", "2"), ("b", "1")):
        family.labels(*labels).observe([0.2])
    family.remove_by_labels({"model": "a"})
    assert registry.get_sample_value("x_count", {"model": "b", "phase": "1"}) == 1
    assert b'model="a"' not in generate_latest(registry)


def test_no_value_is_lost_between_threads() -> None:
    family = DistributionFamily("x", "Help", [], BOUNDS, CollectorRegistry())
    threads = [threading.Thread(target=lambda: [family.labels().observe([0.2, 0.7]) for _ in range(500)]) for _ in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counts, total = family.labels().read()
    assert counts[-1] == 2000
    assert abs(total - 900) < 1e-6


def test_the_latest_exemplar_of_each_bucket_is_shown() -> None:
    registry = CollectorRegistry()
    distribution = DistributionFamily("x_seconds", "Help", ["kind"], BOUNDS, registry).labels("a")
    shown = [(0.05, "old"), (0.1, "edge"), (20.0, "slow")]
    distribution.observe([value for value, _ in shown])
    for when, (value, trace_id) in enumerate(shown):
        distribution.exemplify(value, trace_id, float(when))
    (family,) = registry.collect()
    found = {sample.labels["le"]: sample.exemplar for sample in family.samples if sample.exemplar is not None}
    assert found == {
        "0.1": Exemplar({"trace_id": "edge"}, 0.1, 1.0),
        "+Inf": Exemplar({"trace_id": "slow"}, 20.0, 2.0),
    }
