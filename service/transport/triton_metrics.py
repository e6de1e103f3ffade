"""Triton's names on /metrics, for dashboards that were made for Triton. Nothing is counted for them.

At each scrape they are read from the statistics that ModelStatistics reports, so both agree. They mean what
Triton's user guide says of them, and its counters have no ``_total``. OpenMetrics, which Prometheus asks for,
knows no such counters, so their type is left open; ``rate()`` does not ask for it.
"""

from __future__ import annotations

from collections import Counter as Counts
from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter

from prometheus_client import Metric
from prometheus_client.registry import Collector

from service.errors import BackendFailed, DeadlineExceeded, DeadlineUnmeetable, QueueFull, RequestCancelled
from service.model_metrics import Statistics
from service.repository.servable import Servable

# Triton's reasons; whatever is not here is OTHER, and each is shown from the start.
_REASONS = {
    QueueFull.reason: "REJECTED",
    DeadlineUnmeetable.reason: "REJECTED",
    DeadlineExceeded.reason: "REJECTED",
    RequestCancelled.reason: "CANCELED",
    BackendFailed.reason: "BACKEND",
}
_OTHER = "OTHER"


# Name, help and statistic; nanoseconds are shown as microseconds.
_COUNTERS = (
    ("inference_request_success", "Requests answered", "success.count"),
    ("inference_count", "Rows run; what comes from the cache is not", "inference_count"),
    ("inference_exec_count", "Batches run", "execution_count"),
    ("inference_request_duration_us", "Time from intake to reply of requests answered", "success.ns"),
    ("inference_queue_duration_us", "Time requests waited", "queue.ns"),
    ("inference_compute_input_duration_us", "Time requests spent while inputs were prepared", "compute_input.ns"),
    ("inference_compute_infer_duration_us", "Time requests spent in the backend", "compute_infer.ns"),
    ("inference_compute_output_duration_us", "Time requests spent while outputs were handed out", "compute_output.ns"),
)
_CACHE_COUNTERS = (
    ("cache_num_hits_per_model", "Requests answered from the cache", "cache_hit.count"),
    ("cache_num_misses_per_model", "Requests not found there", "cache_miss.count"),
    ("cache_hit_duration_per_model", "Time to find answers, in us", "cache_hit.ns"),
    ("cache_miss_duration_per_model", "Time to look for answers in vain and to keep them, in us", "cache_miss.ns"),
)


class TritonMetrics(Collector):
    """Collects of every version that is READY; as in Triton, of the cache only where there is one."""

    def __init__(self, ready: Callable[[], Sequence[Servable]]) -> None:
        """Wire up; ``ready`` returns every READY version."""
        self._ready = ready

    def collect(self) -> Iterable[Metric]:
        """Yield the families as a scrape shows them."""
        versions = [(servable, servable.metrics.snapshot()) for servable in self._ready()]
        cached = [
            (servable, stats)
            for servable, stats in versions
            if servable.shared is not None and servable.shared.cache is not None
        ]
        for counters, shown in ((_COUNTERS, versions), (_CACHE_COUNTERS, cached)):
            for name, text, statistic in counters:
                family = Metric(f"nv_{name}", text, "unknown")
                read, unit = attrgetter(statistic), 1000 if statistic.endswith(".ns") else 1
                for servable, stats in shown:
                    family.add_sample(family.name, _labels(servable), read(stats) // unit)
                yield family
        yield _failures(versions)
        pending = Metric("nv_inference_pending_request_count", "Requests that wait to be run", "gauge")
        for servable, _ in versions:
            pending.add_sample(pending.name, _labels(servable), servable.batcher.queued)
        yield pending


def _failures(versions: Iterable[tuple[Servable, Statistics]]) -> Metric:
    family = Metric("nv_inference_request_failure", "Requests not answered, by reason", "unknown")
    for servable, stats in versions:
        by_reason = Counts(dict.fromkeys((*_REASONS.values(), _OTHER), 0))
        for reason, count in stats.failures.items():
            by_reason[_REASONS.get(reason, _OTHER)] += count
        for reason, count in by_reason.items():
            family.add_sample(family.name, _labels(servable) | {"reason": reason}, count)
    return family


def _labels(servable: Servable) -> dict[str, str]:
    return {"model": servable.name, "version": str(servable.version)}
