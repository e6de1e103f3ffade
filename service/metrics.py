"""Every metric: name, help, labels, buckets; one object, made by the composition root and passed in.

Prefix ``convserve_``, base units, ``_total`` on counters. Labels are bounded: models and versions
come from the repository, never from a caller, and an unknown model is counted under an empty name.
Histograms rather than summaries, since only histograms add up over replicas
(prometheus.io/docs/practices/histograms).
"""

from __future__ import annotations

import copy
import threading
import weakref
from collections import Counter as Counts
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Metric, disable_created_metrics, generate_latest
from prometheus_client.exposition import choose_encoder
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from service.distribution import DistributionFamily

# gRFC A66's latency bounds, cut to what a CNN can take: 50 µs to 10 s.
_SECONDS = (5e-5, 1e-4, 2e-4, 4e-4, 8e-4, 1.5e-3, 3e-3, 6e-3, 0.012, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 10.0)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
_RATIO = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0)
_MODEL = ("model", "version")
_SETTLE_BATCHES = 64  # pending counts are added up in bulk: once so many batches
_SETTLE_CALLS = 512  # or calls have been noted, or somebody looks
_Item = TypeVar("_Item")
STATES = ("LOADING", "READY", "UNLOADING", "UNAVAILABLE")


@dataclass(slots=True)
class Duration:
    """A count and a sum of nanoseconds, as ``inference.StatisticDuration`` has them."""

    count: int = 0
    ns: int = 0

    def add(self, count: int, seconds: float) -> None:
        """Add ``count`` events that took ``seconds`` together."""
        self.count += count
        self.ns += int(seconds * 1e9)


@dataclass(slots=True)
class BatchDurations:
    """Phases of the executions of one batch size."""

    compute_input: Duration = field(default_factory=Duration)
    compute_infer: Duration = field(default_factory=Duration)
    compute_output: Duration = field(default_factory=Duration)


@dataclass(slots=True)
class Statistics:
    """What ModelStatistics reports of a version since it was loaded. Guarded by ``ModelMetrics``."""

    last_inference_ms: int = 0
    inference_count: int = 0
    execution_count: int = 0
    success: Duration = field(default_factory=Duration)
    fail: Duration = field(default_factory=Duration)
    queue: Duration = field(default_factory=Duration)
    compute_input: Duration = field(default_factory=Duration)
    compute_infer: Duration = field(default_factory=Duration)
    compute_output: Duration = field(default_factory=Duration)
    cache_hit: Duration = field(default_factory=Duration)
    cache_miss: Duration = field(default_factory=Duration)
    by_batch_size: dict[int, BatchDurations] = field(default_factory=dict)


class _Batch(NamedTuple):
    """A batch that ran, not yet added up."""

    queue_seconds: Sequence[float]
    rows: int
    padding: float
    assemble: float
    infer: float
    reason: str
    ended_ms: int


class Settles(Protocol):
    """Counts in bulk: keeps what happened, and adds it up when asked."""

    def settle(self) -> None:
        """Add everything up that happened before the call."""
        ...


class _Pending(Collector):
    """Has every owner of pending counts settle them before a scrape."""

    def __init__(self) -> None:
        self.owners: weakref.WeakSet[Settles] = weakref.WeakSet()

    def settle(self) -> None:
        for owner in list(self.owners):
            owner.settle()

    def collect(self) -> Iterable[Metric]:
        self.settle()
        return ()


class Metrics:
    """The registry and its families."""

    def __init__(self, version: str, runtime: str) -> None:
        """Register everything.

        Args:
            version: Of convserve, for ``build_info``.
            runtime: Name and version of the inference runtime, for ``build_info``.
        """
        # One series more for each child, and nobody reads it.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self._pending = _Pending()
        self.registry.register(self._pending)  # first, so that what follows shows what it settles
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self.requests = self._counter("requests", "Calls answered, by gRPC status code", *_MODEL, "method", "code")
        self.request_seconds = self._histogram(
            "request_duration_seconds", "From intake to reply, successful calls", _SECONDS, *_MODEL
        )
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
        self.cancelled = self._counter("cancelled", "Callers who left, by stage of their request", *_MODEL, "stage")
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
        self.load_seconds = self._gauge("model_load_duration_seconds", "Time from LOADING to READY", *_MODEL)
        self._gauge("build_info", "Versions", "version", "runtime").labels(version, runtime).set(1)

    def expose(self) -> bytes:
        """Return the Prometheus text format, version 0.0.4."""
        return generate_latest(self.registry)

    def settle(self) -> None:
        """Add everything up that is pending, for who reads a family without a scrape."""
        self._pending.settle()

    def negotiate(self, accept: str) -> tuple[bytes, str]:
        """Return what a scraper gets, and its content type.

        Args:
            accept: Its header Accept. ``application/openmetrics-text`` gives OpenMetrics, with exemplars;
                anything else, and what makes no sense, what :meth:`expose` returns.
        """
        try:
            encode, content_type = choose_encoder(accept)
        except (TypeError, ValueError):  # a version that is no number
            encode, content_type = choose_encoder("")
        return encode(self.registry), content_type

    def before_scrapes(self, owner: Settles) -> None:
        """Have an object settle its pending counts before every scrape, as long as it lives."""
        self._pending.owners.add(owner)

    def set_state(self, model: str, version: str, state: str) -> None:
        """Show ``state`` as the only state of a version; one of :data:`STATES`."""
        for candidate in STATES:
            self.state.labels(model, version, candidate).set(candidate == state)

    def forget(self, model: str, version: str) -> None:
        """Drop every series of an unloaded version."""
        for family in vars(self).values():
            if isinstance(family, DistributionFamily) or (
                isinstance(family, Counter | Gauge) and "model" in family._labelnames
            ):
                family.remove_by_labels({"model": model, "version": version})

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"convserve_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"convserve_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, bounds: Sequence[float], *labels: str) -> DistributionFamily:
        return DistributionFamily(f"convserve_{name}", text, labels, bounds, self.registry)


