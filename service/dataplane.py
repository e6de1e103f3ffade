"""The core that any door calls: find a servable, check the inputs, prepare items, submit, gather.

It knows no transport: calls come as arrays or encoded items with a deadline and a reply, errors go
out as :mod:`service.errors`. Every method may be called from any thread.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Protocol

import numpy as np

from service.batching.keeping import Keeping, cached_facts
from service.batching.known_items import KnownItems
from service.batching.request import PendingRequest, Reply
from service.checks import check_arrays, check_names, check_overrides, encoded_items
from service.errors import DeadlineExceeded, Draining, InternalError, InvalidInput, ServingError
from service.gather import Gather, ItemsGather, ItemsReply, PartReply, TensorGather
from service.preprocessing.prepare import Item
from service.repository.lifecycle import Lifecycle
from service.repository.servable import Servable

_LOG = logging.getLogger(__name__)

Clock = Callable[[], float]


class Ticket(Protocol):
    """What a door keeps of a submitted call."""

    def cancel(self) -> None:
        """Tell that the caller left; safe at any time, from any thread, more than once."""
        ...


class DataPlane:
    """Admission, look-up, checks and preparation in front of the batchers."""

    def __init__(self, lifecycle: Lifecycle, pool: ThreadPoolExecutor, max_items: int, clock: Clock = time.monotonic):
        """Wire up.

        Args:
            lifecycle: Lends servables.
            pool: Decodes and tokenises. What waits for it is bounded by the batchers' reservations.
            max_items: Most items in one call.
            clock: The batchers' clock.
        """
        self.lifecycle = lifecycle
        self.clock = clock
        self._pool = pool
        self._pool_threads = pool._max_workers
        self._max_items = max_items
        self._draining = False

    def start_refusing(self) -> None:
        """End the lame duck: every later call is refused with UNAVAILABLE."""
        self._draining = True

    def find(self, name: str, version: str = "") -> Servable:
        """Lend the servable of a call.

        Raises:
            Draining: The server is stopping (UNAVAILABLE).
            ServingError: As :meth:`Lifecycle.find` raises it.
        """
        if self._draining:
            raise Draining("the server is stopping")
        return self.lifecycle.find(name, version)

    def infer(
        self,
        servable: Servable,
        inputs: Mapping[str, np.ndarray],
        deadline: float,
        arrival: float,
        reply: Reply,
        priority: int = 0,
    ) -> Ticket:
        """Submit tensors by name.

        Args:
            servable: From :meth:`find`.
            inputs: One array an input. For a model of pictures or sentences an array (N,) of bytes
                objects is taken as encoded items instead.
            deadline: Instant after which the answer is worthless; infinite for none.
            arrival: When the call came in.
            reply: Gets all outputs, in the graph's order.
            priority: The level that the caller asks for, 1 going first; 0 for none.

        Raises:
            InvalidInput: A wrong name, dtype, shape or batch size (INVALID_ARGUMENT).
            ServingError: Refused at the door, as :class:`service.batching.batcher.Batcher` raises it.
        """
        check_names(servable, inputs)
        if servable.preparer is not None:
            only = inputs[servable.inputs[0].name]
            if only.dtype == object:
                deadline = min(deadline, arrival + servable.objective_seconds)
                gather = TensorGather(encoded_items(servable, only), servable, reply)
                return self._prepare(gather, deadline, arrival, servable.priorities.handicap(priority))
        arrays = check_arrays(servable, inputs)
        overrides = check_overrides(servable, inputs) if len(inputs) > len(arrays) else None
        return self.submit(
            servable, arrays, servable.group_of(arrays), deadline, arrival, reply, priority, overrides=overrides
        )

    def submit(
        self,
        servable: Servable,
        arrays: Sequence[np.ndarray],
        group: Hashable,
        deadline: float,
        arrival: float,
        reply: Reply,
        priority: int,
        overrides: Mapping[str, np.ndarray] | None = None,
    ) -> Ticket:
        """Submit tensors whose dtypes and shapes :meth:`infer` has checked, perhaps on an earlier call.

        Args:
            servable: From :meth:`find`.
            arrays: One (N, ...) an input of the graph, in its order.
            group: Which requests they may share a batch with.
            deadline: As for :meth:`infer`, like the rest.
            arrival: When the call came in.
            reply: Gets all outputs.
            priority: The level that the caller asks for.
            overrides: Optional inputs by name.

        Raises:
            InvalidInput: A token id that the vocabulary does not have (INVALID_ARGUMENT).
            ServingError: Refused at the door.
        """
        if servable.preparer is not None:
            servable.preparer.check(arrays[0])
        deadline = min(deadline, arrival + servable.objective_seconds)
        handicap = servable.priorities.handicap(priority)
        request = PendingRequest(arrays, group, deadline, arrival, reply, handicap=handicap, overrides=overrides)
        servable.front.offer(request)
        return _Submitted(servable, request)

    def classify(
        self, servable: Servable, items: Sequence[Item], deadline: float, arrival: float, reply: ItemsReply
    ) -> Ticket:
        """Submit pictures or sentences of which each succeeds or fails alone.

        Args:
            servable: From :meth:`find`; must be a classifier.
            items: At least one; more than a batch holds are run in several.
            deadline: As for :meth:`infer`.
            arrival: As for :meth:`infer`.
            reply: Gets one outcome an item.

        Raises:
            InvalidInput: No items, or too many (INVALID_ARGUMENT).
            ServingError: Refused at the door.
        """
        if not 1 <= len(items) <= self._max_items:
            raise InvalidInput(f"the call has {len(items)} items, expected 1 to {self._max_items}")
        deadline = min(deadline, arrival + servable.objective_seconds)
        handicap = servable.priorities.handicap(0)
        return self._prepare(ItemsGather(items, servable, reply), deadline, arrival, handicap)

    def _prepare(self, gather: Gather, deadline: float, arrival: float, handicap: float) -> Ticket:
        """Reserve places for all parts of a call, then decode each part on the pool.

        Parts are small enough to keep every thread of the pool busy, and no larger than a batch.
        """
        shared = gather.servable.shared
        if shared is not None and shared.items is not None:
            if self._answer_known(gather, shared.items, deadline, arrival):
                return gather
            gather.known = shared.items
        batcher = gather.servable.batcher
        size = min(-(-len(gather.items) // self._pool_threads), gather.servable.max_batch_size)
        parts = [range(start, min(start + size, len(gather.items))) for start in range(0, len(gather.items), size)]
        if len(parts) > batcher.max_queued_requests:
            raise InvalidInput(
                f"{len(gather.items)} items make {len(parts)} batches, the queue holds {batcher.max_queued_requests}: "
                "send fewer a call"
            )
        reserved = 0
        try:
            for _ in parts:
                batcher.reserve()
                reserved += 1
        except ServingError:
            for _ in range(reserved):
                batcher.release()
            raise
        gather.parts_left = len(parts)
        for number, part in enumerate(parts):
            try:
                self._pool.submit(self._prepare_part, gather, part, deadline, arrival, handicap)
            except RuntimeError:  # the pool is shut down
                for _ in parts[number:]:
                    batcher.release()
                gather.refuse(Draining("the server is stopping"))
                break
        return gather

    def _answer_known(self, gather: Gather, known: KnownItems, deadline: float, arrival: float) -> bool:
        """Answer a call whose items were all answered before, as they came; tell whether they were.

        Raises:
            DeadlineExceeded: They were, but the deadline has passed (DEADLINE_EXCEEDED).
        """
        started = self.clock()
        gather.keys = known.keys_of(gather.items)
        rows = known.find(gather.keys, started, deadline)
        if rows is None:
            return False
        places = range(len(rows))
        request = PendingRequest([np.zeros((len(rows), 0))], None, deadline, arrival, PartReply(gather, places))
        gather.answer_known(rows, request, cached_facts(len(rows), self.clock()))
        return True

    def _prepare_part(self, gather: Gather, part: range, deadline: float, arrival: float, handicap: float) -> None:
        """Decode some items and submit them as one request; uses up one reservation, whatever happens."""
        front = gather.servable.front
        try:
            request = self._decode_part(gather, part, deadline, arrival, handicap)
        except BaseException as error:
            front.release()
            gather.refuse(_known(error))
            return
        if request is None:
            front.release()
            return
        try:
            front.submit(request)
        except Exception as error:
            gather.refuse(_known(error))

    def _decode_part(
        self, gather: Gather, part: range, deadline: float, arrival: float, handicap: float
    ) -> PendingRequest | None:
        preparer = gather.servable.preparer
        assert preparer is not None
        if gather.settled:
            return None
        started = self.clock()
        if started >= deadline:
            raise DeadlineExceeded("the deadline passed before the items were decoded")
        rows: list[np.ndarray] = []
        places: list[int] = []
        for place in part:
            try:
                rows.append(preparer.row(gather.items[place]))
                places.append(place)
            except InvalidInput as error:
                gather.item_failed(place, error)
        gather.servable.metrics.observe_decode(self.clock() - started)
        if not rows:
            gather.part_done()
            return None
        arrays = [preparer.stack(rows)]
        reply: Reply = PartReply(gather, places)
        if gather.known is not None:
            keys, calls = [gather.keys[place] for place in places], int(part.start == 0)
            reply = Keeping(partial(gather.known.keep, keys, calls), reply)
        group = gather.servable.group_of(arrays)
        return gather.add(PendingRequest(arrays, group, deadline, arrival, reply, self.clock(), handicap))


class _Submitted:
    """The ticket of a call that is one request."""

    __slots__ = ("_request", "_servable")

    def __init__(self, servable: Servable, request: PendingRequest) -> None:
        self._servable = servable
        self._request = request

    def cancel(self) -> None:
        self._servable.front.cancel(self._request)


def _known(error: BaseException) -> ServingError:
    """Return what the caller may see of an error of the preparation."""
    if isinstance(error, ServingError):
        return error
    _LOG.error("preparing items failed", exc_info=error)
    return InternalError("preparing the items failed")
