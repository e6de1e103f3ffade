"""What nobody can exceed who runs batches of known cost: the fluid bound, and the clairvoyant optimum. Pure."""

from __future__ import annotations

import math
from argparse import ArgumentTypeError
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_WINDOW = 1000  # arrivals: the exact optimum takes time and memory by their square


@dataclass(frozen=True)
class BatchCosts:
    """How long a batch runs, by its size: the smallest measured one that holds it is run.

    Attributes:
        sizes: Ascending, at least one.
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
        """Return the seconds of a batch of that many, at most the largest."""
        return self.seconds[bisect_left(self.sizes, size)]

    def fluid_bound(self, limit_seconds: float) -> float:
        """Return the most a second, were there always a full batch at hand; 0 if no batch is within the limit."""
        pairs = zip(self.sizes, self.seconds, strict=True)
        return max((size / seconds for size, seconds in pairs if seconds <= limit_seconds), default=0.0)


def most_in_time(arrivals: Sequence[float] | np.ndarray, limit_seconds: float, costs: BatchCosts) -> int:
    """Return the most arrivals that one server can answer in time if it knows the future.

    With equal limits the served batches are windows of the arrivals, so it suffices to know, for each number of
    arrivals considered and of those served, the earliest instant at which the server is free (dynamic programming).
    Many arrivals are cut into pieces, each beginning with an idle server, which can only make it more.

    Args:
        arrivals: Ascending, in seconds.
        limit_seconds: From an arrival to the end of its batch.
        costs: Of batches.
    """
    instants = np.asarray(arrivals, dtype=float)
    pieces = range(0, len(instants), _WINDOW)
    return sum(_most_in_time(instants[start : start + _WINDOW], limit_seconds, costs) for start in pieces)


def _most_in_time(instants: np.ndarray, limit_seconds: float, costs: BatchCosts) -> int:
    count = len(instants)
    earliest = np.full((count + 1, count + 1), math.inf)
    earliest[0, 0] = -math.inf
    for i in range(count):
        considered = earliest[i, : i + 1]  # nobody has served more than that
        np.minimum(earliest[i + 1, : i + 1], considered, out=earliest[i + 1, : i + 1])  # leave out the i-th
        for size in range(1, min(costs.sizes[-1], count - i) + 1):
            end = np.maximum(considered, instants[i + size - 1]) + costs(size)
            end[end > instants[i] + limit_seconds] = math.inf
            if np.isinf(end).all():
                break
            target = earliest[i + size, size : size + i + 1]
            np.minimum(target, end, out=target)
    return int(np.flatnonzero(earliest[count] < math.inf)[-1])
