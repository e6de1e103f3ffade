"""Predicts when a request that arrives now would be answered. Pure: it takes ``now``."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

from service.batching.choice import BATCH_OVERHEAD_SECONDS
from service.batching.cost import CostModel
from service.batching.queue import RequestQueue
from service.batching.request import PendingRequest

_WORTH_A_REFUSAL = 1.02  # the factor that a fuller batch must gain to be worth refusing early requests


class Forecast:
    """What the policy will do with the queue, as far as it can be known when a request arrives.

    Worst case: O(batch sizes), plus what the queue needs to count the rows ahead.
    """

    def __init__(self, queue: RequestQueue, cost: CostModel, enough: int) -> None:
        """Predict by measured costs; requests are not combined beyond ``enough`` rows."""
        self._queue = queue
        self._cost = cost
        self._enough = enough

    def finish_at_best(self, request: PendingRequest, busy_until: Sequence[float], now: float) -> float:
        """Predict the earliest instant at which a request that arrives now can be answered.

        Assumes that requests with a deadline before it may be dropped.

        Args:
            request: The request.
            busy_until: For each instance the predicted end of its batch; past instants when idle.
            now: The present instant.
        """
        ahead = self._queue.patient_rows_before(request.turn)
        wait, before = self._behind(ahead, request.rows, request.group)
        start = max(now, min(busy_until)) + wait / len(busy_until)
        return start + self._cost.least_seconds(before + request.rows, request.group)

    def expected_finish(
        self,
        request: PendingRequest,
        busy_until: Sequence[float],
        now: float,
        rate: float,
        deadline: float,
    ) -> float:
        """Predict the instant at which a request that arrives now will be answered, by the bound.

        The requests ahead fill batches, which the instances share. The next batch is no larger than the deadline of
        the first in line allows. The request's own batch grows by what arrives until it starts, to the size that gives
        most answers per second. Past capacity this makes the earliest arrivals during a batch too late: they would
        keep the next batch small.

        Args:
            request: The request.
            busy_until: For each instance the predicted end of its batch; past instants when idle.
            now: The present instant.
            rate: Rows that arrive per second.
            deadline: The instant that matters: a finish predicted before it may in truth be earlier.
        """
        group = request.group
        start, before, room = self._batch(request, busy_until, now)
        rows = before + request.rows
        expected = max(rows, min(rows + rate * (start - now), room))
        finish = start + self._cost.bound_seconds(math.ceil(expected), group)
        if finish <= deadline:
            return finish
        return start + self._cost.bound_seconds(self._planned(rows, expected, group), group)

    def _batch(self, request: PendingRequest, busy_until: Sequence[float], now: float) -> tuple[float, int, int]:
        """Return when the request's batch starts, how many rows stand before its own there, and the batch's limit."""
        rows, group = request.rows, request.group
        start, ahead = max(now, min(busy_until)), self._queue.rows_before(request.turn)
        if not ahead:
            return start, 0, self._enough
        first = self._room(start, group, self._queue.first_deadline(group))
        if ahead + rows <= first:
            return start, ahead, first
        first = min(first, ahead)
        wait, before = self._behind(ahead - first, rows, group)
        return start + (self._cost.seconds(first, group) + wait) / len(busy_until), before, self._enough

    def _room(self, start: float, group: Hashable, deadline: float) -> int:
        """Return how many rows a batch may have that must end by a deadline.

        If no size does, the request with that deadline will be left out, so the deadline does not count.
        """
        size = self._enough
        while size and start + self._cost.bound_seconds(size, group) > deadline:
            size = self._cost.bucket_below(size)
        return size or self._enough

    def _behind(self, ahead: int, rows: int, group: Hashable) -> tuple[float, int]:
        """Return how long whole batches of the rows ahead run, and the rows that remain for the request's batch."""
        batches, rest = divmod(ahead, self._enough)
        wait = batches * self._cost.seconds(self._enough, group)
        if rest and rest + rows > self._enough:  # never split, so it waits for one more batch
            return wait + self._cost.seconds(rest, group), 0
        return wait, rest

    def _planned(self, rows: int, expected: float, group: Hashable) -> int:
        """Return the size that a batch of ``rows`` should have, when ``expected`` rows are expected."""
        sizes, rates = [self._cost.bucket_of(rows)], []
        while True:
            rates.append(min(sizes[-1], expected) / (self._cost.seconds(sizes[-1], group) + BATCH_OVERHEAD_SECONDS))
            if sizes[-1] >= expected:
                break
            sizes.append(self._cost.bucket_of(sizes[-1] + 1))
        least = max(rates) / _WORTH_A_REFUSAL
        return next(size for size, rate in zip(sizes, rates, strict=True) if rate >= least)
