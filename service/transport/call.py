"""One hot call: the door's way back to its caller and its place in the metrics. It is settled exactly once."""

from __future__ import annotations

import itertools
import logging
import math
import os
import threading
from typing import TYPE_CHECKING, Protocol

from service.errors import InvalidInput, RequestCancelled, ServingError
from service.preparation import Burst
from service.repository.servable import Servable
from service.transport.access import Metadata
from service.transport.call_record import CallRecord, EndedCall
from service.transport.departure import departure
from service.transport.status import Status, internal

if TYPE_CHECKING:
    from service.transport.calls import Calls

_LOG = logging.getLogger(__name__)

_NO_RPC = ("stream", "http")  # transports whose requests are not RPCs: a whole stream is one, a web page none
MAX_REQUEST_ID = 128  # characters; a caller's own may be of any length, and answers with long metadata are lost

_ids = itertools.count(1)
_run_id = os.urandom(4).hex()


def new_request_id() -> str:
    """Return an id that no other call of this or another run has."""
    return f"{_run_id}-{next(_ids):x}"


def request_id_of(metadata: Metadata) -> str:
    """Return the caller's ``x-request-id``, cut to ``MAX_REQUEST_ID``, or a new one of ours."""
    for key, value in metadata:
        if key == "x-request-id" and value and isinstance(value, str):
            return value[:MAX_REQUEST_ID]
    return new_request_id()


def unexpected(request_id: str, method: str) -> Status:
    """Log the exception being handled; return what the caller sees in its place."""
    _LOG.exception("a call failed", extra={"fields": {"request_id": request_id, "method": method}})
    return internal(request_id)


class Responder(Protocol):
    """A door's way back to one caller. Exactly one method is called, once, from any thread."""

    @property
    def transport(self) -> str:
        """The door's transport, as :class:`EndedCall` names it."""
        ...

    @property
    def request_id(self) -> str:
        """The caller's id of the call, or one of ours: another one each time."""
        ...

    def respond(self, payload: bytes) -> None:
        """Send the serialised response with status OK."""
        ...

    def fail(self, status: Status) -> None:
        """End the call with an error."""
        ...


def is_rpc(responder: Responder) -> bool:
    """Return whether a call is an RPC of its own."""
    return responder.transport not in _NO_RPC


class InFlight:
    """Counts the calls taken in and not yet settled. Thread-safe."""

    def __init__(self) -> None:
        self.count = 0
        """How many calls are in flight."""
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)

    def enter(self) -> None:
        """Count a call in."""
        with self._lock:
            self.count += 1

    def leave(self) -> None:
        """Count it out."""
        with self._lock:
            self.count -= 1
            if not self.count:
                self._changed.notify_all()

    def wait_idle(self, timeout_seconds: float) -> bool:
        """Wait until nothing is in flight; return False if the time ran out first."""
        with self._changed:
            return self._changed.wait_for(lambda: not self.count, timeout_seconds)


class Call:
    """One call until it is settled: its way back and its place in the metrics.

    Attributes:
        arrival: Instant of the intake on the data plane's clock.
        caller_id: The id in the request message; empty for none.
        record: What is kept if the call is watched; None for most calls.
        burst: The calls that it came with; None if it came alone.
        deadline: gRPC's deadline, on the same clock; infinite for none.
    """

    __slots__ = (
        "_calls", "_method", "_model", "_request_id", "_responder", "_servable", "_unsettled",
        "arrival", "burst", "caller_id", "deadline", "record",
    )  # fmt: skip

    def __init__(
        self,
        calls: Calls,
        method: str,
        responder: Responder,
        arrival: float,
        burst: Burst | None = None,
        deadline: float = math.inf,
    ) -> None:
        self.arrival = arrival
        self.deadline = deadline
        self.burst = burst
        self.caller_id = ""
        self.record: CallRecord | None = None
        self._calls = calls
        self._method = method
        self._responder = responder
        self._servable: Servable | None = None
        self._model = ""
        self._request_id = ""
        self._unsettled = [True]

    def find(self, name: str, version: str, task: str = "") -> Servable:
        """Lend the servable, and label the call with it.

        Raises:
            InvalidInput: It has another task than the one given (INVALID_ARGUMENT).
            ServingError: As :meth:`DataPlane.find` raises it.
        """
        lifecycle = self._calls.dataplane.lifecycle
        self._model = name if lifecycle.knows(name) else ""
        servable = self._calls.dataplane.find(name, version)
        self._servable = servable
        if task and servable.task != task:
            instead = "; it takes tensors alone, by ModelInfer" if servable.task == "tensor" else ""
            raise InvalidInput(f"model '{name}' has task {servable.task}, this method needs {task}{instead}")
        return servable

    def lent(self, servable: Servable) -> None:
        """Label the call with a servable that :meth:`find` would return."""
        self._servable = servable
        self._model = servable.name

    @property
    def request_id(self) -> str:
        """The id in the request message, or else in the metadata, or else one of ours; looked up only on demand."""
        if not self._request_id:
            self._request_id = (self.caller_id or self._responder.request_id)[:MAX_REQUEST_ID]
        return self._request_id

    def respond(self, payload: bytes) -> None:
        """Settle with an answer."""
        if not self._settle():
            return
        seconds = self._count("OK")
        self._responder.respond(payload)
        if self.record is not None:
            self._ended("OK", seconds, "")

    def refuse(self, error: ServingError) -> None:
        """Settle with an error."""
        if isinstance(error, RequestCancelled):
            left_at = self._calls.dataplane.clock() if error.at is None else error.at
            error = departure(self.arrival, self.deadline, left_at)
        self._fail(self._calls.status_of(error, self.request_id), error.reason)

    def unexpected(self) -> None:
        """Settle with INTERNAL and log the exception being handled."""
        self._fail(unexpected(self.request_id, self._method), "INTERNAL")

    def _fail(self, status: Status, reason: str) -> None:
        if not self._settle():
            return
        seconds = self._count(status.name, reason)
        self._responder.fail(status)
        self._ended(status.name, seconds, reason)

    def _settle(self) -> bool:
        """Return whether this is the first call; popping from a list is atomic."""
        try:
            return self._unsettled.pop()
        except IndexError:
            return False

    def _count(self, code: str, reason: str = "") -> float:
        """Count the call and return the seconds that it took; never raises.

        Called before the answer goes out, so that a caller who has the answer finds it counted.
        """
        seconds = self._calls.dataplane.clock() - self.arrival
        try:
            self._calls.count(self._method, code, self._model, self._version(), rpc=is_rpc(self._responder))
            if self._servable is not None and code == "OK":
                self._servable.metrics.observe_success(seconds, "" if self.record is None else self.record.trace_id)
            elif self._servable is not None:
                self._servable.metrics.observe_failure(seconds, reason)
        except Exception:
            _LOG.exception("a call could not be counted")
        self._calls.in_flight.leave()
        return seconds

    def _ended(self, code: str, seconds: float, reason: str) -> None:
        self._calls.recorder.ended(
            EndedCall(
                self._method,
                self._responder.transport,
                self.request_id,
                code,
                seconds,
                self.arrival,
                reason,
                self._model,
                self._version(),
                self.record,
            )
        )

    def _version(self) -> str:
        return self._servable.metrics.version if self._servable else ""
