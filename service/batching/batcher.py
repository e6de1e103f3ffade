"""The shell around policy, queue and assembly: a lock, a condition and the instances' threads."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from service.batching.assembly import BatchBuffer, padding_ratio, split
from service.batching.policy import BatchingPolicy, Release
from service.batching.queue import RequestQueue
from service.batching.request import BatchFacts, PendingRequest
from service.errors import (
    BackendFailed,
    DeadlineExceeded,
    DeadlineUnmeetable,
    ModelNotReady,
    QueueFull,
    RequestCancelled,
    ServingError,
)

_LOG = logging.getLogger(__name__)

Run = Callable[[Sequence[np.ndarray]], list[np.ndarray]]


class Observer(Protocol):
    """Who is told what happens; must be quick and must not raise. Called without the lock held."""

    def batch(self, requests: Sequence[PendingRequest], facts: BatchFacts) -> None:
        """A batch was answered."""

    def failed(self, requests: Sequence[PendingRequest]) -> None:
        """A batch failed in the backend."""

    def rejected(self, reason: str) -> None:
        """A request was refused; ``reason`` is the error's reason in lower case."""

    def cancelled(self, stage: str) -> None:
        """A caller left while its request was ``"queued"`` or ``"running"``."""


@dataclass(frozen=True, slots=True)
class BatcherLimits:
    """Bounds of one batcher.

    Attributes:
        max_queued_requests: Most requests that may be reserved or waiting at once.
        instances: Threads that run batches, each with its own buffers; at least 1.
    """

    max_queued_requests: int
    instances: int


