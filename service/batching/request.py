"""A request on its way through the batcher, and the reply that travels with it."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from service.errors import ServingError

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BatchFacts:
    """What is known of the batch that a request was part of; one object for the whole batch.

    Attributes:
        rows: Rows of live requests in the batch.
        bucket: Rows that ran, padding included.
        padding_ratio: Share of padding among the elements that ran, in [0, 1).
        instance: Number of the instance that ran it, from 0. The number after the last instance's means the thread
            that brought the request; -1 means that nothing ran.
        release_reason: ``"full"``, ``"idle"``, ``"deadline"``, ``"delay"``, ``"drain"``, or ``"cached"`` for
            an answer that was kept.
        released: Instant at which the batch left the queue, in seconds on the batcher's clock.
        assemble_seconds: Time to copy the rows together.
        infer_seconds: Time in the backend.
        lone: Whether it had the cores to itself and ran on more of them than usual.
    """

    rows: int
    bucket: int
    padding_ratio: float
    instance: int
    release_reason: str
    released: float
    assemble_seconds: float
    infer_seconds: float
    lone: bool = False

    @property
    def ran(self) -> bool:
        """Whether there was a batch at all."""
        return self.instance >= 0


class Reply(Protocol):
    """How an answer reaches the caller. Exactly one of the two methods is called, exactly once.

    Both are called on whichever thread settles the request and must return quickly. They must not
    raise: :class:`PendingRequest` logs what escapes and spares the neighbours.
    """

    def answer(self, outputs: Sequence[np.ndarray], request: PendingRequest, facts: BatchFacts) -> None:
        """Deliver one array (n, ...) per output: this request's rows only, padding removed.

        The arrays are views of the batch's outputs, which nobody writes to any more.
        """
        ...

    def refuse(self, error: ServingError) -> None:
        """Deliver the failure."""
        ...


class PendingRequest:
    """Arrays, deadline, arrival and reply of one request.

    Attributes:
        inputs: One array (n, ...) per input of the graph, all with the same n, checked against the manifest.
            The batcher reads them until the batch is assembled.
        rows: n, at least 1.
        group: Requests of equal groups can share a batch: they have the same trailing shapes, or one bucket
            of sentence lengths.
        deadline: Instant after which the answer is worthless, in seconds on the batcher's clock;
            infinite for none.
        arrival: Instant at which the server took the request in, on the same clock.
        handicap: By how many seconds its priority puts it behind its arrival in line.
        overrides: Optional inputs that it brings, by name; it then runs alone and unpadded, in a group of its own.
        turn: Its place in line: ``arrival`` plus the handicap.
        reply: Where the answer goes.
        promised: Whether it was admitted because its answer was predicted to come in time.
        queued: Instant at which its preparation was over, on the same clock.
        cancelled: Whether the caller left while the batch was running, or the call failed without it; its rows are
            dropped.
        left_at: Instant of that; None before.

    It is settled once, by whichever comes first: the instance that ran it, or whoever gave that instance up.
    """

    __slots__ = (
        "_unsettled",
        "arrival",
        "cancelled",
        "deadline",
        "group",
        "handicap",
        "inputs",
        "left_at",
        "overrides",
        "promised",
        "queued",
        "reply",
        "rows",
        "turn",
    )

    def __init__(
        self,
        inputs: Sequence[np.ndarray],
        group: Hashable,
        deadline: float,
        arrival: float,
        reply: Reply,
        queued: float | None = None,
        handicap: float = 0.0,
        overrides: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        self.inputs = inputs
        self.rows: int = len(inputs[0])
        self.group = (group, object()) if overrides else group
        self.overrides = overrides
        self.deadline = deadline
        self.arrival = arrival
        self.reply = reply
        self.queued = arrival if queued is None else queued
        self.handicap = handicap
        self.turn = arrival + handicap
        self.promised = False
        self.cancelled = False
        self.left_at: float | None = None
        self._unsettled = [True]

    def answer(self, outputs: Sequence[np.ndarray], facts: BatchFacts) -> None:
        """Settle the request with its own rows, unless it is settled."""
        if not self._settle():
            return
        try:
            self.reply.answer(outputs, self, facts)
        except Exception:
            _LOG.exception("a reply failed")

    def refuse(self, error: ServingError) -> bool:
        """Settle the request with a failure; return False if it was settled already."""
        if not self._settle():
            return False
        try:
            self.reply.refuse(error)
        except Exception:
            _LOG.exception("a reply failed")
        return True

    def _settle(self) -> bool:
        """Return whether this is the first call; popping from a list is atomic."""
        try:
            return self._unsettled.pop()
        except IndexError:
            return False
