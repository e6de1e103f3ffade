"""The core that any door calls: find a servable, check the inputs, have items prepared, submit.

It knows no transport: calls come as arrays or encoded items with their terms and a reply, errors go
out as :mod:`service.errors`. Every method may be called from any thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Protocol

import numpy as np

from service.batching.request import PendingRequest, Reply
from service.checks import check_arrays, check_names, check_overrides, encoded_items
from service.errors import COMING_SECONDS, Draining, InvalidInput
from service.gather import ItemsGather, ItemsReply, TensorGather
from service.preparation import Burst, Preparation, Terms
from service.preprocessing.prepare import Item
from service.repository.lifecycle import Lifecycle
from service.repository.servable import Servable
from service.workers import Workers

Clock = Callable[[], float]


class Ticket(Protocol):
    """A door's handle on a submitted call."""

    def cancel(self) -> None:
        """Report that the caller left. Safe at any time, from any thread, and more than once."""
        ...


class DataPlane:
    """Admission, look-up, checks and preparation in front of the batchers."""

    def __init__(self, lifecycle: Lifecycle, workers: Workers, max_items: int, clock: Clock = time.monotonic):
        """Wire up.

        Args:
            lifecycle: Lends servables.
            workers: Decode and tokenise. What waits for them is bounded by the batchers' reservations.
            max_items: Most items in one call.
            clock: The batchers' clock.
        """
        self.lifecycle = lifecycle
        self.clock = clock
        self._preparation = Preparation(workers, clock)
        self.max_items = max_items
        """Most items in one call."""
        self.draining = False
        """Whether every call is refused with UNAVAILABLE; set when the lame duck is over."""

    def find(self, name: str, version: str = "") -> Servable:
        """Lend the servable of a call.

        Raises:
            Draining: The server is stopping (UNAVAILABLE).
            ServingError: As :meth:`Lifecycle.find` raises it.
        """
        if self.draining:
            raise Draining("the server is stopping", retry_after_seconds=COMING_SECONDS)
        return self.lifecycle.find(name, version)

    def lends(self, servable: Servable, version: str) -> bool:
        """Tell whether :meth:`find` would lend this very servable for its name and that version."""
        return not self.draining and self.lifecycle.lends(servable, version)

    def burst(self) -> Burst:
        """Return a burst, in which one thread collects calls that come together; their items wait for its end."""
        return Burst(self._preparation)

    def infer(self, servable: Servable, inputs: Mapping[str, np.ndarray], terms: Terms, reply: Reply) -> Ticket:
        """Submit tensors by name.

        Args:
            servable: From :meth:`find`.
            inputs: One array per input. For a model of pictures or sentences, an array (N,) of bytes
                objects is taken as encoded items instead.
            terms: On which the servable answers.
            reply: Gets all outputs, in the graph's order.

        Raises:
            InvalidInput: A wrong name, dtype, shape or batch size (INVALID_ARGUMENT).
            ServingError: Refused at the door, as :class:`service.batching.batcher.Batcher` raises it.
        """
        check_names(servable, inputs)
        if servable.preparer is not None:
            only = inputs[servable.inputs[0].name]
            if only.dtype == object:
                return self.infer_items(servable, encoded_items(servable, only), terms, reply)
        arrays = check_arrays(servable, inputs)
        overrides = check_overrides(servable, inputs) if len(inputs) > len(arrays) else None
        return self.submit(servable, arrays, servable.group_of(arrays), terms, reply, overrides)

    def infer_items(self, servable: Servable, items: Sequence[Item], terms: Terms, reply: Reply) -> Ticket:
        """Submit pictures or sentences, whose number has been checked; one bad item fails the call.

        Args:
            servable: From :meth:`find`; must have a preparer.
            items: At least one, at most ``max_rows`` of the servable.
            terms: As for :meth:`infer`, like the reply.
            reply: Gets all outputs.

        Raises:
            ServingError: Refused at the door.
        """
        gather = TensorGather(items, servable, reply)
        self._preparation.begin(gather, terms)
        return gather

    def submit(
        self,
        servable: Servable,
        arrays: Sequence[np.ndarray],
        group: Hashable,
        terms: Terms,
        reply: Reply,
        overrides: Mapping[str, np.ndarray] | None = None,
    ) -> Ticket:
        """Submit tensors whose dtypes and shapes :meth:`infer` has checked, perhaps on an earlier call.

        Args:
            servable: From :meth:`find`.
            arrays: One (N, ...) per input of the graph, in its order.
            group: Requests of equal groups may share a batch.
            terms: As for :meth:`infer`, like the reply.
            reply: Gets all outputs.
            overrides: Optional inputs by name.

        Raises:
            InvalidInput: A token id that the vocabulary does not have (INVALID_ARGUMENT).
            ServingError: Refused at the door.
        """
        if servable.preparer is not None:
            servable.preparer.check(arrays[0])
        request = PendingRequest(
            arrays, group, terms.deadline, terms.arrival, reply, handicap=terms.handicap, overrides=overrides
        )
        if request.rows > servable.max_batch_size:
            gather = TensorGather((), servable, reply)
            gather.split(request)
            return gather
        servable.front.offer(request, terms.burst is not None and terms.burst.alone)
        return _Submitted(servable, request)

    def classify(self, servable: Servable, items: Sequence[Item], terms: Terms, reply: ItemsReply) -> Ticket:
        """Submit pictures or sentences; each succeeds or fails on its own.

        Args:
            servable: From :meth:`find`; must be a classifier.
            items: At least one; more than a batch holds run in several batches.
            terms: As for :meth:`infer`.
            reply: Gets one outcome per item.

        Raises:
            InvalidInput: No items, or too many (INVALID_ARGUMENT).
            ServingError: Refused at the door.
        """
        if not 1 <= len(items) <= self.max_items:
            raise InvalidInput(f"the call has {len(items)} items, expected 1 to {self.max_items}")
        gather = ItemsGather(items, servable, reply)
        self._preparation.begin(gather, terms)
        return gather


class _Submitted:
    """The ticket of a call that is one request."""

    __slots__ = ("_request", "_servable")

    def __init__(self, servable: Servable, request: PendingRequest) -> None:
        self._servable = servable
        self._request = request

    def cancel(self) -> None:
        self._servable.front.cancel(self._request)
