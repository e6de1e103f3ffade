"""Bounds for a server that runs batches of known cost: the fluid bound, and the clairvoyant optimum. Pure."""

from __future__ import annotations

import math
from argparse import ArgumentTypeError
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bench.errors import OptionsInvalid


@dataclass(frozen=True)
class BatchCosts:
    """How long a batch runs, by its size: as long as the smallest measured size that holds it.

    Attributes:
        sizes: In rows, or in requests; ascending, at least one.
        seconds: Of each.
    """

    sizes: tuple[int, ...]
    seconds: tuple[float, ...]

    @classmethod
    def parse(cls, text: str) -> BatchCosts:
        """Read ``SIZE:SECONDS,…``.

        Raises:
            ArgumentTypeError: It is not of that form, or a number is not positive.
        """
        try:
            pairs = sorted(
                (int(size), float(seconds)) for size, seconds in (pair.split(":") for pair in text.split(","))
            )
            if min(size for size, _ in pairs) < 1 or not all(0 < seconds < math.inf for _, seconds in pairs):
                raise ValueError
        except ValueError:
            raise ArgumentTypeError(f"{text}: expected SIZE:SECONDS,…, e.g. 1:0.0007,8:0.0053") from None
        return cls(*zip(*pairs, strict=True))

    def __str__(self) -> str:
        """Return what :meth:`parse` reads."""
        return ",".join(f"{size}:{seconds:g}" for size, seconds in zip(self.sizes, self.seconds, strict=True))

    def __call__(self, size: int) -> float:
        """Return the seconds of a batch of ``size``, which is at most the largest size."""
        return self.seconds[bisect_left(self.sizes, size)]

    def of_requests(self, rows: int) -> BatchCosts:
        """Return the same costs by the number of requests in a batch, each of that many rows.

        Raises:
            OptionsInvalid: No batch holds one.
        """
        seconds: dict[int, float] = {}
        for size, cost in zip(self.sizes, self.seconds, strict=True):
            if size >= rows:
                seconds.setdefault(size // rows, cost)  # the smallest that holds them is run
        if not seconds:
            raise OptionsInvalid(f"--costs: no batch holds the {rows} rows of a request; give a lower --rows")
        return BatchCosts(tuple(seconds), tuple(seconds.values()))

    def fluid_bound(self, limit_seconds: float) -> float:
        """Return the most per second if there is always a full batch at hand; 0 if no batch is within the limit."""
        pairs = zip(self.sizes, self.seconds, strict=True)
        return max((size / seconds for size, seconds in pairs if seconds <= limit_seconds), default=0.0)


def most_in_time(arrivals: Sequence[float] | np.ndarray, limit_seconds: float, costs: BatchCosts) -> int:
    """Return the most arrivals that one server can answer in time if it knows the future.

    With equal limits the served batches are windows of the arrivals. So it suffices to know, for each number of
    arrivals considered and each number of them served, the earliest instant at which the server is free (dynamic
    programming). Of the numbers that leave it free by the next arrival only the greatest matters, and the server is
    never busy for longer than the limit. So only few numbers are considered for each arrival.

    Args:
        arrivals: Ascending, in seconds.
        limit_seconds: From an arrival to the end of its batch.
        costs: Of batches.
    """
    instants = np.asarray(arrivals, dtype=float)
    count, largest = len(instants), costs.sizes[-1]
    seconds = [costs(size) for size in range(1, largest + 1)]
    cheapest = np.minimum.accumulate(seconds[::-1])[::-1].tolist()  # of a size and the larger ones
    # Row i % len(rows), of those who have considered i arrivals, by the number served; spans say what is in use.
    rows = np.full((largest + 1, count + 1), math.inf)
    spans = [(count, -1)] * (largest + 1)
    rows[0, 0], spans[0] = -math.inf, (0, 0)

    def offer(considered: int, low: int, free: np.ndarray) -> None:
        place = considered % len(rows)
        target = rows[place, low : low + len(free)]
        np.minimum(target, free, out=target)
        spans[place] = min(spans[place][0], low), max(spans[place][1], low + len(free) - 1)

    for i in range(count):
        place = i % len(rows)
        low, high = spans[place]
        idle = np.flatnonzero(rows[place, low : high + 1] <= instants[i])
        first = low + int(idle[-1]) if len(idle) else low
        free = rows[place, first : high + 1].copy()
        rows[place, low : high + 1], spans[place] = math.inf, (count, -1)
        offer(i + 1, first, free)
        earliest = float(free.min())
        for size in range(1, min(largest, count - i) + 1):
            if max(earliest, instants[i + size - 1]) + cheapest[size - 1] > instants[i] + limit_seconds:
                break
            end = np.maximum(free, instants[i + size - 1]) + seconds[size - 1]
            in_time = np.flatnonzero(end <= instants[i] + limit_seconds)
            if not len(in_time):
                continue
            stop = int(in_time[-1]) + 1
            offer(i + size, first + size, np.where(end[:stop] <= instants[i] + limit_seconds, end[:stop], math.inf))
    low, high = spans[count % len(rows)]
    return low + int(np.flatnonzero(rows[count % len(rows), low : high + 1] < math.inf)[-1])
