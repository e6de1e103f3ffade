"""Joins the parts of one call: pictures, sentences and many rows run in several batches.

The call is settled exactly once, in whatever order and on whatever threads its parts end.
"""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from service.batching.known_items import KnownItems
from service.batching.request import BatchFacts, PendingRequest, Reply
from service.errors import BackendFailed, InternalError, InvalidInput, RequestCancelled, ServingError
from service.preprocessing.prepare import Item
from service.repository.servable import Servable

_LOG = logging.getLogger(__name__)


class ItemsReply(Protocol):
    """How the answers to a list of items reach the caller; exactly one method is called, once."""

    def answer(
        self, outcomes: Sequence[np.ndarray | InvalidInput], request: PendingRequest | None, facts: BatchFacts | None
    ) -> None:
        """Deliver, in the order of the items, a row (K,) of the first output or why there is none.

        ``request`` and ``facts`` describe the part that finished last; None if no item was fit to run.
        """
        ...

    def refuse(self, error: ServingError) -> None:
        """Deliver the failure of the whole call."""
        ...


class Gather(ABC):
    """Reserves places for the parts of one call, submits them, collects the answers; settles it once. Thread-safe.

    The first failure of a part settles the call and withdraws the other parts.
    """

    def __init__(self, items: Sequence[Item], servable: Servable, refuse: Callable[[ServingError], None]) -> None:
        self.items = items
        self.servable = servable
        self.settled = False
        self.known: KnownItems | None = None
        self.keys: Sequence[bytes] = ()
        self._parts_left = 0
        self._last: tuple[PendingRequest, BatchFacts] | None = None
        self._refuse_caller = refuse
        self._is_counted = False
        self._requests: list[PendingRequest] = []
        self._lock = threading.Lock()

    def reserve(self, parts: int) -> None:
        """Reserve a place in the queue for each of so many parts.

        Raises:
            InvalidInput: More parts than the queue could ever hold (INVALID_ARGUMENT).
            ServingError: Refused at the door, as :meth:`Batcher.reserve` raises it.
        """
        batcher = self.servable.batcher
        if parts > batcher.max_queued_requests:
            raise InvalidInput(
                f"the call makes {parts} batches, the queue holds {batcher.max_queued_requests}: send fewer items"
            )
        reserved = 0
        try:
            for _ in range(parts):
                batcher.reserve()
                reserved += 1
        except ServingError:
            for _ in range(reserved):
                batcher.release()
            raise
        self._parts_left = parts

    def release(self) -> None:
        """Give the place of a part back that is not submitted."""
        self.servable.batcher.release()

    def add(self, request: PendingRequest) -> PendingRequest | None:
        """Remember a part's request so that it can be withdrawn; None if the call is settled already."""
        with self._lock:
            if self.settled:
                return None
            self._requests.append(request)
            return request

    def submit(self, request: PendingRequest, alone: bool = False) -> None:
        """Hand a part over, which was added; what refuses it settles the call. If ``alone``, this thread may run it."""
        try:
            self.servable.front.submit(request, alone)
        except Exception as error:
            self.fail(error)

    def misses(self) -> int:
        """Return how many cache misses a part counts: 1 for the call's first part, 0 for the others."""
        with self._lock:
            first, self._is_counted = not self._is_counted, True
        return int(first)

    def answer_known(self, rows: Sequence[Sequence[np.ndarray]], request: PendingRequest, facts: BatchFacts) -> None:
        """Settle a call of which no part was begun, with kept outputs (1, ...) for each item."""
        for place, outputs in enumerate(rows):
            self.fill([place], outputs)
        self._last = (request, facts)
        self._parts_left = 1
        self.part_done()

    def cancel(self) -> None:
        """Withdraw the call, since its caller left."""
        self.refuse(RequestCancelled("the caller left"))

    def refuse(self, error: ServingError) -> None:
        """Settle the call with a failure, unless it is settled."""
        if self._settle():
            for request in self._requests:
                if not isinstance(error, RequestCancelled):
                    request.refuse(error)  # else it would count as a caller who left
                self.servable.front.cancel(request)
            self._requests.clear()
            self._last = None
            self._refuse_caller(error)

    def fail(self, error: BaseException) -> None:
        """Settle the call with whatever befell a part, of which the caller sees only what it may."""
        if not isinstance(error, ServingError):
            _LOG.error("preparing items failed", exc_info=error)
            error = InternalError("preparing the items failed")
        self.refuse(error)

    def part_answered(
        self, places: Sequence[int], outputs: Sequence[np.ndarray], request: PendingRequest, facts: BatchFacts
    ) -> None:
        """Keep the rows of the items at ``places``; the last part answers the caller."""
        self.fill(places, outputs)
        self._last = (request, facts)
        self.part_done()
        if self.settled:  # by another part or by its caller, perhaps before this one
            self._last = None

    def part_done(self) -> None:
        """Count a part; the last one settles the call."""
        with self._lock:
            self._parts_left -= 1
            done = self._parts_left == 0
        if done and self._settle():
            self._requests.clear()  # they refer to the call as well: nothing shall wait for the garbage collector
            last, self._last = self._last, None
            self.deliver(last)

    def _settle(self) -> bool:
        with self._lock:
            first, self.settled = not self.settled, True
        return first

    @abstractmethod
    def item_failed(self, place: int, error: InvalidInput) -> None:
        """Note that an item cannot be prepared; may raise to fail the whole call."""

    @abstractmethod
    def fill(self, places: Sequence[int], outputs: Sequence[np.ndarray]) -> None:
        """Keep the rows that answer the items at ``places``."""

    @abstractmethod
    def deliver(self, last: tuple[PendingRequest, BatchFacts] | None) -> None:
        """Answer the caller; ``last`` describes the part that finished last, None if none ran."""


