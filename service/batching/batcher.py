"""The shell around policy, queue and assembly: a lock, its conditions and the instances' threads.

It has more than 300 lines because everything that one lock guards stands together.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Hashable, Iterable

from service.batching.admission import Admission, BatcherLimits
from service.batching.answering import Answering
from service.batching.assembly import BatchBuffer
from service.batching.instance import Batch, Instance
from service.batching.lone import LoneRuns
from service.batching.observer import Observer
from service.batching.occupancy import INLINE, Occupancy
from service.batching.policy import BatchingPolicy, Release, WaitUntil
from service.batching.queue import RequestQueue
from service.batching.refusal import Refusal
from service.batching.request import PendingRequest
from service.batching.run import Run
from service.errors import (
    BackendFailed,
    DeadlineUnmeetable,
    ModelNotReady,
    RequestCancelled,
    ServingError,
    Unloading,
)
from service.scheduling import take_short_slices
from service.shortage import start_thread

_LOG = logging.getLogger(__name__)
_INLINE_SECONDS = 5e-3  # how long a batch may keep the thread that takes calls in from the next call


class Batcher:
    """Takes requests in, runs them in batches, gives each its own rows back.

    Contract:
        * A request is refused at once or queued at once; no method waits for room.
        * A queued request is settled exactly once, by ``answer`` or by ``refuse``, whatever happens:
          the backend fails, its deadline passes, its caller or its neighbours leave, the batcher
          closes.
        * If an instance is idle and no delay is set, a request never waits. Otherwise it waits at most
          for the batches before it; groups of different shapes are served in order of their oldest
          requests.
        * A request is never split over two batches.
        * If the limits allow it, a request that comes alone may run inline: on the thread that brings it, in place of
          an idle instance, which saves waking a thread. Its group must have run before and must seldom take 5 ms.
          Other requests wait for it as for the instance.
        * Memory: at most ``max_queued_requests`` requests, one batch per instance, and one that is being answered.

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
            run: The backend, called from several instances' threads at once.
            policy: The batching rule.
            limits: Bounds.
            new_buffer: Makes one instance's buffers.
            observer: Told of batches, refusals and cancellations; must not raise.
            clock: Monotonic, in seconds.
            on_death: Called once if an instance's thread, or the one that answers, dies of an error of ours. Called on
                that thread, after everything queued has been refused; nothing is admitted any more.
        """
        self.policy = policy
        self._run = run
        self._limits = limits
        self._new_buffer = new_buffer
        self._observer = observer
        self._clock = clock
        self._lone: LoneRuns | None = None
        self._had_company = False  # the last batch that began
        self._on_death = on_death
        self._queue = RequestQueue()
        self._admission = Admission(self._queue, policy, limits)
        self._reserved = 0
        self._leaving = 0  # who left the queue too late and is not told yet: their places are still theirs
        self._occupancy = Occupancy(limits.instances)
        self._inline: Instance | None = None
        self._answering: Answering | None = None
        self._closing = False
        self._dead = False
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)
        self._settled = threading.Condition(self._lock)
        self._threads: list[threading.Thread] = []

    def start(self, name: str) -> None:
        """Start the instances' threads, named after the model. From then on requests may run inline.

        Raises:
            RuntimeError: The system refuses another thread; those already started end.
        """
        if self._limits.runs_inline:
            self._inline = self._new_instance(self._limits.instances)
        try:
            if self._limits.answers_apart:
                queue = self._queue
                self._answering = Answering(f"{name}/answers", lambda: queue.rows, self._die)
            for instance in range(self._limits.instances):
                thread = threading.Thread(target=self._serve, args=(instance,), name=f"{name}/{instance}", daemon=True)
                start_thread(thread)
                self._threads.append(thread)
        except RuntimeError:
            self._end()
            raise

    def run_alone_by(self, lone: LoneRuns) -> None:
        """Use these runs from now on for batches that have the cores to themselves."""
        self._lone = lone

    @property
    def queued(self) -> int:
        """How many requests wait."""
        return len(self._queue)

    @property
    def running(self) -> int:
        """How many instances run a batch."""
        return self._occupancy.running

    @property
    def max_queued_requests(self) -> int:
        """Most requests that may be reserved or waiting at once."""
        return self._limits.max_queued_requests

    @property
    def instances(self) -> int:
        """How many threads run batches."""
        return self._limits.instances

    @property
    def last_refusal(self) -> Refusal | None:
        """The last refusal that may hold for later arrivals; see :meth:`repeats`."""
        return self._admission.last_refusal

    def reserve(self) -> None:
        """Take a place in the queue before paying for a request's preparation.

        Every reservation ends in exactly one :meth:`submit` or :meth:`release`.

        Raises:
            QueueFull: All places are taken (RESOURCE_EXHAUSTED, with the predicted time to drain).
            ModelNotReady: The batcher is closing or dead (UNAVAILABLE).
        """
        with self._lock:
            places = self._reserved + self._leaving
            error = _unloading() if self._closing else self._admission.refusal_at_door(places)
            if error is None:
                self._reserved += 1
        if error is not None:
            self._observer.rejected(error.reason.lower())
            try:
                raise error
            finally:
                del error  # its traceback knows this frame: the request would wait for the garbage collector

    def release(self) -> None:
        """Give a reservation back without a request."""
        with self._lock:
            self._reserved -= 1
            self._settled.notify_all()

    def submit(self, request: PendingRequest, inline: bool = False) -> None:
        """Queue a request for which a place was reserved. The reservation is used up either way.

        Args:
            request: The request.
            inline: Whether it came alone and the calling thread may run it.

        Raises:
            InvalidInput: It has no rows, or more than a batch holds (INVALID_ARGUMENT).
            RequestCancelled: Its caller left in the meantime (CANCELLED).
            DeadlineExceeded: Its deadline has passed (DEADLINE_EXCEEDED).
            DeadlineUnmeetable: Its predicted finish lies past its deadline (RESOURCE_EXHAUSTED).
            ModelNotReady: The batcher is dead (UNAVAILABLE).
        """
        now = self._clock()
        with self._lock:
            self._reserved -= 1
            error: ServingError | None = _unloading() if self._dead else None
            error, batch = self._take_in(request, error, inline, now)
        if error is not None:
            self._observer.rejected(error.reason.lower())
            try:
                raise error
            finally:
                del error
        if batch is not None:
            self._run_inline(batch)

    def offer(self, request: PendingRequest, inline: bool = False, anew: bool = False) -> None:
        """Reserve a place for a request that needs no preparation, and queue it.

        Args:
            request: The request.
            inline: Whether it came alone and the calling thread may run it.
            anew: Whether it waited for another request that is just being refused as too late: it takes that one's
                place, and closing does not keep it out.

        Raises:
            ServingError: As :meth:`reserve` and :meth:`submit` do.
        """
        now = self._clock()
        with self._lock:
            closed, places = self._dead if anew else self._closing, self._reserved + self._leaving - anew
            error = _unloading() if closed else self._admission.refusal_at_door(places)
            error, batch = self._take_in(request, error, inline, now)
        if error is not None:
            self._observer.rejected(error.reason.lower())
            try:
                raise error
            finally:
                del error
        if batch is not None:
            self._run_inline(batch)

    def repeats(self, refusal: Refusal, deadline: float, now: float) -> bool:
        """Return whether :attr:`last_refusal` still holds for a further arrival of its kind; takes no lock.

        Args:
            refusal: What :attr:`last_refusal` was.
            deadline: The arrival's deadline, an instant.
            now: The present instant.

        Returns:
            Whether the arrival may be refused the same way and counted by :meth:`repeated`. If not, it must become a
            request and be offered.
        """
        return not self._closing and self._admission.repeats(refusal, deadline, now)

    def repeated(self, count: int, rows: int, handicap: float) -> None:
        """Count arrivals that got the last refusal again; ``rows`` and ``handicap`` are those of each."""
        now = self._clock()
        with self._lock:
            self._admission.repeated(count, rows, handicap, now)
        self._observer.rejected(DeadlineUnmeetable.reason.lower(), count)

    def _take_in(
        self, request: PendingRequest, error: ServingError | None, inline: bool, now: float
    ) -> tuple[ServingError | None, Batch | None]:
        """Queue a request or refuse it; return the refusal, and the batch that the calling thread must run."""
        lone = None if len(self._queue) else self._lone_for(request.rows, request.group)
        forecast = lone.policy.forecast(self._queue) if lone else None
        error = error or self._admission.refusal(request, self._occupancy.busy_until(), now, forecast)
        if error is not None:
            self._settled.notify_all()
            return error, None
        self._queue.append(request)
        if inline and self._may_run_inline(request, None if self._expects_company else lone):
            decision, lone = self._decide(now)
            if isinstance(decision, Release) and decision.requests:
                return None, self._begin(INLINE, decision, lone, now)
        if self._occupancy.idle:
            self._work.notify()
        return None, None

    def _may_run_inline(self, request: PendingRequest, lone: LoneRuns | None) -> bool:
        cost = (lone or self).policy.cost
        return (
            self._inline is not None
            and not self._occupancy.running
            and len(self._queue) == 1
            and cost.has_run(request.group)
            and cost.bound_seconds(request.rows, request.group) <= _INLINE_SECONDS
        )

    def _run_inline(self, batch: Batch) -> None:
        """Run a batch on the calling thread, which must survive an error of ours."""
        assert self._inline is not None
        try:
            self._inline.run(batch)
        except BaseException:
            self._die()
            _LOG.exception("a batch failed on the thread that submitted it")
        finally:
            with self._lock:
                self._end_batch(INLINE)
                if len(self._queue):
                    self._work.notify()

    def cancel(self, request: PendingRequest) -> None:
        """Forget a request whose caller left.

        A queued request leaves the queue and is refused with CANCELLED at once. A running one is
        computed with its neighbours, which never notice, and its rows are dropped. To withdraw a request
        without counting a cancellation, settle it first.
        """
        now = self._clock()
        with self._lock:
            was_queued = self._queue.remove(request)
            request.cancelled = True
            request.left_at = now
            if was_queued:
                self._admission.left(request, now)
                self._settled.notify_all()
        if was_queued and request.refuse(RequestCancelled("the caller left", at=now)):
            self._observer.cancelled("queued")

    def is_wedged(self, limit_seconds: float) -> bool:
        """Return whether a batch has been running for longer than ``limit_seconds``."""
        now = self._clock()
        with self._lock:
            return self._occupancy.began_before(now - limit_seconds)

    def abandon(self) -> None:
        """Give up at once: refuse what is queued or running. The result of a batch that ends later is dropped."""
        self._end()
        for release in self._occupancy.releases():
            for request in release.requests:
                request.refuse(BackendFailed("the batch did not end in time"))

    def close(self, grace_seconds: float | None = None) -> None:
        """Admit nothing more, finish what is reserved, queued or running, and end the threads.

        Args:
            grace_seconds: How long to wait for that. After it, queued requests are refused with
                UNAVAILABLE and a batch that still runs is left to its thread. None waits as long
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
        self._reject(leftover, ModelNotReady("the model was unloaded before this request ran"))
        for thread in tuple(self._threads):
            if thread is not threading.current_thread():  # on_death may close
                thread.join(None if give_up is None else max(0.0, give_up - time.monotonic()))
        if self._answering is not None:
            self._answering.close(None if give_up is None else max(0.0, give_up - time.monotonic()))

    def _is_quiet(self) -> bool:
        return self._dead or not (self._reserved or self._leaving or len(self._queue) or self.running)

    def _serve(self, number: int) -> None:
        """The life of an instance's thread."""
        try:
            take_short_slices()
            instance = self._new_instance(number)
            while (batch := self._await_release(number)) is not None:
                instance.run(batch)
                del batch  # nothing of it is kept until the next one comes
        except BaseException:
            try:
                with self._lock:
                    self._end_batch(number)  # whose requests are settled: who drains it is not to wait for it
            finally:
                self._die()
            _LOG.exception("an instance's thread died")  # last: without memory the log may fail as well

    def _new_instance(self, number: int) -> Instance:
        return Instance(
            number,
            self._run,
            cost=self.policy.cost,
            buffer=self._new_buffer(),
            observer=self._observer,
            clock=self._clock,
            answering=self._answering,
        )

    def _await_release(self, number: int) -> Batch | None:
        """Wait for the policy to release a batch, and refuse late requests. None ends the thread."""
        while True:
            with self._lock:
                batch = self._next_release(number)
            if batch is None:
                return None
            self._refuse_late(batch.release)
            if batch.release.requests:
                return batch
            del batch

    def _next_release(self, number: int) -> Batch | None:
        self._end_batch(number)
        while not self._dead:
            now = self._clock()
            # No instance is idle while a batch runs inline in this one's place.
            decision, lone = self._decide(now) if self._occupancy.idle else (WaitUntil(math.inf), None)
            if isinstance(decision, Release):
                batch = self._begin(number, decision, lone, now)
                if self._occupancy.idle and len(self._queue):
                    self._work.notify()
                return batch
            self._work.wait(None if decision.instant == math.inf else max(0.0, decision.instant - now))
        return None

    def _decide(self, now: float) -> tuple[Release | WaitUntil, LoneRuns | None]:
        """Return the policy's decision, and the lone runs that carry it out; None if an instance does."""
        state = (self._queue, self._occupancy.idle, now, self._closing, self._limits.instances)
        waiting, usual = len(self._queue), None
        lone = self._lone_for(self._queue.rows, next(iter(self._queue)).group) if self._lone and waiting else None
        if lone is None or self._expects_company:
            usual = self.policy.next(*state)
            if lone is None or not (isinstance(usual, Release) and usual.late):
                return usual, None
        alone = lone.policy.next(*state)
        if isinstance(alone, WaitUntil) or len(alone.requests) + len(alone.late) == waiting:
            return alone, lone
        return usual or self.policy.next(*state), None

    def _lone_for(self, rows: int, group: Hashable) -> LoneRuns | None:
        """Return the lone runs if a batch of ``rows`` can have the cores now and is quicker that way."""
        lone = self._lone
        if lone is None or self._occupancy.running or not lone.takes(rows, group):
            return None
        return lone

    @property
    def _expects_company(self) -> bool:
        """Whether a batch that begins now will soon have company; then only one that would else be late runs alone.

        When one of two callers who wait for answers is back, the other one comes soon.
        """
        return self._had_company or self._reserved > 0

    def _begin(self, place: int, release: Release, lone: LoneRuns | None, now: float) -> Batch:
        self._queue.take(release.group, [*release.late, *release.requests])
        self._admission.gave_up(release.late)
        self._leaving += len(release.late)
        if release.requests:
            if self._lone is not None:
                busy = self._occupancy.running or len(self._queue) or self._reserved
                self._had_company = bool(busy) or not self._lone.cores_idle()
            rows = sum([request.rows for request in release.requests])
            seconds = (lone or self).policy.cost.seconds(rows, release.group)
            self._occupancy.begin(place, release, now, now + seconds)
        return Batch(release, now, lone)

    def _end_batch(self, place: int) -> None:
        ended = self._occupancy.end(place)
        if ended is not None:
            release, began, until = ended
            self._admission.ended(release, self._clock(), began, until)
            if self._closing:
                self._settled.notify_all()

    def _refuse_late(self, release: Release) -> None:
        now = self._clock()
        for request in release.late:
            self._reject([request], self._admission.too_late(request, now))
            with self._lock:
                self._leaving -= 1
                self._settled.notify_all()

    def _reject(self, requests: Iterable[PendingRequest], error: ServingError) -> None:
        for request in requests:
            self._observer.rejected(error.reason.lower())
            request.refuse(error)

    def _die(self) -> None:
        if self._end():
            self._on_death()

    def _end(self) -> bool:
        """Admit and run nothing more and refuse what is queued; return whether the batcher was alive before."""
        with self._lock:
            was_dead = self._dead
            self._dead = self._closing = True
            leftover = self._queue.drain()
            self._work.notify_all()
            self._settled.notify_all()
        if self._answering is not None:
            self._answering.close(timeout_seconds=0.0)
        self._reject(leftover, ModelNotReady("the model stopped working"))
        return not was_dead


def _unloading() -> Unloading:
    return Unloading("the model is being unloaded")
