"""What is kept of a watched call while it runs, and what is known of any call once it is over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from service.batching.request import BatchFacts, PendingRequest

if TYPE_CHECKING:
    from service.transport.tracing import CallTrace


@dataclass(slots=True)
class CallRecord:
    """What is kept of a watched call while it runs.

    Attributes:
        logged: Whether it was sampled for the access log.
        trace: Its trace; None if it is not traced.
        request: What ran; for a call that ran in several parts, the part that finished last. None before that.
        facts: The facts of the batch that it was part of.
    """

    logged: bool
    trace: CallTrace | None = None
    request: PendingRequest | None = None
    facts: BatchFacts | None = None

    @property
    def trace_id(self) -> str:
        """The trace's id; empty if the call is not traced."""
        return self.trace.trace_id if self.trace is not None else ""

    def ran(self, request: PendingRequest | None, facts: BatchFacts | None) -> None:
        """Keep what is known of the run."""
        self.request, self.facts = request, facts


@dataclass(frozen=True, slots=True)
class EndedCall:
    """A call that is over.

    Attributes:
        method: ``/package.Service/Method``.
        transport: ``"native"``, ``"grpcio"``, ``"stream"`` (a request on a stream) or ``"http"``.
        request_id: The caller's id, cut to a length fit for a log, or one of ours.
        code: Name of the gRPC status, as it was sent.
        seconds: From intake to reply.
        arrival: Instant of the intake on the data plane's clock.
        reason: Why it failed, machine-readable; empty for a success.
        model: Name in the repository; empty for none, or one that is not there.
        version: The model's version; empty if none was found.
        record: What was kept of the call, if it was watched.
    """

    method: str
    transport: str
    request_id: str
    code: str
    seconds: float
    arrival: float
    reason: str = ""
    model: str = ""
    version: str = ""
    record: CallRecord | None = None
