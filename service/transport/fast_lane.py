"""The native door: HTTP/2 in Rust outside the GIL, the hot unary methods answered from any thread.

One intake thread takes as many calls as wait in one trip across the GIL. Past capacity it rests between
trips: no call that it takes then can start at once, and each trip costs the running batch its caches. After
the rest it interrupts the batch, so that refusals reach their callers soon (ADR 6).
All other methods go on to the grpcio server behind it, over an abstract Unix socket.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pygrpc_native import EVENT_CALL, NativeGrpcFront

from service.cores import Cores
from service.dataplane import Ticket
from service.errors import ServingError
from service.scheduling import Hurry
from service.transport.access import Metadata
from service.transport.call import request_id_of
from service.transport.calls import HOT_METHODS, Calls
from service.transport.limits import DoorLimits
from service.transport.lone_calls import LoneCalls
from service.transport.status import Status
from service.vital import OnDeath, vital_thread

_CALLS_A_TRIP = 256
_REST_MILLISECONDS = 3  # after a trip with refusals; network cards coalesce interrupts in the same way
_IO_THREAD = "grpc-native-io"
_POLL_MILLISECONDS = 500  # how soon the intake thread notices that it must stop

Details = tuple[Metadata, str, float | None]


class MessageTooLarge(ServingError):
    """A request message over the limit. RESOURCE_EXHAUSTED is gRPC's own answer, although a retry will not help."""

    status = "RESOURCE_EXHAUSTED"
    reason = "MESSAGE_TOO_LARGE"


class FastLane:
    """Owns the native listener and its intake thread."""

    def __init__(
        self,
        target: str,
        fallback_name: str,
        calls: Calls,
        *,
        limits: DoorLimits,
        cores: Cores,
        on_death: OnDeath,
    ) -> None:
        """Bind, without accepting yet.

        Args:
            target: ``HOST:PORT``; port 0 takes a free one.
            fallback_name: Of the abstract Unix socket on which the grpcio server listens.
            calls: Where hot calls go.
            limits: Bounds. The listener has buffered a message by the time it is refused for its size, and
                does not limit connections; so this door is for trusted callers.
            cores: Told which threads follow the batches.
            on_death: Called if the intake thread dies.

        Raises:
            OSError: The address cannot be bound.
        """
        self._calls = calls
        self._burst = calls.dataplane.burst()
        self._shedder = calls.shedder()
        self._max_message_bytes = limits.max_message_bytes
        self._cores = cores
        self._tickets: dict[int, Ticket] = {}
        self._closing = False
        self._front = NativeGrpcFront(
            target,
            [(method, False) for method in HOT_METHODS],
            io_threads=1,
            call_details=True,
            metrics=True,
            keepalive_time_ms=int(limits.keepalive_seconds * 1000),
            keepalive_timeout_ms=int(limits.keepalive_timeout_seconds * 1000),
            max_concurrent_streams=limits.max_concurrent_streams,
            max_metadata_size=limits.max_metadata_bytes,
        )
        self._front.set_fallback(f"\0{fallback_name}")
        self._thread = vital_thread("intake", self._intake, on_death)

    @property
    def port(self) -> int:
        """The port that was bound."""
        return int(self._front.bound_port)

    @property
    def unsent(self) -> int:
        """How many hot calls have begun on the wire and are not completely answered yet."""
        told = [(self._front.metrics() or {}).get("methods", {}).get(method, {}) for method in HOT_METHODS]
        begun = sum(method.get("started", 0) for method in told)
        return int(begun - sum(ended["count"] for method in told for ended in method.get("status", {}).values()))

    def start(self) -> None:
        """Accept calls."""
        self._front.start()
        self._thread.start()

    def close(self) -> None:
        """Close the listener and every connection, and end the thread."""
        self._closing = True
        self._front.close()
        self._thread.join(timeout=5)

    def _intake(self) -> None:
        hurry, lone = Hurry(), LoneCalls()
        led = False
        while not self._closing:
            asked = time.monotonic()
            # In a hurry, wait no longer than a rest: a batch may keep the listener from the core, and the end of
            # the wait interrupts the batch.
            patience = _REST_MILLISECONDS if hurry.is_on else _POLL_MILLISECONDS
            events = self._front.recv_batch_details(_CALLS_A_TRIP, patience)
            if events is None:
                break
            if events and not led:  # with an event, the listener's thread exists and has its name
                self._cores.lead([threading.get_native_id(), *_io_threads()])
                led = True
            waited = time.monotonic() - asked
            self._burst.alone = lone.note(len(events), self._calls.in_flight.count, waited)
            refused = self._take(events)
            del events  # which hold the messages, while the next call may be long in coming
            self._burst.finish()
            self._shedder.settle()
            hurry.note(refused, time.monotonic())
            if refused:
                time.sleep(_REST_MILLISECONDS / 1000)

    def _take(self, events: Sequence[tuple[Any, ...]]) -> bool:
        """Take a trip's calls in, and note who has left; return whether any call was refused at once."""
        refused = False
        for kind, call_id, method, payload, _, details in events:
            if kind == EVENT_CALL and payload is not None and details is not None:
                refused |= not self._begin(call_id, HOT_METHODS[method], payload, details)
            elif (ticket := self._tickets.pop(call_id, None)) is not None:
                ticket.cancel()
        return refused

    def _begin(self, call_id: int, method: str, payload: bytes, details: Details) -> bool:
        """Take one call in; return False if it was refused at once."""
        if (
            self._calls.repeated is not None
            and (status := self._shedder.status(method, payload, details[2], details[0])) is not None
        ):
            self._front.fail(call_id, status.number, status.message, status.trailing_metadata)
            return False
        responder = _NativeResponder(self._front, self._tickets, call_id, details[0])
        if len(payload) > self._max_message_bytes:
            text = f"message of {len(payload)} bytes, expected at most {self._max_message_bytes}"
            self._calls.refuse(method, responder, MessageTooLarge(text))
            return False
        ticket = self._calls.begin(method, payload, details[2], responder, details[0], self._burst)
        if ticket is not None:
            self._tickets[call_id] = ticket
            if responder.settled:
                # Another thread answered before the ticket was noted, so it could not remove it.
                self._tickets.pop(call_id, None)
        return ticket is not None


def _io_threads() -> list[int]:
    """Return the native ids of the listener's threads, found by name; none if the names cannot be read.

    They cannot be read without procfs or without a free descriptor, neither of which must cost the calls.
    """
    found = []
    with contextlib.suppress(OSError):
        for comm in Path("/proc/self/task").glob("*/comm"):
            with contextlib.suppress(OSError):  # a thread has ended meanwhile
                if comm.read_text().strip() == _IO_THREAD:
                    found.append(int(comm.parent.name))
    return found


class _NativeResponder:
    """Answers one call by its id, from any thread."""

    transport = "native"
    __slots__ = ("_call_id", "_front", "_metadata", "_tickets", "settled")

    def __init__(self, front: NativeGrpcFront, tickets: dict[int, Ticket], call_id: int, metadata: Metadata) -> None:
        self.settled = False
        self._front = front
        self._tickets = tickets
        self._call_id = call_id
        self._metadata = metadata

    @property
    def request_id(self) -> str:
        """The caller's ``x-request-id``, or one of ours."""
        return request_id_of(self._metadata)

    def respond(self, payload: bytes) -> None:
        self.settled = True
        self._tickets.pop(self._call_id, None)
        self._front.respond(self._call_id, payload)

    def fail(self, status: Status) -> None:
        self.settled = True
        self._tickets.pop(self._call_id, None)
        self._front.fail(self._call_id, status.number, status.message, status.trailing_metadata)
