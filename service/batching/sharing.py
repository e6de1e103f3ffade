"""Answers shared by identical requests: later ones take them from the cache, those in flight are merged.

Stands in front of a batcher, with its methods for requests. Cache and merging are both optional.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from service.batching.batcher import Batcher
from service.batching.keeping import Keep, Keeping, cached_facts
from service.batching.known_items import KnownItems
from service.batching.request import BatchFacts, PendingRequest
from service.batching.response_cache import Shelf, request_key
from service.errors import DeadlineExceeded, DeadlineUnmeetable, RequestCancelled, ServingError
from service.model_metrics import ModelMetrics

Queue = Callable[[PendingRequest], None]


class SharedAnswers:
    """A batcher's front. Thread-safe; its lock is held for operations on lists only.

    Contract:
        * Every request is settled exactly once, as by a batcher.
        * A request found in the cache is answered at once and needs no place in the queue. Offered requests
          are looked up here; items are looked up by :attr:`items`, before they are decoded.
        * Identical requests in flight run once, for a *carrier* that none of their callers owns. A request joins
          only a carrier whose deadline and turn are no later than its own, so it never waits longer
          than alone; otherwise it starts a carrier of its own.
        * A caller who leaves takes nobody along; the carrier is withdrawn with the last one.
        * At most ``most_joined`` requests wait for others' runs; further requests run, or are refused, by themselves.
        * If a carrier is refused for its deadline, its requests with a later one are offered again in its
          place and no later in line, even while the version is being unloaded.
        * Requests with optional inputs are not shared.
    """

    def __init__(
        self,
        batcher: Batcher,
        *,
        identity: str,
        names: Sequence[str],
        metrics: ModelMetrics,
        cache: Shelf | None = None,
        merges: bool = False,
        most_joined: int = 1024,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Stand in front of a batcher.

        Args:
            batcher: Runs what has to be run.
            identity: Model, version and digest of its file.
            names: The inputs' names.
            metrics: Counts hits, misses and merged requests.
            cache: Where the version's answers are kept; None for no cache.
            merges: Whether identical requests in flight run once.
            most_joined: Most requests that may wait for others' runs, since they take no place in the queue.
            clock: The batcher's.
        """
        self.cache = cache
        self.items = KnownItems(identity, cache, metrics, clock) if cache is not None else None
        self.merges = merges
        self._batcher = batcher
        self._identity = identity
        self._names = names
        self._metrics = metrics
        self._clock = clock
        self._lock = threading.Lock()
        self._flights: dict[bytes, _Flight] = {}
        self._members: dict[PendingRequest, _Flight] = {}
        self._most_joined = most_joined
        self.joined = 0
        """How many requests wait for others' runs."""

    def offer(self, request: PendingRequest, inline: bool = False) -> None:
        """Answer, merge or queue a request; never run it inline, since others may want its answer.

        Raises:
            ServingError: As :meth:`Batcher.offer` does.
        """
        self._take(request, self._batcher.offer, lambda: None, self.cache)

    def submit(self, request: PendingRequest, inline: bool = False) -> None:
        """Merge or queue a request for which a place was reserved; the place is used up or given back.

        Raises:
            ServingError: As :meth:`Batcher.submit` does.
        """
        self._take(request, self._batcher.submit, self._batcher.release, None)

    def close(self) -> None:
        """Drop the version's answers and keep no more; requests that wait for a run still get its answer."""
        if self.cache is not None:
            self.cache.close()

    def cancel(self, request: PendingRequest) -> None:
        """Forget a request like :meth:`Batcher.cancel`; others that want the same answer get it."""
        with self._lock:
            request.cancelled = True
            flight = self._members.pop(request, None)
            if flight is not None:
                carrier = flight.carrier
                flight.members.remove(request)
                self.joined -= request is not flight.first
                alone = not flight.members
                if alone:
                    self._end(flight)
        if flight is None:
            self._batcher.cancel(request)
            return
        left = RequestCancelled("the caller left")
        was_unsettled = request.refuse(left)
        if alone:
            if not was_unsettled:
                carrier.refuse(left)
            self._batcher.cancel(carrier)
        elif was_unsettled:
            self._metrics.cancelled("merged")

    def _take(self, request: PendingRequest, queue: Queue, give_back: Callable[[], None], cache: Shelf | None) -> None:
        if request.overrides or (cache is None and not self.merges):
            queue(request)
            return
        started = self._clock()
        key = request_key(self._identity, self._names, request.inputs)
        keep: Keep | None = None
        if cache is not None:  # as for what is offered, which has no place to give back
            rows = cache.get(key)
            now = self._clock()
            if rows is not None:
                self._check(request, now)
                self._metrics.cache_hit(now - started)
                request.answer(rows, cached_facts(request.rows, now))
                return
            keep = partial(self._keep, key, now - started)
        if not self.merges:
            request.reply = Keeping(keep, request.reply) if keep is not None else request.reply
            queue(request)
        elif self._join(key, request, now := self._clock()):
            give_back()
            self._check(request, now)
            self._metrics.merged()
        else:
            self._start(key, request, queue, keep)

    def _join(self, key: bytes, request: PendingRequest, now: float) -> bool:
        """Let a request wait for an identical one; return False if it might then be answered later than alone.

        A request that :meth:`_check` is about to refuse, at the same instant, waits for nothing.
        """
        with self._lock:
            flight = self._flights.get(key)
            if flight is None or self.joined >= self._most_joined:
                return False
            carrier = flight.carrier
            if request.deadline < carrier.deadline or request.turn < carrier.turn:
                return False
            if not request.cancelled and request.deadline > now:
                flight.members.append(request)
                self.joined += 1
                self._members[request] = flight
            return True

    def _start(
        self, key: bytes, request: PendingRequest, queue: Queue, keep: Keep | None, turn: float | None = None
    ) -> None:
        flight = _Flight(self, key, request, keep)
        carrier = flight.carrier
        carrier.turn = request.turn if turn is None else turn
        with self._lock:
            flight.members.append(request)
            self._members[request] = flight
        try:
            carrier.cancelled = request.cancelled
            queue(carrier)
        except BaseException:
            with self._lock:
                self._end(flight)
            raise
        with self._lock:
            if not flight.ended:
                self._flights[key] = flight

    def _keep(self, key: bytes, looked_seconds: float, outputs: Sequence[np.ndarray]) -> None:
        assert self.cache is not None
        started = self._clock()
        evicted = self.cache.put(key, outputs)
        self._metrics.cache_miss(looked_seconds + self._clock() - started, evicted)

    def land(self, flight: _Flight) -> list[PendingRequest]:
        """End a flight whose carrier was settled; return the requests that wait for it."""
        with self._lock:
            return self._end(flight)

    def again(self, key: bytes, requests: Sequence[PendingRequest], keep: Keep | None) -> None:
        """Offer requests once more, by deadline, whose carrier was refused for one that is not theirs: in its place."""
        turn = min([request.turn for request in requests], default=None)  # of one for all: there is one place
        for request in requests:
            try:
                if self._join(key, request, now := self._clock()):
                    self._check(request, now)
                else:
                    self._start(key, request, partial(self._batcher.offer, anew=True), keep, turn)
            except ServingError as error:
                request.refuse(error)

    def _check(self, request: PendingRequest, now: float) -> None:
        """Refuse a request that need not be answered any more, as admission does.

        Raises:
            RequestCancelled: Its caller left (CANCELLED).
            DeadlineExceeded: Its deadline has passed (DEADLINE_EXCEEDED).
        """
        if request.cancelled:
            self._metrics.rejected(RequestCancelled.reason.lower())
            raise RequestCancelled("the caller left")
        if request.deadline <= now:
            self._metrics.rejected(DeadlineExceeded.reason.lower())
            raise DeadlineExceeded("the deadline had passed before the request could be answered")

    def _end(self, flight: _Flight) -> list[PendingRequest]:
        """Let no request join any more, and let go of the carrier; call it under the lock."""
        if not flight.ended:
            del flight.carrier  # else both would wait for the garbage collector, with the inputs
        flight.ended = True
        if self._flights.get(flight.key) is flight:
            del self._flights[flight.key]
        members, flight.members = flight.members, []
        for member in members:
            self._members.pop(member, None)
            self.joined -= member is not flight.first
        return members


