"""The core that any door calls: find a servable, check the inputs, prepare items, submit, gather.

It knows no transport: calls come as arrays or encoded items with a deadline and a reply, errors go
out as :mod:`service.errors`. Every method may be called from any thread.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np

from service.batching.request import BatchFacts, PendingRequest, Reply
from service.errors import DeadlineExceeded, Draining, InternalError, InvalidInput, RequestCancelled, ServingError
from service.repository.lifecycle import Lifecycle
from service.repository.servable import Servable

_LOG = logging.getLogger(__name__)

Item = bytes | memoryview | str
Clock = Callable[[], float]


class Ticket(Protocol):
    """What a door keeps of a submitted call."""

    def cancel(self) -> None:
        """Tell that the caller left; safe at any time, from any thread, more than once."""
        ...


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
        self, servable: Servable, inputs: Mapping[str, np.ndarray], deadline: float, arrival: float, reply: Reply
    ) -> Ticket:
        """Submit tensors by name.

        Args:
            servable: From :meth:`find`.
            inputs: One array an input. For a model of pictures or sentences an array (N,) of bytes
                objects is taken as encoded items instead.
            deadline: Instant after which the answer is worthless; infinite for none.
            arrival: When the call came in.
            reply: Gets all outputs, in the graph's order.

        Raises:
            InvalidInput: A wrong name, dtype, shape or batch size (INVALID_ARGUMENT).
            ServingError: Refused at the door, as :class:`service.batching.batcher.Batcher` raises it.
        """
        deadline = min(deadline, arrival + servable.objective_seconds)
        _check_names(servable, inputs)
        if servable.preparer is not None:
            only = inputs[servable.inputs[0].name]
            if only.dtype == object:
                gather = _TensorGather(_items(only, servable), servable, reply)
                return self._prepare(gather, deadline, arrival)
        arrays = _check_arrays(servable, inputs)
        request = PendingRequest(arrays, servable.group_of(arrays), deadline, arrival, reply)
        servable.batcher.reserve()
        servable.batcher.submit(request)
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
        return self._prepare(_ItemsGather(items, servable, reply), deadline, arrival)

    def _prepare(self, gather: _Gather, deadline: float, arrival: float) -> Ticket:
        """Reserve places for all parts of a call, then decode each part on the pool.

        Parts are small enough to keep every thread of the pool busy, and no larger than a batch.
        """
        batcher = gather.servable.batcher
        size = min(-(-len(gather.items) // self._pool_threads), gather.servable.max_batch_size)
        parts = [range(start, min(start + size, len(gather.items))) for start in range(0, len(gather.items), size)]
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
                self._pool.submit(self._prepare_part, gather, part, deadline, arrival)
            except RuntimeError:  # the pool is shut down
                for _ in parts[number:]:
                    batcher.release()
                gather.refuse(Draining("the server is stopping"))
                break
        return gather

    def _prepare_part(self, gather: _Gather, part: range, deadline: float, arrival: float) -> None:
        """Decode some items and submit them as one request; uses up one reservation, whatever happens."""
        batcher = gather.servable.batcher
        try:
            request = self._decode_part(gather, part, deadline, arrival)
        except BaseException as error:
            batcher.release()
            gather.refuse(_known(error))
            return
        if request is None:
            batcher.release()
            return
        try:
            batcher.submit(request)
        except Exception as error:
            gather.refuse(_known(error))

    def _decode_part(self, gather: _Gather, part: range, deadline: float, arrival: float) -> PendingRequest | None:
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
        reply = _PartReply(gather, places)
        group = gather.servable.group_of(arrays)
        return gather.add(PendingRequest(arrays, group, deadline, arrival, reply, queued=self.clock()))


class _Submitted:
    """The ticket of a call that is one request."""

    __slots__ = ("_request", "_servable")

    def __init__(self, servable: Servable, request: PendingRequest) -> None:
        self._servable = servable
        self._request = request

    def cancel(self) -> None:
        self._servable.batcher.cancel(self._request)


class _Gather:
    """Collects the parts of one call; settles it exactly once. Thread-safe.

    The first failure of a part settles the call and withdraws the other parts.
    """

    def __init__(self, items: Sequence[Item], servable: Servable) -> None:
        self.items = items
        self.servable = servable
        self.parts_left = 0
        self.settled = False
        self.last: tuple[PendingRequest, BatchFacts] | None = None
        self._requests: list[PendingRequest] = []
        self._lock = threading.Lock()

    def add(self, request: PendingRequest) -> PendingRequest | None:
        """Remember a part's request so that it can be withdrawn; None if the call is settled already."""
        with self._lock:
            if self.settled:
                return None
            self._requests.append(request)
            return request

    def cancel(self) -> None:
        """The caller left."""
        self.refuse(RequestCancelled("the caller left"))

    def refuse(self, error: ServingError) -> None:
        """Settle the call with a failure, unless it is settled."""
        if self._settle():
            for request in self._requests:
                self.servable.batcher.cancel(request)
            self.deliver_failure(error)

    def part_done(self) -> None:
        """Count a part; the last one settles the call."""
        with self._lock:
            self.parts_left -= 1
            done = self.parts_left == 0
        if done and self._settle():
            self.deliver()

    def _settle(self) -> bool:
        with self._lock:
            first, self.settled = not self.settled, True
        return first

    def item_failed(self, place: int, error: InvalidInput) -> None:
        """Note that an item cannot be prepared; may raise to fail the whole call."""
        raise NotImplementedError

    def fill(self, places: Sequence[int], outputs: Sequence[np.ndarray]) -> None:
        """Keep the rows that answer the items at ``places``."""
        raise NotImplementedError

    def deliver(self) -> None:
        """Answer the caller."""
        raise NotImplementedError

    def deliver_failure(self, error: ServingError) -> None:
        """Refuse the caller."""
        raise NotImplementedError


