"""When a request that arrives now would be answered. It takes ``now`` and predicts; all it keeps is a shortcut."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

from service.batching.choice import BATCH_OVERHEAD_SECONDS
from service.batching.cost import CostModel
from service.batching.queue import RequestQueue
from service.batching.request import PendingRequest

_WORTH_A_REFUSAL = 1.02  # the factor that a fuller batch must gain, for which the early ones are refused


class Forecast:
    """What the policy will make of those who wait, as far as it can be known at the door. Not thread-safe.

    Worst case: ``expected_finish`` is O(batches that wait x batch sizes); it is O(1) for one who comes behind all
    others, while nobody's place has changed.
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
        self._known_for: tuple[float, int, Hashable] | None = None
        self._known = (0, 0.0)

    def finish_at_best(self, request: PendingRequest, busy_until: Sequence[float], now: float) -> float:
        """Predict the earliest instant at which a request that arrives now can be answered.

        Those before it that have a deadline may be dropped for it.

        Args:
            request: It.
            busy_until: For each instance the predicted end of its batch; past instants when idle.
            now: The present instant.
        """
        batches, before = divmod(self._queue.patient_rows_before(request.turn), self._enough)
        if before and before + request.rows > self._enough:  # never split, so it waits for one more batch
            batches, before = batches + 1, 0
        wait = batches * self._cost.seconds(self._enough, request.group) / len(busy_until)
        return max(now, min(busy_until)) + wait + self._cost.least_seconds(before + request.rows, request.group)

    def expected_finish(
        self,
        request: PendingRequest,
        busy_until: Sequence[float],
        now: float,
        rate: float,
        deadline: float,
    ) -> float:
        """Predict the instant at which a request that arrives now will be answered, by the bound.

        Those ahead fill batches, shared by the instances, each no larger than its first request can bear; who can bear
        none will be dropped. Its own grows until it starts, by what arrives meanwhile, to the size that gives most
        answers a second. Past capacity that makes the early ones among those who arrive during a batch too late: they
        would keep the next one small.

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
        queue, rows, group = self._queue, request.rows, request.group
        ahead = queue.rows_before(request.turn)
        start, place = max(now, min(busy_until)), 0
        key = (start, queue.revision, group) if ahead == queue.rows else None
        if key is not None and key == self._known_for:
            place, start = self._known
        known = place, start
        room = self._enough
        while place < ahead:
            room = self._room(start, group, queue.deadline_at(group, place))
            if ahead - place + rows <= room:
                break
            if room:
                start += self._cost.seconds(room, group) / len(busy_until)
            place += max(room, 1)
            if place <= ahead:  # else a request that is never split leaves room for smaller ones
                known = place, start
            room = self._enough
        if key is not None:
            self._known_for, self._known = key, known
        return start, max(ahead - place, 0), room

    def _room(self, start: float, group: Hashable, deadline: float) -> int:
        """Return how many rows a batch may have that is to end by a deadline; 0 for one that will be given up."""
        if start + self._cost.bound_seconds(1, group) > deadline:
            return 0  # asked first, since after a pause of the machine that holds for all who wait
        size = self._enough
        while size and start + self._cost.bound_seconds(size, group) > deadline:
            size = self._cost.bucket_below(size)
        return size

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