class ItemsGather(Gather):
    """Each item has its own outcome."""

    def __init__(self, items: Sequence[Item], servable: Servable, reply: ItemsReply) -> None:
        super().__init__(items, servable, reply.refuse)
        self._reply = reply
        self._outcomes: list[np.ndarray | InvalidInput] = [InvalidInput("not run")] * len(items)

    def item_failed(self, place: int, error: InvalidInput) -> None:
        """Note why the item has no row."""
        self._outcomes[place] = InvalidInput(error.message)  # anew: the frames that raised it know the call

    def fill(self, places: Sequence[int], outputs: Sequence[np.ndarray]) -> None:
        """Keep the rows of the first output, each as its item's outcome."""
        for place, row in zip(places, outputs[0], strict=True):
            self._outcomes[place] = row

    def deliver(self, last: tuple[PendingRequest, BatchFacts] | None) -> None:
        """Answer with one outcome per item."""
        self._reply.answer(self._outcomes, *(last or (None, None)))


class TensorGather(Gather):
    """The rows of all items make up the outputs; one bad item fails the call and is named.

    Without items it joins the parts of one tensor, by the places of their rows.
    """

    def __init__(self, items: Sequence[Item], servable: Servable, reply: Reply) -> None:
        super().__init__(items, servable, reply.refuse)
        self._reply = reply
        self._rows: dict[int, Sequence[np.ndarray]] = {}

    def split(self, whole: PendingRequest) -> None:
        """Submit a tensor of more rows than a batch holds in several parts.

        Raises:
            ServingError: As :meth:`reserve` raises it.
        """
        size = self.servable.max_batch_size
        parts = []
        for start in range(0, whole.rows, size):
            places = range(start, min(start + size, whole.rows))
            part = PendingRequest(
                [array[places.start : places.stop] for array in whole.inputs],
                whole.group,
                whole.deadline,
                whole.arrival,
                PartReply(self, places),
                handicap=whole.handicap,
                overrides=whole.overrides,
            )
            parts.append(part)
        self.reserve(len(parts))
        for part in parts:
            if self.add(part) is None:
                self.release()
            else:
                self.submit(part)

    def item_failed(self, place: int, error: InvalidInput) -> None:
        """Fail the whole call, naming the item."""
        raise InvalidInput(f"item {place}: {error.message}")

    def fill(self, places: Sequence[int], outputs: Sequence[np.ndarray]) -> None:
        """Keep the rows of all outputs."""
        self._rows[places[0]] = outputs

    def deliver(self, last: tuple[PendingRequest, BatchFacts] | None) -> None:
        """Answer with every output, its rows in the order of the items; refuse what does not fit together."""
        assert last is not None
        parts = [self._rows[place] for place in sorted(self._rows)]
        try:
            outputs = parts[0] if len(parts) == 1 else [np.concatenate(output) for output in zip(*parts, strict=True)]
        except Exception:  # with some graphs the sizes depend on the batch; or there is no memory
            _LOG.exception("the outputs of the batches of a call cannot be joined")
            self._reply.refuse(
                BackendFailed("the outputs of the call's batches cannot be joined: send fewer rows or items per call")
            )
        else:
            self._reply.answer(outputs, *last)


class PartReply:
    """Hands a part's answer to its gather."""

    __slots__ = ("_gather", "_places")

    def __init__(self, gather: Gather, places: Sequence[int]) -> None:
        self._gather = gather
        self._places = places

    def answer(self, outputs: Sequence[np.ndarray], request: PendingRequest, facts: BatchFacts) -> None:
        """Keep the rows; the last part answers the caller."""
        self._gather.part_answered(self._places, outputs, request, facts)

    def refuse(self, error: ServingError) -> None:
        """Fail the whole call."""
        self._gather.refuse(error)
