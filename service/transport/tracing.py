"""OpenTelemetry traces: a server span per call, and a child span for each of its phases.

Needs the extra ``otel``, so it is imported only when traces are wanted. A caller's ``traceparent``
(W3C Trace Context) decides whether its call is traced; without one, chance does. Every door passes
the metadata that carries it to :class:`Recorder`.

Spans are handed to a bounded queue and exported by a thread of OpenTelemetry's own: with a collector
that is slow or gone, spans are dropped and calls go on.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable

import grpc
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import (
    Span,
    SpanKind,
    StatusCode,
    Tracer,
    format_trace_id,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from service import __version__
from service.batching.request import BatchFacts, PendingRequest
from service.transport.access import Metadata
from service.transport.call_record import EndedCall

_MAX_WAITING_SPANS = 4096
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-([0-9a-f]{2})(-.*)?")
_SAMPLED = 0x01
# What the conventions count as the server's failure; the other codes are the caller's affair.
_FAILURES = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})
_CONTEXT = TraceContextTextMapPropagator()


class Tracing:
    """Begins traces and exports them. Thread-safe."""

    def __init__(
        self,
        exporter: SpanExporter,
        sample_rate: float,
        *,
        clock: Callable[[], float],
        wall_clock_ns: Callable[[], int],
        random: Callable[[], float],
    ) -> None:
        """Set up, and start the thread that exports.

        Args:
            exporter: Where spans go; closed with this.
            sample_rate: Share of the calls traced of those that bring no decision, from 0 to 1.
            clock: The data plane's.
            wall_clock_ns: Nanoseconds since the epoch.
            random: Uniform in [0, 1).
        """
        self._exporter = exporter
        self._sample_rate = sample_rate
        self._clock = clock
        self._wall_clock_ns = wall_clock_ns
        self._random = random
        resource = Resource.create({"service.name": "convserve", "service.version": __version__})
        # Decided here, before anything is made for a call: what reaches the SDK is traced.
        self._provider = TracerProvider(sampler=ALWAYS_ON, resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter, max_queue_size=_MAX_WAITING_SPANS))
        self._tracer = self._provider.get_tracer("convserve", __version__)

    def begin(self, method: str, metadata: Metadata, arrival: float) -> CallTrace | None:
        """Begin the trace of a call; None if it is not to be traced.

        Args:
            method: ``/package.Service/Method``.
            metadata: Of the call.
            arrival: Instant of the intake on the data plane's clock.
        """
        carrier = {
            key: value for key, value in metadata if key in ("traceparent", "tracestate") and isinstance(value, str)
        }
        decided = _TRACEPARENT.fullmatch(carrier.get("traceparent", ""))
        if decided is not None and not int(decided[1], 16) & _SAMPLED:
            return None
        context = _CONTEXT.extract(carrier, Context()) if decided is not None else Context()
        has_parent = get_current_span(context).get_span_context().is_valid
        if not has_parent and self._random() >= self._sample_rate:
            return None
        service, _, name = method.lstrip("/").partition("/")
        epoch_ns = self._wall_clock_ns() - int(self._clock() * 1e9)
        span = self._tracer.start_span(
            f"{service}/{name}",
            context,
            SpanKind.SERVER,
            {"rpc.system": "grpc", "rpc.service": service, "rpc.method": name},
            start_time=epoch_ns + int(arrival * 1e9),
        )
        return CallTrace(self._tracer, span, epoch_ns)

    def close(self, grace_seconds: float) -> None:
        """Export what waits, for so long at most, and end the thread."""
        closing = threading.Thread(target=self._provider.shutdown, name="traces", daemon=True)
        closing.start()
        closing.join(grace_seconds)
        if closing.is_alive():
            # It waits for a collector that does not answer: what is left is dropped.
            self._exporter.shutdown()
            closing.join(1.0)


class CallTrace:
    """One traced call's server span."""

    __slots__ = ("_epoch_ns", "_span", "_tracer", "trace_id")

    def __init__(self, tracer: Tracer, span: Span, epoch_ns: int) -> None:
        """Keep the span; ``epoch_ns`` is what the data plane's clock lacks to the epoch."""
        self._tracer = tracer
        self._span = span
        self._epoch_ns = epoch_ns
        self.trace_id = format_trace_id(span.get_span_context().trace_id)

    def end(self, ended: EndedCall) -> None:
        """End the span, with a child for each phase that the call reached."""
        span = self._span
        span.set_attributes(
            {
                "rpc.grpc.status_code": int(grpc.StatusCode[ended.code].value[0]),
                "convserve.request.id": ended.request_id,
                "convserve.transport": ended.transport,
                **_named("convserve.model.name", ended.model),
                **_named("convserve.model.version", ended.version),
                **_named("error.type", ended.reason),
            }
        )
        if ended.code in _FAILURES:
            span.set_status(StatusCode.ERROR)
        record = ended.record
        if record is not None and record.request is not None and record.facts is not None:
            span.set_attributes(_about_batch(record.request, record.facts))
            within = set_span_in_context(span, Context())
            for name, start, end in phases(record.request, record.facts):
                child = self._tracer.start_span(name, within, start_time=self._nanoseconds(start))
                child.end(self._nanoseconds(end))
        span.end(self._nanoseconds(ended.arrival + ended.seconds))

    def _nanoseconds(self, instant: float) -> int:
        return self._epoch_ns + int(instant * 1e9)


def phases(request: PendingRequest, facts: BatchFacts) -> list[tuple[str, float, float]]:
    """Return name, beginning and end of each phase of a request, of which some run none or need no ``prepare``."""
    if not facts.ran:
        return []
    assembled = facts.released + facts.assemble_seconds
    found = [
        ("queue", request.queued, facts.released),
        ("assemble", facts.released, assembled),
        ("infer", assembled, assembled + facts.infer_seconds),
    ]
    return [("prepare", request.arrival, request.queued), *found] if request.queued > request.arrival else found


def _about_batch(request: PendingRequest, facts: BatchFacts) -> dict[str, str | int | float]:
    if not facts.ran:
        return {"convserve.request.rows": request.rows, "convserve.cached": True}
    return {
        "convserve.request.rows": request.rows,
        "convserve.batch.rows": facts.rows,
        "convserve.batch.bucket": facts.bucket,
        "convserve.batch.padding_ratio": facts.padding_ratio,
        "convserve.batch.release_reason": facts.release_reason,
        "convserve.instance": facts.instance,
    }


def _named(name: str, value: str) -> dict[str, str]:
    return {name: value} if value else {}
