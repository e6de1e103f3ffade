"""Prepares pictures and sentences for the batcher: reserves places, decodes items, submits them in parts.

Items that are decoded one by one also run one by one, and a row alone costs several times as much as one of sixteen. So
items that come together are prepared together, by the thread that took them in; what takes long is left to a pool.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from service.batching.keeping import Keeping, cached_facts
from service.batching.known_items import KnownItems
from service.batching.request import PendingRequest, Reply
from service.errors import DeadlineExceeded, InvalidInput
from service.gather import Gather, PartReply
from service.repository.servable import Servable
from service.workers import Workers

# The most that may keep the thread of a burst from other calls: this time, and so many items of one call.
_BURST_SECONDS = 0.02
_BURST_ITEMS = 16


class Terms:
    """On what terms a servable answers a call; made at the intake, and never changed.

    Attributes:
        arrival: When the call came in, on the data plane's clock.
        deadline: Instant after which the answer is worthless; infinite for none.
        handicap: By how many seconds its priority puts it behind its arrival in line.
        burst: The calls that it came with; None if it came alone.
    """

    __slots__ = ("arrival", "burst", "deadline", "handicap")

    def __init__(
        self,
        servable: Servable,
        arrival: float,
        deadline: float,
        timeout_seconds: float = math.inf,
        priority: int = 0,
        burst: Burst | None = None,
    ) -> None:
        """Bring what the caller asks for (no timeout is infinite, no priority 0) in line with the servable's rules."""
        self.arrival = arrival
        self.deadline = min(deadline, arrival + timeout_seconds, arrival + servable.objective_seconds)
        self.handicap = servable.priorities.handicap(priority)
        self.burst = burst


class Part(NamedTuple):
    """Items of one call, by their places in it, that become one request; a place in the queue is reserved for it."""

    gather: Gather
    places: range
    terms: Terms