class Batcher:
    """Takes requests in, runs them in batches, gives each its own rows back.

    Contract:
        * A request is refused at once or queued at once; no method waits for room.
        * A queued request is settled exactly once, by ``answer`` or by ``refuse``, whatever happens:
          the backend fails, its deadline passes, its caller or its neighbours leave, the batcher
          closes.
        * With an instance idle and no delay set, a request never waits. Otherwise it waits at most
          for the batches before it; a group of other shapes is served in order of its oldest
          request.
        * One request is never split over two batches.
        * Memory: at most ``max_queued_requests`` requests and one batch an instance.

    Thread-safe. Locks are held for list operations only: replies, the backend and the observer
    run outside.
    """

    def __init__(
        self,
        run: Run,
        policy: BatchingPolicy,
        *,
        limits: BatcherLimits,
        new_buffer: Callable[[], BatchBuffer],
        observer: Observer,
        clock: Callable[[], float] = time.monotonic,
        on_death: Callable[[], None] = lambda: None,
    ) -> None:
        """Set up without starting a thread; see :meth:`start`.

        Args:
            run: The backend; called from the instances' threads at once.
            policy: The batching rule.
            limits: Bounds.
            new_buffer: Makes one instance's buffers.
            observer: Told of batches, refusals and cancellations.
            clock: Seconds, monotonic.
            on_death: Called if an instance's thread dies of an error of ours; everything queued has
                been refused by then and nothing is admitted any more.
        """
        self.policy = policy
        self._run = run
        self._limits = limits
        self._new_buffer = new_buffer
        self._observer = observer
        self._clock = clock
        self._on_death = on_death
        self._queue = RequestQueue()
        self._reserved = 0
        self._idle = limits.instances
        self._busy_until = [0.0] * limits.instances
        self._closing = False
        self._dead = False
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)
        self._settled = threading.Condition(self._lock)
        self._threads: list[threading.Thread] = []

    def start(self, name: str) -> None:
        """Start the instances' threads, named after the model."""
        for instance in range(self._limits.instances):
            thread = threading.Thread(target=self._serve, args=(instance,), name=f"{name}/{instance}", daemon=True)
            self._threads.append(thread)
            thread.start()

    @property
    def queued(self) -> int:
        """Requests that wait."""
        return len(self._queue)

    @property
    def running(self) -> int:
        """Instances that run a batch."""
        return self._limits.instances - self._idle

    def reserve(self) -> None:
        """Take a place in the queue before paying for a request's preparation.

        Every reservation ends in exactly one :meth:`submit` or :meth:`release`.

        Raises:
            QueueFull: All places are taken (RESOURCE_EXHAUSTED, with the predicted time to drain).
            ModelNotReady: The batcher is closing or dead (UNAVAILABLE).
        """
        with self._lock:
            error = self._refusal_at_door()
            if error is None:
                self._reserved += 1
        if error is not None:
            self._observer.rejected(error.reason.lower())
            raise error

    def release(self) -> None:
        """Give a reservation back without a request."""
        with self._lock:
            self._reserved -= 1
            self._settled.notify_all()

    def submit(self, request: PendingRequest) -> None:
        """Queue a request for which a place was reserved; the reservation is used up either way.

        Raises:
            DeadlineExceeded: Its deadline has passed (DEADLINE_EXCEEDED).
            DeadlineUnmeetable: Its predicted finish lies past its deadline (RESOURCE_EXHAUSTED).
            ModelNotReady: The batcher is dead (UNAVAILABLE).
        """
        now = self._clock()
        with self._lock:
            self._reserved -= 1
            error = self._refusal(request, now)
            if error is None:
                self._queue.append(request)
                if self._idle:
                    self._work.notify()
            else:
                self._settled.notify_all()
        if error is not None:
            self._observer.rejected(error.reason.lower())
            raise error

    def cancel(self, request: PendingRequest) -> None:
        """Forget a request whose caller left.

        A queued one leaves the queue and is refused with CANCELLED at once. A running one is
        computed with its neighbours, which never notice, and its rows are dropped.
        """
        with self._lock:
            was_queued = self._queue.remove(request)
            request.cancelled = True
            if was_queued:
                self._settled.notify_all()
        if was_queued:
            self._observer.cancelled("queued")
            self._refuse([request], RequestCancelled("the caller left"))

    def close(self, grace_seconds: float | None = None) -> None:
        """Admit nothing more, finish what is reserved, queued or running, end the threads.

        Args:
            grace_seconds: How long to wait for that; what is then still queued is refused with
                UNAVAILABLE, and a batch that still runs is left to its thread. None waits as long
                as it takes.
        """
        give_up = None if grace_seconds is None else time.monotonic() + grace_seconds
        with self._lock:
            self._closing = True
            self._work.notify_all()
            self._settled.wait_for(self._is_quiet, grace_seconds)
            leftover = self._queue.drain()
            self._dead = True
            self._work.notify_all()
        self._refuse(leftover, ModelNotReady("the model was unloaded before this request ran"))
        for thread in self._threads:
            thread.join(None if give_up is None else max(0.0, give_up - time.monotonic()))

    def _is_quiet(self) -> bool:
        return self._dead or not (self._reserved or len(self._queue) or self.running)

    def _refusal_at_door(self) -> ServingError | None:
        if self._closing or self._dead:
            return ModelNotReady("the model is being unloaded")
        waiting = len(self._queue) + self._reserved
        if waiting < self._limits.max_queued_requests:
            return None
        policy = self.policy
        batches = self._queue.rows / policy.max_batch_size / self._limits.instances
        group = self._queue.oldest_group()
        drain_seconds = max(batches, 1.0) * policy.cost.seconds(policy.max_batch_size, group)
        return QueueFull(
            f"the queue is full: {waiting} requests wait, at most {self._limits.max_queued_requests} may",
            retry_after_seconds=drain_seconds,
            facts={"queued": str(waiting), "limit": str(self._limits.max_queued_requests)},
        )

    def _refusal(self, request: PendingRequest, now: float) -> ServingError | None:
        if self._dead:
            return ModelNotReady("the model is being unloaded")
        if request.deadline <= now:
            return DeadlineExceeded("the deadline had passed before the request could be queued")
        if request.deadline == float("inf"):
            return None
        finish = self.policy.predicted_finish(request.rows, request.group, self._queue.rows, self._busy_until, now)
        if finish <= request.deadline:
            return None
        wait_seconds = finish - now
        return DeadlineUnmeetable(
            f"the answer would take {wait_seconds:.3f} s, the deadline leaves {request.deadline - now:.3f} s",
            retry_after_seconds=finish - request.deadline,
            facts={"queued": str(len(self._queue)), "predicted_seconds": f"{wait_seconds:.6f}"},
        )

    def _serve(self, instance: int) -> None:
        """The life of an instance's thread."""
        try:
            buffer = self._new_buffer()
            while (release := self._await_release(instance)) is not None:
                self._run_batch(instance, buffer, release)
        except BaseException:
            _LOG.exception("an instance's thread died")
            self._die()

    def _await_release(self, instance: int) -> Release | None:
        """Wait for the policy to release something; None ends the thread. Late requests are refused here."""
        while True:
            with self._lock:
                release = self._next_release(instance)
            if release is None:
                return None
            if release.late:
                for _ in release.late:
                    self._observer.rejected(DeadlineExceeded.reason.lower())
                self._refuse(release.late, DeadlineExceeded("the deadline passed while the request was queued"))
            if release.requests:
                return release

    def _next_release(self, instance: int) -> Release | None:
        if self._busy_until[instance]:
            self._busy_until[instance] = 0.0
            self._idle += 1
            self._settled.notify_all()
        while not self._dead:
            now = self._clock()
            decision = self.policy.next(self._queue, self._idle, now, self._closing)
            if isinstance(decision, Release):
                self._queue.take(decision.group, [*decision.late, *decision.requests])
                if decision.requests:
                    rows = sum(request.rows for request in decision.requests)
                    self._busy_until[instance] = now + self.policy.cost.seconds(rows, decision.group)
                    self._idle -= 1
                if self._idle and len(self._queue):
                    self._work.notify()
                self._settled.notify_all()
                return decision
            self._work.wait(None if decision.instant == float("inf") else max(0.0, decision.instant - now))
        return None

    def _run_batch(self, instance: int, buffer: BatchBuffer, release: Release) -> None:
        """Assemble, run and answer."""
        requests = release.requests
        released = self._clock()
        rows = sum(request.rows for request in requests)
        bucket = self.policy.cost.bucket_of(rows)
        error: ServingError | None = None
        outputs: list[np.ndarray] = []
        padding = 0.0
        assembled = released
        try:
            batch = buffer.assemble(requests, bucket)
            padding = padding_ratio(requests, batch)
            assembled = self._clock()
            outputs = self._run(batch)
            _check_rows(outputs, bucket)
        except ServingError as raised:
            error = raised
        except Exception:
            _LOG.exception("a batch failed")
            error = BackendFailed("the batch failed")
        finished = self._clock()
        if error is None:
            self.policy.cost.observe(rows, release.group, finished - assembled)
        if error is not None:
            self._observer.failed(requests)
            self._refuse(requests, error)
            return
        facts = BatchFacts(
            rows, bucket, padding, instance, release.reason, released, assembled - released, finished - assembled
        )
        self._answer(requests, outputs, facts)

    def _answer(self, requests: Sequence[PendingRequest], outputs: Sequence[np.ndarray], facts: BatchFacts) -> None:
        try:
            self._observer.batch(requests, facts)
        except Exception:
            _LOG.exception("the observer failed")
        for request, rows in zip(requests, split(outputs, requests), strict=True):
            if request.cancelled:
                self._observer.cancelled("running")
                self._refuse([request], RequestCancelled("the caller left"))
                continue
            try:
                request.reply.answer(rows, request, facts)
            except Exception:
                _LOG.exception("a reply failed")

    def _refuse(self, requests: Sequence[PendingRequest], error: ServingError) -> None:
        for request in requests:
            try:
                request.reply.refuse(error)
            except Exception:
                _LOG.exception("a reply failed")

    def _die(self) -> None:
        with self._lock:
            self._dead = self._closing = True
            leftover = self._queue.drain()
            self._work.notify_all()
            self._settled.notify_all()
        self._refuse(leftover, ModelNotReady("the model stopped working"))
        self._on_death()


def _check_rows(outputs: Sequence[np.ndarray], bucket: int) -> None:
    """Refuse a result that cannot be split: somebody would get another's rows.

    Raises:
        BackendFailed: An output has another number of rows than went in (INTERNAL).
    """
    for output in outputs:
        if output.ndim == 0 or len(output) != bucket:
            rows = "no" if output.ndim == 0 else str(len(output))
            _LOG.error("the backend returned %s rows for a batch of %d", rows, bucket)
            raise BackendFailed(f"the backend returned {rows} rows for a batch of {bucket}")
