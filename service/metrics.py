"""Every metric: name, help, labels, buckets; one object, made by the composition root and passed in.

Prefix ``convserve_``, base units, ``_total`` on counters. Labels are bounded: models and versions
come from the repository, never from a caller, and an unknown model is counted under an empty name.
Histograms rather than summaries, since only histograms add up over replicas
(prometheus.io/docs/practices/histograms).
"""

from __future__ import annotations

import functools
import threading
import weakref
from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Metric, disable_created_metrics
from prometheus_client.exposition import choose_encoder
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from service.distribution import DistributionFamily
from service.rpc_counts import RpcCounts

# gRFC A66's latency bounds, cut to what a CNN can take: 50 µs to 10 s.
_SECONDS = (5e-5, 1e-4, 2e-4, 4e-4, 8e-4, 1.5e-3, 3e-3, 6e-3, 0.012, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 10.0)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
_RATIO = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0)
_MODEL = ("model", "version")
_Item = TypeVar("_Item")
_TAKING = threading.Lock()  # without it two takers would take the same
STATES = ("LOADING", "READY", "UNLOADING", "UNAVAILABLE")


class Settles(Protocol):
    """Counts in bulk: keeps what happened, and adds it up when asked."""

    def settle(self) -> None:
        """Add up everything that happened before the call."""
        ...


class _Pending(Collector):
    """Makes every owner of pending counts settle them before a scrape."""

    def __init__(self) -> None:
        self._owners: weakref.WeakSet[Settles] = weakref.WeakSet()
        self._lock = threading.Lock()

    def add(self, owner: Settles) -> None:
        with self._lock:
            self._owners.add(owner)

    def settle(self) -> None:
        with self._lock:  # a set that grows cannot be listed
            owners = list(self._owners)
        for owner in owners:
            owner.settle()

    def collect(self) -> Iterable[Metric]:
        self.settle()
        return ()