class _ItemsGather(_Gather):
    """Each item has its own outcome."""

    def __init__(self, items: Sequence[Item], servable: Servable, reply: ItemsReply) -> None:
        super().__init__(items, servable)
        self._reply = reply
        self._outcomes: list[np.ndarray | InvalidInput] = [InvalidInput("not run")] * len(items)

    def item_failed(self, place: int, error: InvalidInput) -> None:
        self._outcomes[place] = error

    def fill(self, places: Sequence[int], outputs: Sequence[np.ndarray]) -> None:
        for place, row in zip(places, outputs[0], strict=True):
            self._outcomes[place] = row

    def deliver(self) -> None:
        self._reply.answer(self._outcomes, *(self.last or (None, None)))

    def deliver_failure(self, error: ServingError) -> None:
        self._reply.refuse(error)


class _TensorGather(_Gather):
    """One bad item fails the call and is named; the rows of all items make up the outputs."""

    def __init__(self, items: Sequence[Item], servable: Servable, reply: Reply) -> None:
        super().__init__(items, servable)
        self._reply = reply
        self._rows: dict[int, Sequence[np.ndarray]] = {}

    def item_failed(self, place: int, error: InvalidInput) -> None:
        raise InvalidInput(f"item {place}: {error.message}")

    def fill(self, places: Sequence[int], outputs: Sequence[np.ndarray]) -> None:
        self._rows[places[0]] = outputs

    def deliver(self) -> None:
        parts = [self._rows[place] for place in sorted(self._rows)]
        assert self.last is not None
        self._reply.answer([np.concatenate(output) for output in zip(*parts, strict=True)], *self.last)

    def deliver_failure(self, error: ServingError) -> None:
        self._reply.refuse(error)


class _PartReply:
    """Hands a part's answer to its gather."""

    __slots__ = ("_gather", "_places")

    def __init__(self, gather: _Gather, places: Sequence[int]) -> None:
        self._gather = gather
        self._places = places

    def answer(self, outputs: Sequence[np.ndarray], request: PendingRequest, facts: BatchFacts) -> None:
        self._gather.fill(self._places, outputs)
        self._gather.last = (request, facts)
        self._gather.part_done()

    def refuse(self, error: ServingError) -> None:
        self._gather.refuse(error)


def _known(error: BaseException) -> ServingError:
    """Return what the caller may see of an error of the preparation."""
    if isinstance(error, ServingError):
        return error
    _LOG.error("preparing items failed", exc_info=error)
    return InternalError("preparing the items failed")


def _check_names(servable: Servable, inputs: Mapping[str, np.ndarray]) -> None:
    expected = [spec.name for spec in servable.inputs]
    if len(inputs) != len(expected) or any(name not in inputs for name in expected):
        raise InvalidInput(
            f"model '{servable.name}': expected inputs {', '.join(expected)}, got {', '.join(inputs) or 'none'}"
        )


def _items(array: np.ndarray, servable: Servable) -> Sequence[Item]:
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]  # Triton's clients of string models often send (N, 1)
    if array.ndim != 1 or not 1 <= len(array) <= servable.max_batch_size:
        raise InvalidInput(
            f"input '{servable.inputs[0].name}': expected BYTES of shape [N], N from 1 to "
            f"{servable.max_batch_size}, got shape {list(array.shape)}"
        )
    items: list[Item] = array.tolist()
    return items


def _texts(name: str, array: np.ndarray) -> np.ndarray:
    """Decode BYTES for a graph's string tensor, which is UTF-8 (ONNX, "Tensor Element Types").

    Bytes that are not would fail the whole batch in the runtime, neighbours included.
    """
    texts = np.empty(array.size, dtype=object)
    try:
        texts[:] = [element.decode() for element in array.flat]
    except UnicodeDecodeError:
        raise InvalidInput(f"input '{name}': an element is not UTF-8, which the model's strings must be") from None
    return texts.reshape(array.shape)


def _check_arrays(servable: Servable, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    arrays = [inputs[spec.name] for spec in servable.inputs]
    for number, (spec, array) in enumerate(zip(servable.inputs, arrays, strict=True)):
        # Without batching a caller neither sends nor hears of the axis that is added here.
        (spec if servable.batched else dataclasses.replace(spec, shape=spec.shape[1:])).check(array)
        checked = _texts(spec.name, array) if array.dtype == object else array
        arrays[number] = checked if servable.batched else checked[np.newaxis]
    rows = {len(array) for array in arrays}
    if len(rows) != 1:
        raise InvalidInput(f"inputs have different batch sizes {sorted(rows)}")
    if not 1 <= (batch := rows.pop()) <= servable.max_batch_size:
        raise InvalidInput(f"batch of {batch}, expected 1 to {servable.max_batch_size}")
    if servable.preparer is not None:
        servable.preparer.check(arrays[0])
    return arrays