class Preparation:
    """Turns the items of calls into requests. Thread-safe.

    Contract: every part uses up its reservation, and is either submitted or settles its call, whatever happens.
    """

    def __init__(self, workers: Workers, clock: Callable[[], float]) -> None:
        """Wire up. What waits for the workers is bounded by the batchers' reservations."""
        self._workers = workers
        self._clock = clock

    def begin(self, gather: Gather, terms: Terms) -> None:
        """Reserve places for all parts of a call, then have each part decoded.

        Parts are small enough to keep every worker busy, and no larger than a batch. A small call of a
        burst waits for the end of the burst.

        Raises:
            DeadlineExceeded: The answers to all items are kept, but the deadline has passed (DEADLINE_EXCEEDED).
            ServingError: As :meth:`Gather.reserve` raises it.
        """
        servable, burst = gather.servable, terms.burst
        shared = servable.shared
        if shared is not None and shared.items is not None:
            if self._answer_known(gather, shared.items, terms):
                return
            gather.known = shared.items
        items = len(gather.items)
        if burst is not None and items <= min(_BURST_ITEMS, servable.max_batch_size):
            gather.reserve(1)
            burst.parts.append(Part(gather, range(items), terms))
            return
        size = min(-(-items // self._workers.threads), servable.max_batch_size)
        parts = [Part(gather, range(start, min(start + size, items)), terms) for start in range(0, items, size)]
        gather.reserve(len(parts))
        for part in parts:
            self._hand_over([part])

    def _answer_known(self, gather: Gather, known: KnownItems, terms: Terms) -> bool:
        """Answer a call if the answers to all its items are kept; tell whether they are.

        Raises:
            DeadlineExceeded: They are, but the deadline has passed (DEADLINE_EXCEEDED).
        """
        started = self._clock()
        gather.keys = known.keys_of(gather.items)
        rows = known.find(gather.keys, started, terms.deadline)
        if rows is None:
            return False
        places = range(len(rows))
        nothing, reply = [np.zeros((len(rows), 0))], PartReply(gather, places)
        request = PendingRequest(nothing, None, terms.deadline, terms.arrival, reply)
        gather.answer_known(rows, request, cached_facts(len(rows), self._clock()))
        return True

    def _hand_over(self, parts: Sequence[Part]) -> None:
        """Give parts to a worker; what keeps it from taking them settles their calls."""
        try:
            self._workers.submit(partial(self.prepare, parts))
        except BaseException as error:
            for part in parts:
                part.gather.release()
                part.gather.fail(error)

    def finish(self, parts: Sequence[Part], alone: bool) -> None:
        """Prepare the parts of a burst: the quick ones on this thread, for a limited time, the rest on workers.

        Args:
            parts: In the order of their arrival.
            alone: Whether this thread may run them as well.
        """
        until = self._clock() + _BURST_SECONDS
        rest = parts[self.prepare(parts, until, alone) :]
        size = -(-len(rest) // self._workers.threads)
        for start in range(0, len(rest), size or 1):
            self._hand_over(rest[start : start + size])

    def prepare(self, parts: Sequence[Part], quick_until: float | None = None, alone: bool = False) -> int:
        """Decode parts, then submit them all.

        Args:
            parts: In the order of their arrival.
            quick_until: If given, slow parts go to a worker, and no part is begun after this instant.
            alone: Whether this thread may run them as well.

        Returns:
            How many parts were begun; the others still hold their reservations.
        """
        try:
            return self._prepare(parts, quick_until, alone)
        except BaseException as error:  # no memory, even to settle a call: the thread dies, and no call waits for it
            for part in parts:
                part.gather.fail(error)
            raise

    def _prepare(self, parts: Sequence[Part], quick_until: float | None, alone: bool) -> int:
        ready: list[tuple[Gather, PendingRequest]] = []
        done = 0
        for part in parts:
            request = self._request(part, quick_until is not None)
            done += 1
            if request is not None:
                ready.append((part.gather, request))
            if quick_until is not None and self._clock() >= quick_until:
                break
        for gather, request in ready:
            gather.submit(request, alone)
        return done

    def _request(self, part: Part, quick: bool) -> PendingRequest | None:
        """Decode a part; None if there is nothing to submit: its reservation is given back, or passed to a worker."""
        try:
            request = self._decode(part, quick)
        except _Slow:
            self._hand_over([part])
            return None
        except BaseException as error:
            part.gather.release()
            part.gather.fail(error)
            return None
        if request is None:
            part.gather.release()
        return request

    def _decode(self, part: Part, quick: bool) -> PendingRequest | None:
        gather, servable, terms = part.gather, part.gather.servable, part.terms
        preparer = servable.preparer
        assert preparer is not None
        if gather.settled:
            return None
        started = self._clock()
        if started >= terms.deadline:
            servable.metrics.rejected(DeadlineExceeded.reason.lower())
            raise DeadlineExceeded("the deadline passed before the items were decoded")
        rows: list[np.ndarray] = []
        places: list[int] = []
        decode = preparer.quick_row if quick else preparer.row
        for place in part.places:
            try:
                row = decode(gather.items[place])
            except InvalidInput as error:
                gather.item_failed(place, error)
            else:
                if row is None:
                    raise _Slow
                rows.append(row)
                places.append(place)
        finished = self._clock()
        servable.metrics.observe_decode(finished - started)
        if not rows:
            gather.part_done()
            return None
        arrays = [preparer.stack(rows)]
        reply: Reply = PartReply(gather, places)
        if gather.known is not None:
            keys = [gather.keys[place] for place in places]
            reply = Keeping(partial(gather.known.keep, keys, gather.misses()), reply)
        group = servable.group_of(arrays)
        request = PendingRequest(arrays, group, terms.deadline, terms.arrival, reply, finished, terms.handicap)
        return gather.add(request)


class _Slow(Exception):
    """An item would keep others waiting."""


class Burst:
    """The calls that one thread takes in together; for that thread only."""

    def __init__(self, preparation: Preparation) -> None:
        """Begin without any."""
        self.parts: list[Part] = []
        self.alone = False
        """Whether its only call came with none in flight, so that the thread has time to run it itself."""
        self._preparation = preparation

    def finish(self) -> None:
        """Prepare its parts, and begin the next burst."""
        if self.parts:
            parts, self.parts = self.parts, []
            self._preparation.finish(parts, self.alone)
