"""The batching rule: what to run next. Pure: it takes ``now`` and decides.

The rule is work-conserving: an idle instance never waits while a request does, unless the operator set
``max_queue_delay_seconds``. Overload is met twice. At arrival, a request that is expected to be late is
refused (:mod:`service.batching.forecast`). At dispatch, every batch size is tried with the oldest requests that it
answers in time, and the size with the greatest b / l(b) is taken; requests that can no longer be answered in time are
dropped. First come first served, by contrast, begins with the request that is nearly late, so that
past capacity every answer is late (Nexus, SOSP 2019, §4.3 calls the remedy early drop). If all requests
have the same time limit, the batch is a window of the queue. If limits differ, the hurried requests are
left out one by one and the patient ones keep their turn. "Oldest" is by the requests' turns: a request of low
priority counts as younger than it is (:mod:`service.batching.priority`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

from service.batching.choice import BATCH_OVERHEAD_SECONDS
from service.batching.cost import CostModel
from service.batching.forecast import Forecast
from service.batching.queue import RequestQueue
from service.batching.request import PendingRequest

_NEARLY_AS_GOOD = 0.9  # share of the rows a second that a smaller batch may give up
_WORTH_IT = 1.02  # the factor that leaving the oldest out, or a second batch, must gain

Predict = Callable[[int, Hashable], float]


@dataclass(frozen=True, slots=True)
class Release:
    """Run these requests now.

    Attributes:
        group: Their group.
        requests: In order of their turns; their rows fit into one batch.
        late: Requests to refuse, since they can no longer be answered in time.
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

    Worst case: ``next`` is O(batch sizes x requests of the group). A request without a deadline is
    in the first batch of its group that has room for it, so none starves.

    Attributes:
        cost: Measured latency by batch size.
        max_batch_size: Most rows in a batch.
        max_queue_delay_seconds: How long an idle instance may wait for a fuller batch; 0 for never.
        useful_batch_size: Requests are not combined beyond this many rows, since that gains nothing; 0 for
            ``max_batch_size``. A single request may have more.
    """

    cost: CostModel
    max_batch_size: int
    max_queue_delay_seconds: float = 0.0
    useful_batch_size: int = 0

    @property
    def enough(self) -> int:
        """Rows of the largest useful batch; requests are not combined beyond that."""
        return self.useful_batch_size or self.max_batch_size

    def forecast(self, queue: RequestQueue) -> Forecast:
        """Return a forecast of what this rule will do with a queue."""
        return Forecast(queue, self.cost, self.enough)

    def next(
        self, queue: RequestQueue, idle_instances: int, now: float, draining: bool = False, instances: int = 1
    ) -> Release | WaitUntil:
        """Decide what an idle instance does.

        Args:
            queue: The waiting requests; not changed.
            idle_instances: Instances that could run a batch now, the asking one included.
            now: The present instant.
            draining: Whether no more requests will come, so that waiting for company is pointless.
            instances: The number of all instances: another one may take what this one leaves.
        """
        wake = math.inf
        for group in queue.groups_by_age():
            waiting = queue.waiting(group)
            due = now if draining or not self.max_queue_delay_seconds else self._due(waiting)
            if due <= now:
                return self._release(waiting, idle_instances, now, draining, instances)
            wake = min(wake, due)
        return WaitUntil(wake)

    def _due(self, waiting: Sequence[PendingRequest]) -> float:
        """Return until when a group may wait for company: until its delay is over or a deadline is near."""
        rows = _rows(waiting)
        if rows >= self.enough:
            return -math.inf
        # Twice the batch's time, since a thread wakes late and others may come first.
        reserve_seconds = 2 * self.cost.bound_seconds(rows, waiting[0].group)
        last_start = min(request.deadline for request in waiting) - reserve_seconds
        oldest = min(request.arrival for request in waiting)
        return min(oldest + self.max_queue_delay_seconds, last_start)

    def _release(
        self, waiting: list[PendingRequest], idle_instances: int, now: float, draining: bool, instances: int
    ) -> Release:
        soonest = min([request.deadline for request in waiting])
        limit = self._share(waiting, idle_instances, soonest - now)
        if _rows(waiting) <= limit and now + self.cost.bound_seconds(limit, waiting[0].group) <= soonest:
            taken = self._trim(waiting)  # nobody to choose between, as mostly below capacity
            return Release(waiting[0].group, taken, [], self._reason(waiting, taken, False, draining, now))
        if soonest == math.inf:
            taken = self._trim(self._fill(waiting, limit, now, self.cost.seconds)[0])
            return Release(waiting[0].group, taken, [], self._reason(waiting, taken, False, draining, now))
        taken, deadline_bound = self._choose(waiting, limit, now, self.cost.bound_seconds)
        if not taken:
            # None is likely to be answered in time; take those that would be with luck.
            taken, deadline_bound = self._choose(waiting, limit, now, self.cost.least_seconds)
        late = self._late(waiting, taken, now, alone=instances == 1)
        return Release(waiting[0].group, taken, late, self._reason(waiting, taken, deadline_bound, draining, now))

    def _share(self, waiting: Sequence[PendingRequest], idle_instances: int, left_seconds: float) -> int:
        """Return the most rows this instance takes: idle instances share the queue, with one more share if it is cheap.

        Callers who wait for answers and then ask again come back together, when their batch ends. If that batch took
        the whole queue, the instance has nothing to do until they are back. So a part is left for then, if smaller
        batches cost little more per row and no deadline is near.
        """
        rows, group = _rows(waiting), waiting[0].group
        share = min(self.cost.bucket_of(math.ceil(rows / max(idle_instances, 1))), self.enough)
        part = self.cost.bucket_of(math.ceil(rows / (max(idle_instances, 1) + 1)))
        if (
            part < share
            and self._rate(part, group) >= _NEARLY_AS_GOOD * self._rate(share, group)
            and 2 * self.cost.bound_seconds(share, group) <= left_seconds
        ):
            share = part
        return max(share, *[request.rows for request in waiting])

    def _rate(self, rows: int, group: Hashable) -> float:
        return rows / (self.cost.seconds(rows, group) + BATCH_OVERHEAD_SECONDS)

    def _choose(
        self, waiting: Sequence[PendingRequest], limit: int, now: float, predict: Predict
    ) -> tuple[list[PendingRequest], bool]:
        """Return the best batch of at most ``limit`` rows, and whether a deadline shaped it."""
        best, passed_over = self._fill(waiting, limit, now, predict)
        if not passed_over:
            return self._trim(best), False
        best, best_rate = [], 0.0
        # The smaller the batch, the older the requests that it still answers in time.
        for bucket in (*(bucket for bucket in self.cost.buckets if bucket < limit), limit):
            taken, _ = self._fill(waiting, bucket, now, predict)
            if not taken:
                continue
            rate = _rows(taken) / self.cost.seconds(_rows(taken), taken[0].group)
            if best and taken[0].handicap != best[0].handicap:
                better = taken[0].handicap < best[0].handicap  # nobody is left out for one of lower priority
            else:
                better = rate > best_rate * (1.0 if best and taken[0] is best[0] else _WORTH_IT)
            if better:
                best, best_rate = taken, rate
        return self._trim(best), True

    def _fill(
        self, waiting: Sequence[PendingRequest], limit: int, now: float, predict: Predict
    ) -> tuple[list[PendingRequest], bool]:
        """Return the oldest that a batch of ``limit`` rows answers in time, and whether any was passed over."""
        finish = now + predict(limit, waiting[0].group)
        taken: list[PendingRequest] = []
        rows, passed_over = 0, False
        for request in waiting:
            if request.deadline < finish:
                passed_over = True
            elif rows + request.rows <= limit:
                taken.append(request)
                rows += request.rows
                if rows == limit:
                    break
            elif now + predict(request.rows, request.group) <= request.deadline:
                break  # no small one overtakes a large one that does not fit
        return taken, passed_over

    def _trim(self, taken: list[PendingRequest]) -> list[PendingRequest]:
        """Leave the last requests for a second batch if two batches without padding end before one with it.

        No request loses: the first are answered earlier, and so are the last.
        """
        if len(taken) == 1:
            return taken
        rows = _rows(taken)
        if rows == self.cost.bucket_of(rows):
            return taken
        smaller = self.cost.bucket_below(rows)
        kept, kept_rows = 0, 0
        while kept < len(taken) and kept_rows + taken[kept].rows <= smaller:
            kept_rows += taken[kept].rows
            kept += 1
        if not kept:
            return taken
        group = taken[0].group
        apart = self.cost.seconds(kept_rows, group) + self.cost.seconds(rows - kept_rows, group)
        return taken[:kept] if apart * _WORTH_IT < self.cost.seconds(rows, group) else taken

    def _late(
        self, waiting: Sequence[PendingRequest], taken: Sequence[PendingRequest], now: float, alone: bool
    ) -> list[PendingRequest]:
        """Return the requests that could not be answered in time even if they ran right after this batch."""
        free = now + (self.cost.least_seconds(_rows(taken), waiting[0].group) if taken and alone else 0.0)
        leaving = set(map(id, taken))
        return [
            request
            for request in waiting
            if request.deadline < math.inf
            and id(request) not in leaving
            and free + self.cost.least_seconds(request.rows, request.group) > request.deadline
        ]

    def _reason(
        self,
        waiting: Sequence[PendingRequest],
        taken: Sequence[PendingRequest],
        deadline_bound: bool,
        draining: bool,
        now: float,
    ) -> str:
        if draining:
            return "drain"
        if deadline_bound:
            return "deadline"
        if _rows(taken) >= self.enough:
            return "full"
        if not self.max_queue_delay_seconds:
            return "idle"
        if _rows(waiting) >= self.enough:  # more would not fit, so nobody waited for company
            return "full"
        oldest = min([request.arrival for request in waiting])
        return "delay" if oldest + self.max_queue_delay_seconds <= now else "deadline"


def _rows(requests: Sequence[PendingRequest]) -> int:
    return sum([request.rows for request in requests])
