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
    sizes = np.arange(1, largest + 1)
    seconds = np.array([costs(size) for size in range(1, largest + 1)])
    cheapest = np.minimum.accumulate(seconds[::-1])[::-1]  # of a size and the larger ones
    # Row i % len(rows), of those who have considered i arrivals, by the number served; low to high is in use.
    rows = np.full((largest + 1, count + 1), math.inf)
    low, high = np.full(len(rows), count), np.full(len(rows), -1)
    rows[0, 0], low[0], high[0] = -math.inf, 0, 0
    numbers = np.arange(count + 1)

    for i in range(count):
        place, following, due = i % len(rows), (i + 1) % len(rows), instants[i] + limit_seconds
        used = slice(low[place], high[place] + 1)
        idle = np.flatnonzero(rows[place, used] <= instants[i])
        first = low[place] + (idle[-1] if len(idle) else 0)
        free = rows[place, first : used.stop].copy()
        rows[place, used], low[place], high[place] = math.inf, count, -1
        # This arrival is not served.
        target = rows[following, first : used.stop]
        np.minimum(target, free, out=target)
        low[following], high[following] = min(low[following], first), max(high[following], used.stop - 1)
        # It is the first of a batch of each size; the last to arrive says when the batch can begin.
        last = instants[i : i + largest]
        size = sizes[: np.count_nonzero(np.maximum(free.min(), last) + cheapest[: len(last)] <= due)]
        end = np.maximum(free, last[: len(size), np.newaxis]) + seconds[: len(size), np.newaxis]
        end[end > due] = math.inf
        ended = end < math.inf
        some = ended.any(axis=1)
        size, end, most = size[some], end[some], len(free) - 1 - ended[some, ::-1].argmax(axis=1)
        places = (i + size) % len(rows)
        cells = places[:, np.newaxis], first + size[:, np.newaxis] + numbers[: len(free)]
        rows[cells] = np.minimum(rows[cells], end)
        low[places] = np.minimum(low[places], first + size)
        high[places] = np.maximum(high[places], first + size + most)
    place = count % len(rows)
    return int(low[place] + np.flatnonzero(rows[place, low[place] : high[place] + 1] < math.inf)[-1])
