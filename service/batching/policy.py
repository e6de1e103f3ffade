"""The batching rule: whom to admit, and what to run next. Pure: it takes ``now`` and decides.

Work-conserving: an idle instance never waits while a request does, unless the operator set
``max_queue_delay_seconds``. Overload is met twice. At arrival, a request whose predicted finish
lies past its deadline is refused, before anybody pays for it. At dispatch, among the possible heads
of the queue the window with the greatest b / l(b) that meets its deadlines is taken; what stands
before it and can no longer make it is dropped. First come first served, by contrast, serves the
request that is nearly late first, so that past capacity every answer is late (Nexus, SOSP 2019,
§4.3 calls the remedy early drop).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from service.batching.cost import CostModel
from service.batching.queue import RequestQueue
from service.batching.request import PendingRequest

_EARLIER_IS_WORTH = 1.02  # a later window must be better by this factor, or order of arrival wins


@dataclass(frozen=True, slots=True)
class Release:
    """Run these now.

    Attributes:
        group: Their group.
        requests: In order of arrival; their rows fit into one batch.
        late: Requests to refuse, since they cannot be answered in time any more.
        reason: ``"full"``, ``"idle"``, ``"deadline"``, ``"delay"`` or ``"drain"``.
    """

    group: Hashable
    requests: list[PendingRequest]
    late: list[PendingRequest]
    reason: str


@dataclass(frozen=True, slots=True)
class WaitUntil:
    """Nothing to run before this instant, unless something arrives; infinite when nothing waits."""

    instant: float


@dataclass(frozen=True, slots=True)
class BatchingPolicy:
    """The rule of one model version.

    Attributes:
        cost: Measured latency by batch size.
        max_batch_size: Most rows in a batch.
        max_queue_delay_seconds: How long an idle instance may wait for a fuller batch; 0 for never.
    """

    cost: CostModel
    max_batch_size: int
    max_queue_delay_seconds: float = 0.0

    def predicted_finish(
        self, rows: int, group: Hashable, queued_rows: int, busy_until: Sequence[float], now: float
    ) -> float:
        """Predict when a request that arrives now would be answered.

        The rows before it fill whole batches, shared by the instances; its own batch holds the rest.

        Args:
            rows: Its rows.
            group: Its group.
            queued_rows: Rows that wait before it.
            busy_until: For each instance the predicted end of its batch; past instants when idle.
            now: The present instant.
        """
        start = max(now, min(busy_until))
        if start == now and not queued_rows:
            return now + self.cost.least_seconds(rows, group)
        batches_ahead, rest = divmod(queued_rows, self.max_batch_size)
        ahead = batches_ahead * self.cost.seconds(self.max_batch_size, group) / len(busy_until)
        own = self.cost.bound_seconds(min(rest + rows, self.max_batch_size), group)
        return start + ahead + own

    def next(self, queue: RequestQueue, idle_instances: int, now: float, draining: bool = False) -> Release | WaitUntil:
        """Decide what an idle instance does.

        Args:
            queue: What waits; not changed.
            idle_instances: Instances that could run a batch now, the asking one included.
            now: The present instant.
            draining: No more requests will come, so waiting for company is pointless.
        """
        group = queue.oldest_group()
        if group is None:
            return WaitUntil(math.inf)
        waiting = queue.waiting(group)
        release_at = waiting[0].arrival + self.max_queue_delay_seconds
        full = sum(request.rows for request in waiting) >= self.max_batch_size
        if now < release_at and not full and not draining:
            return WaitUntil(release_at)
        start, stop, deadline_bound = self._best_window(waiting, self._share(waiting, idle_instances), now)
        taken = waiting[start:stop]
        late = self._hopeless(waiting[:start] if taken else waiting, taken, group, now)
        if not taken and not late:
            # Nobody is likely to make it, yet nobody is lost: the oldest may be lucky.
            taken, deadline_bound = waiting[:1], True
        return Release(group, taken, late, self._reason(taken, deadline_bound, draining))

    def _share(self, waiting: Sequence[PendingRequest], idle_instances: int) -> int:
        """Return the most rows this instance takes: idle instances share what waits."""
        if idle_instances <= 1:
            return self.max_batch_size
        rows = sum(request.rows for request in waiting)
        share = self.cost.bucket_of(math.ceil(rows / idle_instances))
        return max(min(share, self.max_batch_size), waiting[0].rows)

    def _best_window(self, waiting: Sequence[PendingRequest], limit: int, now: float) -> tuple[int, int, bool]:
        """Return start and stop of the best window, and whether a deadline made it smaller."""
        best = (0, 0, False)
        best_rate = 0.0
        for start in range(len(waiting)):
            stop, rows, deadline_bound = self._fit(waiting, start, limit, now)
            if stop > start:
                rate = rows / self.cost.seconds(rows, waiting[start].group)
                if rate > best_rate * _EARLIER_IS_WORTH:
                    best, best_rate = (start, stop, deadline_bound), rate
                if not deadline_bound:
                    break  # a later head could only take less
        return best

    def _fit(self, waiting: Sequence[PendingRequest], start: int, limit: int, now: float) -> tuple[int, int, bool]:
        """Return how far a window from ``start`` reaches, its rows, and whether a deadline stopped it."""
        rows, stop, earliest = 0, start, math.inf
        for request in waiting[start:]:
            if rows + request.rows > limit and (rows or request.rows > self.max_batch_size):
                return stop, rows, False
            earliest = min(earliest, request.deadline)
            if now + self.cost.bound_seconds(rows + request.rows, request.group) > earliest:
                return stop, rows, True
            rows += request.rows
            stop += 1
        return stop, rows, False

    def _hopeless(
        self, passed_over: Sequence[PendingRequest], taken: Sequence[PendingRequest], group: Hashable, now: float
    ) -> list[PendingRequest]:
        """Return those that could not be answered in time even if they ran right after this batch."""
        rows = sum(request.rows for request in taken)
        free = now + (self.cost.least_seconds(rows, group) if rows else 0.0)
        return [
            request for request in passed_over if free + self.cost.least_seconds(request.rows, group) > request.deadline
        ]

    def _reason(self, taken: Sequence[PendingRequest], deadline_bound: bool, draining: bool) -> str:
        if draining:
            return "drain"
        if deadline_bound:
            return "deadline"
        if sum(request.rows for request in taken) >= self.max_batch_size:
            return "full"
        return "delay" if self.max_queue_delay_seconds else "idle"
