"""What happened of late to each model version, from the metrics' own counts. Pure, apart from reading them.

Metrics only count up. The difference between two readings is what happened in between, so rates and
percentiles of the last seconds cost nothing while nobody looks.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from service.distribution import DistributionFamily
from service.metrics import Metrics

_SPAN_SECONDS = 10.0  # over which rates are shown
_KEEP_SECONDS = 60.0  # older readings are not compared with

Key = tuple[str, str]
"""Model and version."""


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts by bucket.

    Attributes:
        bounds: Upper bounds of the buckets, ascending, inclusive; one more bucket without bound follows.
        counts: One a bucket, not cumulative.
        total: Sum of the values.
    """

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    total: float

    @property
    def count(self) -> int:
        """Values in all."""
        return sum(self.counts)

    @property
    def mean(self) -> float:
        """Mean value; NaN without values."""
        return self.total / self.count if self.count else math.nan

    def minus(self, earlier: Histogram) -> Histogram:
        """Return what came after an earlier reading of the same buckets."""
        counts = tuple(now - then for now, then in zip(self.counts, earlier.counts, strict=True))
        return Histogram(self.bounds, counts, self.total - earlier.total)

    def quantile(self, share: float) -> float:
        """Return the value that this share of the values does not exceed, interpolated within its bucket.

        As PromQL's ``histogram_quantile`` does it: NaN without values, the greatest bound for what lies past it.
        """
        rank = share * self.count
        if not self.count:
            return math.nan
        below = 0
        for place, (bound, count) in enumerate(zip(self.bounds, self.counts, strict=False)):
            if count and below + count >= rank:
                start = self.bounds[place - 1] if place else 0.0
                return start + (bound - start) * (rank - below) / count
            below += count
        return self.bounds[-1]


@dataclass(frozen=True, slots=True)
class Counts:
    """What was counted of one version.

    Attributes:
        codes: Calls by gRPC status code.
        latency: Seconds from intake to reply of successful calls.
        queue: Seconds in the queue.
        batch: Rows of each batch.
        padding: Share of padding of each batch.
    """

    codes: Mapping[str, int]
    latency: Histogram
    queue: Histogram
    batch: Histogram
    padding: Histogram

    def since(self, earlier: Counts) -> Counts:
        """Return what came after an earlier reading; all of it if counting began anew in between."""
        if self.latency.count < earlier.latency.count or self.batch.count < earlier.batch.count:
            return self
        return Counts(
            {code: count - earlier.codes.get(code, 0) for code, count in self.codes.items()},
            self.latency.minus(earlier.latency),
            self.queue.minus(earlier.queue),
            self.batch.minus(earlier.batch),
            self.padding.minus(earlier.padding),
        )


@dataclass(frozen=True, slots=True)
class Reading:
    """All counts at an instant, in seconds on a monotonic clock."""

    at: float
    versions: Mapping[Key, Counts]


def read(metrics: Metrics, versions: Iterable[Key], now: float) -> Reading:
    """Read the metrics of these versions; those that were never counted are left out."""
    metrics.settle()
    codes: dict[Key, dict[str, int]] = {}
    for family in metrics.requests.collect():
        for sample in family.samples:
            labels = sample.labels
            by_code = codes.setdefault((labels["model"], labels["version"]), {})
            by_code[labels["code"]] = by_code.get(labels["code"], 0) + int(sample.value)
    found: dict[Key, Counts] = {}
    for key in versions:
        latency = _histogram(metrics.request_seconds, key)
        queue = _histogram(metrics.phase_seconds, (*key, "queue"))
        batch = _histogram(metrics.batch_size, key)
        padding = _histogram(metrics.padding_ratio, key)
        if latency and queue and batch and padding:
            found[key] = Counts(codes.get(key, {}), latency, queue, batch, padding)
    return Reading(now, found)


class History:
    """Readings of the last minute, to compare with. Not thread-safe.

    At most one reading a second is kept, and none for longer than is needed.
    """

    def __init__(self) -> None:
        """Have none yet."""
        self._readings: deque[Reading] = deque()

    def earlier(self, now: float) -> Reading | None:
        """Return the youngest reading of at least ten seconds' age, else the oldest; None if there is none of use."""
        while self._readings and now - self._readings[0].at > _KEEP_SECONDS:
            self._readings.popleft()
        found = None
        for reading in self._readings:
            if found is None or now - reading.at >= _SPAN_SECONDS:
                found = reading
        return found

    def add(self, reading: Reading) -> None:
        """Keep a reading, unless there is one of the same second."""
        if not self._readings or reading.at - self._readings[-1].at >= 1.0:
            self._readings.append(reading)


def _histogram(family: DistributionFamily, labels: Sequence[str]) -> Histogram | None:
    read = family.read(*labels)
    if read is None:
        return None
    cumulative, total = read
    counts = tuple(after - before for before, after in zip((0, *cumulative), cumulative, strict=False))
    return Histogram(family.bounds, counts, total)
