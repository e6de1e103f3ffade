"""When a request that arrives now would be answered. Pure: it takes ``now`` and predicts."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

from service.batching.choice import BATCH_OVERHEAD_SECONDS
from service.batching.cost import CostModel
from service.batching.queue import RequestQueue
from service.batching.request import PendingRequest

_WORTH_A_REFUSAL = 1.02  # the factor that a fuller batch must gain, for which the early ones are refused


class Forecast:
    """What the policy will make of those who wait, as far as it can be known at the door.

    Worst case: O(batch sizes), and what the queue needs to tell how many rows are ahead.
    """

    def __init__(self, queue: RequestQueue, cost: CostModel, enough: int) -> None:
        """Predict by measured costs.

        Args:
            queue: What waits.
            cost: Measured latency by batch size.
            enough: The largest useful batch: most rows that requests are put together to.
        """
        self._queue = queue
        self._cost = cost
        self._enough = enough

    def finish_at_best(self, request: PendingRequest, busy_until: Sequence[float], now: float) -> float:
        """Predict the earliest instant at which a request that arrives now can be answered.

        Those before it that have a deadline may be dropped for it.

        Args:
            request: It.
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

        Those ahead fill batches, shared by the instances, the next one no larger than the first in line can bear. Its
        own grows until it starts, by what arrives meanwhile, to the size that gives most answers a second. Past
        capacity that makes the early ones among those who arrive during a batch too late: they would keep the next one
        small.

        Args:
            request: It.
            busy_until: For each instance the predicted end of its batch; past instants when idle.
            now: The present instant.
            rate: Rows that arrive a second.
            deadline: The instant that matters: what ends before it may really end sooner.
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
        """Return when its batch starts, how many rows are in it before its own, and to how many it may grow."""
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
        """Return how many rows a batch may have that is to end by a deadline.

        Where none does, who has that deadline will be left out: then it is of no account.
        """
        size = self._enough
        while size and start + self._cost.bound_seconds(size, group) > deadline:
            size = self._cost.bucket_below(size)
        return size or self._enough

    def _behind(self, ahead: int, rows: int, group: Hashable) -> tuple[float, int]:
        """Return for how long whole batches of those ahead run, and the rows that are left for a request's own."""
        batches, rest = divmod(ahead, self._enough)
        wait = batches * self._cost.seconds(self._enough, group)
        if rest and rest + rows > self._enough:  # never split, so it waits for one more batch
            return wait + self._cost.seconds(rest, group), 0
        return wait, rest

    def _planned(self, rows: int, expected: float, group: Hashable) -> int:
        """Return the size that a batch of so many rows is to have, when so many are expected."""
        sizes, rates = [self._cost.bucket_of(rows)], []
        while True:
            rates.append(min(sizes[-1], expected) / (self._cost.seconds(sizes[-1], group) + BATCH_OVERHEAD_SECONDS))
            if sizes[-1] >= expected:
                break
            sizes.append(self._cost.bucket_of(sizes[-1] + 1))
        least = max(rates) / _WORTH_A_REFUSAL
        return next(size for size, rate in zip(sizes, rates, strict=True) if rate >= least)