class Metrics:
    """The registry and its families."""

    def __init__(self, version: str, runtime: str) -> None:
        """Register everything; the versions of convserve and of the inference runtime are for ``build_info``."""
        # They are one more series for each child, which nobody reads.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self._pending = _Pending()
        self.registry.register(self._pending)  # first, so that what follows shows what it settles
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)
        self.requests = self._counter("requests", "Calls answered, by gRPC status code", *_MODEL, "method", "code")
        self.request_seconds = self._histogram("request_duration_seconds", "Intake to reply, if OK", _SECONDS, *_MODEL)
        self.phase_seconds = self._histogram(
            "phase_duration_seconds", "Phases of a request: decode, queue, assemble, infer, postprocess", _SECONDS,
            *_MODEL, "phase",
        )  # fmt: skip
        self.queue_depth = self._gauge("queue_depth", "Requests that wait for an instance", *_MODEL)
        self.inflight = self._gauge("inflight_requests", "Calls taken in and not yet answered")
        self.ready = self._gauge("ready", "1 if every wanted model has a version READY and the server does not drain")
        self.draining = self._gauge("draining", "1 from the signal to stop until the end")
        self.batch_size = self._histogram("batch_size", "Rows in a batch, padding excluded", _ROWS, *_MODEL)
        self.padding_ratio = self._histogram(
            "batch_padding_ratio", "Share of a batch's elements that was padding", _RATIO, *_MODEL
        )
        self.releases = self._counter("batch_release", "Batches, by why they left the queue", *_MODEL, "reason")
        self.rejected = self._counter("rejected", "Requests refused, by reason", *_MODEL, "reason")
        self.cancelled = self._counter("cancelled", "Requests whose callers left, by stage", *_MODEL, "stage")
        self.cache_hits = self._counter("response_cache_hits", "Requests answered from the cache", *_MODEL)
        self.cache_misses = self._counter("response_cache_misses", "Requests run and then kept, if they fit", *_MODEL)
        self.cache_evictions = self._counter("response_cache_evictions", "Answers that left to make room", *_MODEL)
        self.cache_bytes = self._gauge("response_cache_bytes", "Size of the answers kept", *_MODEL)
        self.merged = self._counter("merged_requests", "Requests that shared the run of an identical one", *_MODEL)
        self.provider_info = self._gauge(
            "execution_provider_info", "Provider asked for and provider that runs", *_MODEL,
            "requested", "actual", "device",
        )  # fmt: skip
        self.batch_cost = self._gauge("batch_cost_seconds", "Measured cost of a batch", *_MODEL, "group", "bucket")
        self.golden_passed = self._gauge("golden_check_passed", "1 if golden vectors were reproduced", *_MODEL)
        self.golden_error = self._gauge(
            "golden_check_max_abs_error", "Largest difference from the golden answers", *_MODEL
        )
        self.predictions = self._counter("predictions", "Top-1 answers, by class", *_MODEL, "class")
        self.confidence = self._histogram(
            "prediction_confidence", "Probability of the top-1 answer",
            (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0), *_MODEL,
        )  # fmt: skip
        self.state = self._gauge("model_state", "1 for the state that the version is in", *_MODEL, "state")
        self.change_failed = self._gauge(
            "model_change_failed", "1 while something that the repository has of a model cannot be served", "model"
        )
        self.load_seconds = self._gauge("model_load_duration_seconds", "Time from LOADING to READY", *_MODEL)
        self.rpcs = RpcCounts(self.registry)
        self._gauge("build_info", "Versions", "version", "runtime").labels(version, runtime).set(1)

    def settle(self) -> None:
        """Add up everything that is pending, for a reader that is no scrape."""
        self._pending.settle()

    def negotiate(self, accept: str) -> tuple[bytes, str]:
        """Return what a scraper gets, and its content type.

        Args:
            accept: Its Accept header. ``application/openmetrics-text`` gives OpenMetrics, with exemplars;
                anything else, a malformed header included, gives the Prometheus text format.
        """
        try:
            encode, content_type = choose_encoder(accept)
        except (TypeError, ValueError):  # a version in it is no number
            encode, content_type = choose_encoder("")
        return encode(self.registry), content_type

    def before_scrapes(self, owner: Settles) -> None:
        """Make an object settle its pending counts before every scrape, as long as it lives."""
        self._pending.add(owner)

    def set_state(self, model: str, version: str, state: str) -> None:
        """Show ``state`` as the only state of a version; one of :data:`STATES`. What is not loaded shows no facts."""
        if state in ("LOADING", "UNAVAILABLE"):
            self.forget_facts(model, version)
        for candidate in STATES:
            self.state.labels(model, version, candidate).set(candidate == state)

    def forget_facts(self, model: str, version: str) -> None:
        """Drop what loading found out about a version: loaded anew, it may run elsewhere and at other batch sizes."""
        for family in (self.provider_info, self.golden_passed, self.golden_error, self.load_seconds, self.batch_cost):
            family.remove_by_labels({"model": model, "version": version})

    def forget(self, model: str, version: str) -> None:
        """Drop every series of an unloaded version."""
        for family in vars(self).values():
            if isinstance(family, DistributionFamily) or (
                isinstance(family, Counter | Gauge) and {"model", "version"} <= set(family._labelnames)
            ):
                family.remove_by_labels({"model": model, "version": version})

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"convserve_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"convserve_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, bounds: Sequence[float], *labels: str) -> DistributionFamily:
        return DistributionFamily(f"convserve_{name}", text, labels, bounds, self.registry)


@functools.cache
def nowhere() -> Metrics:
    """Return families that nobody scrapes, for what is counted too late."""
    return Metrics("", "")


def taken(pending: list[_Item]) -> list[_Item]:
    """Remove and return what a list holds now; what is appended meanwhile stays for the next time. Thread-safe."""
    with _TAKING:
        items = pending[:]
        del pending[: len(items)]  # what was appended since then stays
    return items
