"""One version's numbers: its metric series, and what ModelStatistics reports."""

from __future__ import annotations

import copy
import logging
import threading
import weakref
from collections import Counter as Counts
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np

from service.metrics import Metrics, nowhere, taken

_LOG = logging.getLogger(__name__)

# Pending counts are added up in bulk: when somebody reads them, or once so many batches or calls have been noted.
_SETTLE_BATCHES = 64
_SETTLE_CALLS = 512


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
    """Phases of the executions, of one batch size or of all."""

    compute_input: Duration = field(default_factory=Duration)
    compute_infer: Duration = field(default_factory=Duration)
    compute_output: Duration = field(default_factory=Duration)


@dataclass(slots=True)
class Statistics(BatchDurations):
    """What ModelStatistics reports of a version since it was loaded. Guarded by ``ModelMetrics``."""

    last_inference_ms: int = 0
    inference_count: int = 0
    execution_count: int = 0
    success: Duration = field(default_factory=Duration)
    fail: Duration = field(default_factory=Duration)
    queue: Duration = field(default_factory=Duration)
    cache_hit: Duration = field(default_factory=Duration)
    cache_miss: Duration = field(default_factory=Duration)
    by_batch_size: dict[int, BatchDurations] = field(default_factory=dict)
    failures: Counts[str] = field(default_factory=Counts)
    """Of ``fail``, by the reason that the callers got (``ErrorInfo.reason``)."""


class _Batch(NamedTuple):
    """A batch that ran, not yet added up."""

    queue_seconds: Sequence[float]
    rows: int
    padding: float
    assemble: float
    infer: float
    reason: str
    ended_ms: int


class Queued(Protocol):
    """Something with a queue."""

    @property
    def queued(self) -> int:
        """Requests that wait."""
        ...


class ModelMetrics:
    """One version's series with their labels bound, and its statistics. Thread-safe.

    Events are noted, and added up in bulk once there are many or somebody reads them, so that a request
    costs a fraction of a microsecond. Scrapes include it as long as it lives: call ``settle`` before
    dropping it.
    """

    def __init__(self, metrics: Metrics, model: str, version: str, wall_clock_ms: Callable[[], int]) -> None:
        """Bind the labels; ``wall_clock_ms`` gives milliseconds since the epoch, for ``last_inference``."""
        self.version = version
        """As text."""
        labels = (model, version)
        self._families = metrics
        self._labels = labels
        self._wall_clock_ms = wall_clock_ms
        self._lock = threading.Lock()
        self._statistics = Statistics()
        self._request_seconds = metrics.request_seconds.labels(*labels)
        self._batch_size = metrics.batch_size.labels(*labels)
        self._padding_ratio = metrics.padding_ratio.labels(*labels)
        self._phase = {
            phase: metrics.phase_seconds.labels(*labels, phase)
            for phase in ("decode", "queue", "assemble", "infer", "postprocess")
        }
        self._batches: list[_Batch] = []
        self._replies: list[tuple[int, int, float]] = []
        self._decoded: list[float] = []
        self._succeeded: list[float] = []
        self._failed: list[tuple[float, str]] = []
        self._rejected: list[str] = []
        self._best: list[tuple[np.ndarray, np.ndarray, Sequence[str]]] = []
        metrics.before_scrapes(self)

    def watch_queue(self, queue: Queued) -> None:
        """Report a queue's depth at every scrape, without keeping the queue alive for that."""
        seen = weakref.ref(queue)
        depth = self._families.queue_depth.labels(*self._labels)
        depth.set_function(lambda: 0 if (still := seen()) is None else still.queued)

    def watch_cache(self, size: Callable[[], int]) -> None:
        """Report the response cache's size in bytes at every scrape."""
        self._families.cache_bytes.labels(*self._labels).set_function(size)

    def cache_hit(self, seconds: float) -> None:
        """Count an answer from the cache and the time to find it; as in Triton it was queued, but is no inference."""
        self._families.cache_hits.labels(*self._labels).inc()
        with self._lock:
            self._statistics.cache_hit.add(1, seconds)
            self._statistics.queue.add(1, 0.0)

    def cache_miss(self, seconds: float, evicted: int, calls: int = 1) -> None:
        """Count an answer that the cache lacked, the time to seek and to keep it, and the entries evicted for it."""
        self._families.cache_misses.labels(*self._labels).inc(calls)
        if evicted:
            self._families.cache_evictions.labels(*self._labels).inc(evicted)
        with self._lock:
            self._statistics.cache_miss.add(calls, seconds)

    def merged(self) -> None:
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
        """Count the decoding or tokenising of those items of a call that run together."""
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

    def observe_failure(self, seconds: float, reason: str, count: int = 1) -> None:
        """Count calls that ended in an error after ``seconds`` each; ``reason`` is the one that their callers got."""
        self._failed.extend([(seconds, reason)] * count)
        if len(self._failed) >= _SETTLE_CALLS:
            self.settle()

    def observe_predictions(self, classes: np.ndarray, probabilities: np.ndarray, labels: Sequence[str]) -> None:
        """Count the top-1 answers (N,) of a batch already observed, and their probabilities (N,)."""
        self._best.append((classes, probabilities, labels))

    def rejected(self, reason: str, count: int = 1) -> None:
        """Count refused requests."""
        self._rejected.extend([reason] * count)
        if len(self._rejected) >= _SETTLE_CALLS:
            self.settle()

    def cancelled(self, stage: str) -> None:
        """Count a caller who left."""
        self._families.cancelled.labels(*self._labels, stage).inc()

    def snapshot(self) -> Statistics:
        """Return a consistent copy of the statistics."""
        self.settle()
        with self._lock:
            return copy.deepcopy(self._statistics)

    def close(self) -> None:
        """Count nothing from now on, such as the end of a batch that was given up: its series are gone."""
        self.settle()
        self._families = nowhere()

    def settle(self) -> None:
        """Add up what was noted. Never raises: what cannot be added up is logged and lost."""
        with self._lock:
            try:
                replies = taken(self._replies)  # before batches: if a batch is noted meanwhile, both wait
                self._settle_batches(taken(self._batches))
                self._settle_replies(replies)
                self._settle_predictions(taken(self._best))
                self._settle_calls()
            except Exception:
                _LOG.exception("some of what happened could not be counted")

    def _settle_calls(self) -> None:
        if decoded := taken(self._decoded):
            self._phase["decode"].observe(decoded)
        if succeeded := taken(self._succeeded):
            self._request_seconds.observe(succeeded)
            self._statistics.success.add(len(succeeded), sum(succeeded))
        if failed := taken(self._failed):
            self._statistics.fail.add(len(failed), sum(seconds for seconds, _ in failed))
            self._statistics.failures.update(reason for _, reason in failed)
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
            own = stats.by_batch_size.setdefault(batch.rows, BatchDurations())
            for durations, count in ((stats, requests), (own, 1)):
                durations.compute_input.add(count, count * batch.assemble)
                durations.compute_infer.add(count, count * batch.infer)
                durations.compute_output.add(count, 0.0)

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
        self._families.confidence.labels(*self._labels).observe(
            np.concatenate([probabilities for _, probabilities, _ in best])
        )
