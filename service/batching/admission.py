"""Whom a batcher refuses at arrival, and what advice they get. Pure: it takes ``now`` and decides."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from service.batching.arrivals import ArrivalRate
from service.batching.cost import pause_beyond
from service.batching.forecast import Forecast
from service.batching.foresight import Foresight
from service.batching.occupancy import IDLE
from service.batching.policy import BatchingPolicy, Release
from service.batching.queue import RequestQueue
from service.batching.refusal import Refusal
from service.batching.request import PendingRequest
from service.errors import (
    DeadlineExceeded,
    DeadlineUnmeetable,
    InvalidInput,
    QueueFull,
    RequestCancelled,
    ServingError,
)

_PERIOD_BATCHES = 4
# How often, at most, a batch that seems hopeless is tried: its cost may have been measured on a busy machine.
_TRIAL_SECONDS = 1.0
_TRIAL_SHARE = 1 / 20  # of the time


@dataclass(frozen=True, slots=True)
class BatcherLimits:
    """Bounds of one batcher.

    Attributes:
        max_queued_requests: Most requests that may be reserved or waiting at once.
        instances: Threads that run batches, each with its own buffers; at least 1.
        prompt: Whether a request that is expected to be late is refused at arrival. If not, only one that is certain
            to be late is refused.
        runs_inline: Whether the thread that brings a request may run it in place of an idle instance.
        answers_apart: Whether a separate thread may answer a batch while the next one runs.
    """

    max_queued_requests: int
    instances: int
    prompt: bool = True
    runs_inline: bool = False
    answers_apart: bool = False


class _Level:
    """What is learnt about the requests of one priority."""

    __slots__ = ("arrivals", "foresight")

    def __init__(self, period_seconds: float, batch_size: int) -> None:
        self.arrivals = ArrivalRate(period_seconds)
        self.foresight = Foresight(batch_size)


class Admission:
    """Admits requests to one batcher. Reads its queue; call it under the batcher's lock."""

    def __init__(self, queue: RequestQueue, policy: BatchingPolicy, limits: BatcherLimits) -> None:
        """Keep what every arrival is judged by."""
        self._queue = queue
        self._policy = policy
        self._limits = limits
        self._forecast = policy.forecast(queue)
        # Long compared with a batch, so that the rate is steady; short compared with a person's patience.
        self._period_seconds = _PERIOD_BATCHES * policy.cost.seconds(policy.max_batch_size, None)
        self._levels: dict[float, _Level] = {}  # by handicap: overtaken requests do not make others' admission strict
        self._in_vain_since: dict[tuple[Hashable, int], float] = {}  # by group and bucket: given up, and none ran
        self._before: dict[Foresight, float] = {}  # what broken promises have moved since a batch ended, and from where
        self._paused = -math.inf  # when the last pause of the machine ended
        self.last_refusal: Refusal | None = None
        """The last refusal by expectation, while the instances stay busy; None if certainly none holds."""

    def refusal_at_door(self, reserved: int) -> ServingError | None:
        """Return why no place can be reserved, or None.

        Args:
            reserved: Places taken by requests that are still being prepared, or not told yet that they are too late.
        """
        waiting = len(self._queue) + reserved
        if waiting < self._limits.max_queued_requests:
            return None
        policy = self._policy
        rows = self._queue.rows
        # The size of the batches that will run, since their cost is known. Requests being prepared may fill one.
        size = policy.max_batch_size if reserved or not rows else min(rows, policy.max_batch_size)
        batches = rows / size / self._limits.instances
        group = next((request.group for request in self._queue), None)
        return QueueFull(
            f"the queue is full: {waiting} requests wait, the limit is {self._limits.max_queued_requests}",
            retry_after_seconds=max(batches, 1.0) * policy.cost.seconds(size, group),
            facts={"queued": str(waiting), "limit": str(self._limits.max_queued_requests)},
        )

    def refusal(
        self, request: PendingRequest, busy_until: Sequence[float], now: float, forecast: Forecast | None = None
    ) -> ServingError | None:
        """Return why a request cannot be queued although it has a place, or None.

        Args:
            request: The request, prepared.
            busy_until: For each instance the predicted end of its batch, which may have passed, or ``IDLE``.
            now: The present instant.
            forecast: The forecast of whoever would run the request at once; None for the instances'.
        """
        if not 1 <= request.rows <= self._policy.max_batch_size:
            return InvalidInput(f"expected 1 to {self._policy.max_batch_size} rows in a request, got {request.rows}")
        if request.cancelled:
            return RequestCancelled("the caller left")
        if request.deadline <= now:
            return DeadlineExceeded("the deadline had passed before the request could be queued")
        level = self._levels.get(request.handicap) or self._level(request.handicap)
        level.arrivals.observe(request.rows, now)
        if request.deadline == math.inf:
            return None
        last = self.last_refusal
        if (
            last is not None
            and last.is_for(request.rows, request.group, request.handicap)
            and self.repeats(last, request.deadline, now)
        ):
            level.foresight.refused(1)
            return last.error()
        if not len(self._queue) and min(busy_until) <= IDLE:
            return self._refusal_of_idle(request, busy_until, now, forecast or self._forecast)
        # While an instance is idle, only a request that is certain to be late is refused.
        by_bound = self._limits.prompt and min(busy_until) > IDLE
        if by_bound:
            finish = self._expected_finish(request, busy_until, now, level.foresight.factor(now))
        else:
            finish = (forecast or self._forecast).finish_at_best(request, busy_until, now)
        if finish <= request.deadline:
            request.promised = by_bound
            return None
        refusal = Refusal(request, finish, len(self._queue), self._queue.departures, now)
        self.last_refusal = refusal if by_bound else None
        if by_bound:
            level.foresight.refused(1)
        return refusal.error()

    def _refusal_of_idle(
        self, request: PendingRequest, busy_until: Sequence[float], now: float, forecast: Forecast
    ) -> ServingError | None:
        """Like :meth:`refusal`, for an idle instance with an empty queue: refuse only a request certain to be late.

        What seems certain of a size and group is corrected only by batches that run. So where all such requests are
        refused and none runs, one is admitted now and then as if it had no deadline.
        """
        finish = forecast.finish_at_best(request, busy_until, now)
        pause = max(_TRIAL_SECONDS, (finish - now) / _TRIAL_SHARE)
        kind = self._kind(request.rows, request.group)
        since = self._in_vain_since.get(kind, now)
        self.last_refusal = None
        if since + pause <= now:
            self._in_vain_since[kind] = now
            request.deadline = math.inf
            return None
        if finish <= request.deadline:
            return None
        self._in_vain_since[kind] = since
        trial_seconds = since + pause - now  # whoever comes before is refused again
        return Refusal(request, finish, 0, self._queue.departures, now, trial_seconds).error()

    def _kind(self, rows: int, group: Hashable) -> tuple[Hashable, int]:
        return group, self._policy.cost.bucket_of(rows)

    def repeats(self, refusal: Refusal, deadline: float, now: float) -> bool:
        """Return whether this is still the last refusal and holds for a further arrival of its kind.

        Changes nothing. May be called without the lock: a batch that ends meanwhile is then noticed a moment late.
        """
        return refusal is self.last_refusal and refusal.holds(deadline, self._queue.departures, now)

    def repeated(self, count: int, rows: int, handicap: float, now: float) -> None:
        """Count arrivals that got the last refusal again; ``rows`` and ``handicap`` are those of each."""
        level = self._level(handicap)
        level.arrivals.observe(count * rows, now)
        level.foresight.refused(count)

    def _level(self, handicap: float) -> _Level:
        return self._levels.setdefault(handicap, _Level(self._period_seconds, self._policy.enough))

    def _expected_finish(
        self, request: PendingRequest, busy_until: Sequence[float], now: float, factor: float
    ) -> float:
        # Later requests of a lower priority do not make its batch larger.
        rates = [self._levels[key].arrivals.per_second(now) for key in self._levels if key <= request.handicap]
        rate = sum(rates) / self._limits.instances
        deadline = now + (request.deadline - now) / factor
        expected = self._forecast.expected_finish(request, busy_until, now, rate, deadline)
        return now + (expected - now) * factor

    def ended(self, release: Release, now: float, began: float = -math.inf, until: float = math.inf) -> None:
        """Learn from an answered batch which of its requests were answered too late.

        If it took so long that the machine must have paused, promises made before its end teach nothing: no door
        would have kept them. What those who left meanwhile have taught is forgotten.

        Args:
            release: The batch.
            now: The present instant.
            began: When it began.
            until: When it should have ended, as predicted then.
        """
        self.last_refusal = None
        rows = sum([request.rows for request in release.requests])
        self._in_vain_since.pop(self._kind(rows, release.group), None)
        if now - began > pause_beyond(until - began):
            self._paused = now
            for foresight, excess in self._before.items():
                foresight.back_to(excess)
        self._before = {}
        self.gave_up([request for request in release.requests if request.deadline < now])

    def gave_up(self, late: Sequence[PendingRequest]) -> None:
        """Learn from requests that were admitted and are not answered in time."""
        paused = self._paused
        if broken := [request.handicap for request in late if request.promised and request.arrival >= paused]:
            for handicap, count in Counter(broken).items():
                foresight = self._level(handicap).foresight
                self._before.setdefault(foresight, foresight.excess)
                foresight.was_wrong(count)

    def left(self, request: PendingRequest, now: float) -> None:
        """Learn from a request whose caller left, perhaps because its deadline had passed unanswered."""
        if request.deadline <= now:
            self.gave_up([request])

    def too_late(self, request: PendingRequest, now: float) -> ServingError:
        """Return the error for a request that waited and can no longer be answered in time."""
        if request.deadline <= now:
            return DeadlineExceeded("the deadline passed while the request was queued")
        self._in_vain_since.setdefault(self._kind(request.rows, request.group), now)
        policy = self._policy
        return DeadlineUnmeetable(
            "too many requests are waiting, so this one cannot be answered before its deadline",
            retry_after_seconds=policy.cost.seconds(policy.max_batch_size, request.group),
        )