class _Flight:
    """The reply of a carrier: settles the requests that it stands for."""

    __slots__ = ("_keep", "_shared", "carrier", "ended", "first", "key", "members")

    def __init__(self, shared: SharedAnswers, key: bytes, first: PendingRequest, keep: Keep | None) -> None:
        self.key = key
        self.first = first
        self.members: list[PendingRequest] = []
        self.ended = False
        self._shared = shared
        self._keep = keep
        self.carrier = PendingRequest(
            first.inputs, first.group, first.deadline, first.arrival, self, first.queued, first.handicap
        )

    def answer(self, outputs: Sequence[np.ndarray], _: PendingRequest, facts: BatchFacts) -> None:
        """Keep the answer and give it to every request."""
        members = self._shared.land(self)
        try:
            if self._keep is not None:  # first, so that a caller who asks again at once finds it
                self._keep(outputs)
        finally:
            for member in members[1:]:
                if isinstance(member.reply, Keeping):  # the first keeps the items, and counts as the one that ran
                    member.reply = member.reply.reply
            for member in members:
                member.answer(outputs, _left_of(facts, member.queued) if member.queued > facts.released else facts)

    def refuse(self, error: ServingError) -> None:
        """Refuse all requests, except those that only the carrier's deadline stood in the way of."""
        members = sorted(self._shared.land(self), key=lambda member: member.deadline)
        late = isinstance(error, DeadlineExceeded | DeadlineUnmeetable)
        told = [member for member in members if not late or member.deadline <= self.first.deadline]
        for member in told:
            member.refuse(error)
        self._shared.again(self.key, members[len(told) :], self._keep)


def _left_of(facts: BatchFacts, joined: float) -> BatchFacts:
    """Return the facts for a request that joined a run after it had begun, and so did not wait."""
    assembled = facts.released + facts.assemble_seconds
    return replace(
        facts,
        released=joined,
        assemble_seconds=max(0.0, assembled - joined),
        infer_seconds=max(0.0, assembled + facts.infer_seconds - max(assembled, joined)),
    )
