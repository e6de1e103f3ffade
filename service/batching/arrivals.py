"""How many rows have arrived per second of late. Pure: it takes ``now``."""

from __future__ import annotations

import math


class ArrivalRate:
    """Counts over the last one to two periods. Not thread-safe: driven under the batcher's lock."""

    def __init__(self, period_seconds: float) -> None:
        """Start with nothing seen; a longer period is steadier, and later to see a change."""
        self._period = period_seconds
        self._start = -math.inf  # long ago: what comes first finds that it missed a period
        self._rows = 0
        self._rows_before = 0

    def observe(self, rows: int, now: float) -> None:
        """Count an arrival."""
        if now - self._start >= self._period:
            missed_one = now - self._start >= 2 * self._period
            self._rows_before = 0 if missed_one else self._rows
            self._rows = 0
            self._start = now if missed_one else self._start + self._period
        self._rows += rows

    def per_second(self, now: float) -> float:
        """Return the rate over the last whole period and the present one; 0 before a quarter of the first is over."""
        seconds = now - self._start + (self._period if self._rows_before else 0.0)
        return (self._rows_before + self._rows) / seconds if seconds >= self._period / 4 else 0.0
