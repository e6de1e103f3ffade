"""What a batch costs: l(b), the measured latency by batch size, refreshed while serving.

Buckets are the batch sizes that really run; a batch is padded up to the next one. For each bucket
(and each group of lengths of a sentence model) the table keeps a smoothed mean and a smoothed
deviation, updated as TCP updates its round-trip estimate (Jacobson 1988; RFC 6298 §2). That
needs no lock: a lost update costs one sample, no more.

Estimates steer what runs, and only what runs is measured. A pause of the machine must not shut a
batch size out for good. So the mean of a size that does not run follows those that do, as far from
its first measurement as they are from theirs, and its deviation falls back to the first one.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Hashable, Mapping, Sequence

_PAUSE = 4.0  # times what was predicted
_PAUSE_SECONDS = 0.005  # more than the kernel's time slice of 3 ms, which tiny batches wait for every now and then
_MEAN_GAIN = 1 / 16  # slower than TCP's 1/8: a batch's cost has a level, not a path
_DEVIATION_GAIN = 1 / 8
_DEVIATIONS = 3.0
_FOLLOW_GAIN = 1 / 64  # per batch of another size
_IDLE_BATCHES = 16  # of other sizes in a row: what runs as often as that is measured
_MOST_LEVEL = 2.0
_MAX_GROUPS = 256  # callers choose the shapes of a third-party graph; they do not choose our memory
_FORGET = 1 + 1 / 256  # per batch: the best time from before the machine became slower says nothing any more
_LEAST_SECONDS = 1e-9  # nothing is free: rates divide by a cost
_TRIED_BATCHES = 64  # more than one pause of the machine inflates


def buckets_up_to(max_batch_size: int) -> tuple[int, ...]:
    """Return 1, 2, 4, ... and ``max_batch_size`` itself.

    >>> buckets_up_to(12)
    (1, 2, 4, 8, 12)
    """
    sizes = []
    size = 1
    while size < max_batch_size:
        sizes.append(size)
        size *= 2
    return (*sizes, max_batch_size)


def pause_beyond(predicted: float) -> float:
    """Return after how many seconds a batch was not slow but stopped, since the machine paused."""
    return max(_PAUSE * predicted, predicted + _PAUSE_SECONDS)


class _Estimate:
    """Mean and deviation of one cell, first and present, and its least time of late, in seconds.

    The least time is unknown until the cell has run ``untried`` more times.
    """

    __slots__ = ("deviation", "first", "first_deviation", "idle", "least", "mean", "stopped", "untried")

    def __init__(self, mean: float, deviation: float, least: float, untried: int = 0) -> None:
        self.first = self.mean = max(mean, _LEAST_SECONDS)
        self.first_deviation = self.deviation = deviation
        self.least = least
        self.untried = untried
        self.idle = 0
        self.stopped = False

    def learn(self, seconds: float) -> None:
        self.idle = 0
        self.untried = max(0, self.untried - 1)
        self.least = min(self.least * _FORGET, seconds)
        # In full, one pause would rule the size out for hundreds of batches. Twice in a row it is slow.
        paused = seconds > (most := pause_beyond(self.mean))
        error = (most if paused and not self.stopped else seconds) - self.mean
        self.stopped = paused
        self.deviation += _DEVIATION_GAIN * (abs(error) - self.deviation)
        self.mean = max(self.mean + _MEAN_GAIN * error, _LEAST_SECONDS)

    def follow(self, ran: _Estimate) -> None:
        """Follow a size that runs, if this one does not: as far from the first measurement as that size is.

        A smaller size pulls upwards less: the cost of a small batch is mostly what any batch costs. A size that takes
        more than twice its first time, through a pause of the machine or for that reason, says nothing about others;
        then an inflated mean only falls back to the first.

        Args:
            ran: The estimate of the size that ran.
        """
        self.idle += 1
        if self.idle < _IDLE_BATCHES:
            return
        self.deviation -= _FOLLOW_GAIN * max(0.0, self.deviation - self.first_deviation)
        level = ran.mean / ran.first
        tells = level <= _MOST_LEVEL
        error = self.first * (level if tells else 1.0) - self.mean
        if error < 0:
            self.mean += _FOLLOW_GAIN * error
        elif tells:
            self.mean += _FOLLOW_GAIN * error * min(1.0, ran.first / self.first)


class CostModel:
    """Predicts how long a batch will take. Reads and updates are lock-free and thread-safe."""

    def __init__(self, buckets: Sequence[int], measured: Mapping[Hashable, Sequence[Sequence[float]]]) -> None:
        """Start from measurements.

        Args:
            buckets: Batch sizes that run, ascending, at least one.
            measured: For each group (at least one) and each bucket, a list of at least one measured
                time in seconds.
        """
        self.buckets = tuple(buckets)
        self._cells = {group: [_estimate(samples) for samples in by_bucket] for group, by_bucket in measured.items()}
        self._ran: set[Hashable] = set()
        # A shape that was never measured (third-party graphs with free dimensions) is assumed to cost
        # the same as this one until it has run.
        self._stand_in = next(iter(self._cells.values()))

    def has_run(self, group: Hashable) -> bool:
        """Return whether a batch of the group has run in service; what was measured at load may be an estimate."""
        return group in self._ran

    def bucket_of(self, rows: int) -> int:
        """Return the smallest bucket that holds ``rows``; ``rows`` itself past the largest."""
        index = bisect_left(self.buckets, rows)
        return self.buckets[index] if index < len(self.buckets) else rows

    def bucket_below(self, rows: int) -> int:
        """Return the largest bucket of fewer than ``rows``; 0 for none."""
        index = bisect_left(self.buckets, rows)
        return self.buckets[index - 1] if index else 0

    def seconds(self, rows: int, group: Hashable) -> float:
        """Predict the time of a batch of ``rows``, as a mean."""
        return self._cell(rows, group).mean

    def bound_seconds(self, rows: int, group: Hashable) -> float:
        """Predict a time that a batch of ``rows`` seldom exceeds: the mean and three deviations."""
        cell = self._cell(rows, group)
        return cell.mean + _DEVIATIONS * cell.deviation

    def least_seconds(self, rows: int, group: Hashable) -> float:
        """Return what a batch of ``rows`` costs at best: the quickest of late, or the present mean.

        Use this one to give up on a request. A pause of the machine inflates the mean, and a pause at load
        inflates the first measurement. If that refused everything, nothing would run and nothing would correct it.
        For the same reason a shape that was not measured before serving costs nothing at best, until batches
        of that size have run often enough for their quickest to count.
        """
        if group not in self._cells:
            return 0.0
        cell = self._cell(rows, group)
        return 0.0 if cell.untried else min(cell.least, cell.mean)

    def observe(self, rows: int, group: Hashable, seconds: float) -> None:
        """Learn from a batch that ran."""
        index = self._index(rows)
        cells = self._cells.get(group)
        if cells is None:
            if len(self._cells) < _MAX_GROUPS:
                self._ran.add(group)
                scale = seconds / self._stand_in[index].mean
                self._cells[group] = [
                    _Estimate(cell.mean * scale, cell.deviation * scale, math.inf, _TRIED_BATCHES)
                    for cell in self._stand_in
                ]
            return
        self._ran.add(group)
        ran = cells[index]
        ran.learn(seconds)
        for cell in cells:
            if cell is not ran:
                cell.follow(ran)

    def table(self) -> dict[Hashable, list[tuple[int, float]]]:
        """Return the mean seconds of each group's buckets."""
        return {
            group: [(bucket, cell.mean) for bucket, cell in zip(self.buckets, cells, strict=True)]
            for group, cells in self._cells.copy().items()  # a copy: observe adds groups meanwhile
        }

    def _cell(self, rows: int, group: Hashable) -> _Estimate:
        return self._cells.get(group, self._stand_in)[self._index(rows)]

    def _index(self, rows: int) -> int:
        return min(bisect_left(self.buckets, rows), len(self.buckets) - 1)


def _estimate(samples: Sequence[float]) -> _Estimate:
    """Start from the median, which one slow first run does not move."""
    middle = sorted(samples)[len(samples) // 2]
    return _Estimate(middle, sum(abs(sample - middle) for sample in samples) / len(samples), min(samples))