class ModelMetrics:
    """One version's series with their labels bound, and its statistics. Thread-safe.

    What happens is noted, and added up in bulk once much has happened or somebody looks, so that a
    request costs a fraction of a microsecond. Scrapes see it as long as it lives: whoever drops it calls
    ``settle`` before.
    """

    def __init__(self, metrics: Metrics, model: str, version: str, wall_clock_ms: Callable[[], int]) -> None:
        """Bind the labels.

        Args:
            metrics: The families.
            model: Name in the repository.
            version: Its version as text.
            wall_clock_ms: Milliseconds since the epoch, for ``last_inference``.
        """
        labels = (model, version)
        self._families = metrics
        self._labels = labels
        self._wall_clock_ms = wall_clock_ms
        self._lock = threading.Lock()
        self._statistics = Statistics()
        self._request_seconds = metrics.request_seconds.labels(*labels)
        self._batch_size = metrics.batch_size.labels(*labels)
        self._padding_ratio = metrics.padding_ratio.labels(*labels)
        self._confidence = metrics.confidence.labels(*labels)
        self._phase = {
            phase: metrics.phase_seconds.labels(*labels, phase)
            for phase in ("decode", "queue", "assemble", "infer", "postprocess")
        }
        self._batches: deque[_Batch] = deque()
        self._replies: deque[tuple[int, int, float]] = deque()
        self._decoded: deque[float] = deque()
        self._succeeded: deque[float] = deque()
        self._failed: deque[float] = deque()
        self._rejected: deque[str] = deque()
        self._best: deque[tuple[np.ndarray, np.ndarray, Sequence[str]]] = deque()
        metrics.before_scrapes(self)

    def watch_queue(self, depth: Callable[[], int]) -> None:
        """Read the queue's depth whenever somebody scrapes."""
        self._families.queue_depth.labels(*self._labels).set_function(depth)

    def watch_cache(self, size: Callable[[], int]) -> None:
        """Read the response cache's size in bytes whenever somebody scrapes."""
        self._families.cache_bytes.labels(*self._labels).set_function(size)

    def observe_cache_hit(self, seconds: float) -> None:
        """Count an answer from the cache and the time to find it; as in Triton it is no inference, yet was queued."""
        self._families.cache_hits.labels(*self._labels).inc()
        with self._lock:
            self._statistics.cache_hit.add(1, seconds)
            self._statistics.queue.add(1, 0.0)

    def observe_cache_miss(self, seconds: float, evicted: int) -> None:
        """Count an answer that was not in the cache, the time to look for it and to keep it, and who left for it."""
        self._families.cache_misses.labels(*self._labels).inc()
        if evicted:
            self._families.cache_evictions.labels(*self._labels).inc(evicted)
        with self._lock:
            self._statistics.cache_miss.add(1, seconds)

    def observe_merged(self) -> None:
        """Count a request that shared another's run."""
        self._families.merged.labels(*self._labels).inc()

    def observe_batch(
        self, queue_seconds: Sequence[float], *, rows: int, padding: float, assemble: float, infer: float, reason: str
    ) -> None:
        """Count a batch that ran: for each of its requests the seconds in the queue, and its phases."""
        self._batches.append(_Batch(queue_seconds, rows, padding, assemble, infer, reason, self._wall_clock_ms()))
        if len(self._batches) >= _SETTLE_BATCHES:
            self.settle()

    def observe_postprocess(self, requests: int, rows: int, seconds: float) -> None:
        """Add the time from the backend's return to the last reply of a batch already observed.

        ``observe_batch`` has counted it: perf_analyzer aborts when the phases' counts ever differ.
        """
        self._replies.append((requests, rows, seconds))

    def observe_decode(self, seconds: float) -> None:
        """Count the decoding or tokenising of a call's items."""
        self._decoded.append(seconds)
        if len(self._decoded) >= _SETTLE_CALLS:
            self.settle()

    def observe_success(self, seconds: float, trace_id: str = "") -> None:
        """Count an answered call, from intake to reply; ``trace_id`` makes it its bucket's exemplar."""
        if trace_id:
            self._request_seconds.exemplify(seconds, trace_id, self._wall_clock_ms() / 1000)
        self._succeeded.append(seconds)
        if len(self._succeeded) >= _SETTLE_CALLS:
            self.settle()

    def observe_failure(self, seconds: float) -> None:
        """Count a call that ended in an error."""
        self._failed.append(seconds)
        if len(self._failed) >= _SETTLE_CALLS:
            self.settle()

    def observe_predictions(self, classes: np.ndarray, probabilities: np.ndarray, labels: Sequence[str]) -> None:
        """Count top-1 answers of a batch already observed.

        Args:
            classes: (N,) integers, the best class of each row.
            probabilities: (N,) its probability.
            labels: Names of all classes.
        """
        self._best.append((classes, probabilities, labels))

    def snapshot(self) -> Statistics:
        """Return a consistent copy of the statistics."""
        self.settle()
        with self._lock:
            return copy.deepcopy(self._statistics)

    def settle(self) -> None:
        """Add everything up that was noted before the call."""
        with self._lock:
            # Replies before batches: of a batch that is noted meanwhile, both wait for the next time.
            replies, batches = taken(self._replies), taken(self._batches)
            self._settle_batches(batches)
            self._settle_replies(replies)
            self._settle_predictions(taken(self._best))
            if decoded := taken(self._decoded):
                self._phase["decode"].observe(decoded)
            if succeeded := taken(self._succeeded):
                self._request_seconds.observe(succeeded)
                self._statistics.success.add(len(succeeded), sum(succeeded))
            if failed := taken(self._failed):
                self._statistics.fail.add(len(failed), sum(failed))
            for reason, count in Counts(taken(self._rejected)).items():
                self._families.rejected.labels(*self._labels, reason).inc(count)

    def _settle_batches(self, batches: Sequence[_Batch]) -> None:
        if not batches:
            return
        self._phase["queue"].observe([seconds for batch in batches for seconds in batch.queue_seconds])
        self._phase["assemble"].observe([batch.assemble for batch in batches])
        self._phase["infer"].observe([batch.infer for batch in batches])
        self._batch_size.observe([batch.rows for batch in batches])
        self._padding_ratio.observe([batch.padding for batch in batches])
        for reason, count in Counts(batch.reason for batch in batches).items():
            self._families.releases.labels(*self._labels, reason).inc(count)
        stats = self._statistics
        for batch in batches:
            requests = len(batch.queue_seconds)
            stats.inference_count += batch.rows
            stats.execution_count += 1
            stats.last_inference_ms = max(stats.last_inference_ms, batch.ended_ms)
            stats.queue.add(requests, sum(batch.queue_seconds))
            stats.compute_input.add(requests, requests * batch.assemble)
            stats.compute_infer.add(requests, requests * batch.infer)
            stats.compute_output.add(requests, 0.0)
            own = stats.by_batch_size.setdefault(batch.rows, BatchDurations())
            own.compute_input.add(1, batch.assemble)
            own.compute_infer.add(1, batch.infer)
            own.compute_output.add(1, 0.0)

    def _settle_replies(self, replies: Sequence[tuple[int, int, float]]) -> None:
        if not replies:
            return
        self._phase["postprocess"].observe([seconds for _, _, seconds in replies])
        stats = self._statistics
        for requests, rows, seconds in replies:
            stats.compute_output.add(0, requests * seconds)
            stats.by_batch_size[rows].compute_output.add(0, seconds)

    def _settle_predictions(self, best: Sequence[tuple[np.ndarray, np.ndarray, Sequence[str]]]) -> None:
        if not best:
            return
        labels = best[0][2]
        counts = np.bincount(np.concatenate([classes for classes, _, _ in best]))
        for place in counts.nonzero()[0].tolist():
            self._families.predictions.labels(*self._labels, labels[place]).inc(int(counts[place]))
        self._confidence.observe(np.concatenate([probabilities for _, probabilities, _ in best]))

    def rejected(self, reason: str) -> None:
        """Count a refused request."""
        self._rejected.append(reason)
        if len(self._rejected) >= _SETTLE_CALLS:
            self.settle()

    def cancelled(self, stage: str) -> None:
        """Count a caller who left."""
        self._families.cancelled.labels(*self._labels, stage).inc()


def taken(pending: deque[_Item]) -> list[_Item]:
    """Take out what is there now; whoever appends meanwhile is served next time. Thread-safe."""
    items: list[_Item] = []
    try:
        for _ in range(len(pending)):
            items.append(pending.popleft())  # noqa: PERF401 - another taker may come between
    except IndexError:
        pass
    return items
