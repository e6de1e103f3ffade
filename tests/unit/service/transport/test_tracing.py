"""Traces as an exporter gets them, with clocks and chance of the test's own."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

import numpy as np
import pytest

pytest.importorskip("opentelemetry.sdk", reason="the extra otel is not installed")

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from service.batching.keeping import cached_facts
from service.batching.request import BatchFacts, PendingRequest
from service.logs import _BOUNDS
from service.transport.call_record import CallRecord, EndedCall
from service.transport.tracing import _MAX_WAITING_SPANS, Tracing, phases
from tests.fakes import RecordingReply

METHOD = "/inference.GRPCInferenceService/ModelInfer"
TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"
SAMPLED, NOT_SAMPLED = (("traceparent", f"00-{TRACE_ID}-{PARENT}-{flags}") for flags in ("01", "00"))
EPOCH_NS = 1_700_000_000 * 10**9
SECOND = 10**9
FACTS = BatchFacts(5, 8, 0.375, 1, "idle", 100.5, 0.25, 0.5)


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def trace(exporter: InMemorySpanExporter) -> Callable[..., Tracing]:
    """A server whose monotonic clock says 101 one second after the epoch of the tests."""

    def make(sample_rate: float = 0.0, chance: float = 0.5) -> Tracing:
        return Tracing(
            exporter,
            sample_rate,
            clock=lambda: 101.0,
            wall_clock_ns=lambda: EPOCH_NS + SECOND,
            random=lambda: chance,
        )

    return make


def request(queued: float = 100.25) -> PendingRequest:
    return PendingRequest([np.zeros((2, 3))], None, math.inf, 100.0, RecordingReply(), queued=queued)


def ended(code: str = "OK", record: CallRecord | None = None, **known: str) -> EndedCall:
    return EndedCall(METHOD, "native", "id-1", code, 1.5, 100.0, record=record, **known)


def exported(tracing: Tracing, exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    tracing.close(10)
    return {span.name: span for span in exporter.get_finished_spans()}


@pytest.mark.parametrize("state", ["said by a caller", "said=by" + " " * 300 + "a caller"])
def test_a_damaged_tracestate_is_not_repeated_in_the_log(
    trace: Callable[..., Tracing], caplog: pytest.LogCaptureFixture, state: str
) -> None:
    for name, bound in _BOUNDS.items():  # as they are set up once for the process
        logging.getLogger(name).addFilter(bound)
    assert trace().begin(METHOD, [SAMPLED, ("tracestate", state)], 100.0) is not None
    assert "said" not in caplog.text


def test_one_server_span_a_call_and_a_child_for_each_phase(
    trace: Callable[..., Tracing], exporter: InMemorySpanExporter
) -> None:
    tracing = trace()
    begun = tracing.begin(METHOD, [SAMPLED, ("tracestate", "a=b")], 100.0)
    assert begun is not None
    assert begun.trace_id == TRACE_ID
    begun.end(ended(record=CallRecord(False, begun, request(), FACTS), model="m", version="3"))
    spans = exported(tracing, exporter)
    server = spans.pop("inference.GRPCInferenceService/ModelInfer")
    assert server.kind is SpanKind.SERVER
    assert server.parent is not None
    assert (f"{server.context.trace_id:032x}", f"{server.parent.span_id:016x}") == (TRACE_ID, PARENT)
    assert server.parent.is_remote
    assert server.context.trace_state["a"] == "b"
    assert (server.start_time, server.end_time) == (EPOCH_NS, EPOCH_NS + 3 * SECOND // 2)
    assert dict(server.attributes or {}) == {
        "rpc.system": "grpc",
        "rpc.service": "inference.GRPCInferenceService",
        "rpc.method": "ModelInfer",
        "rpc.grpc.status_code": 0,
        "convserve.request.id": "id-1",
        "convserve.request.rows": 2,
        "convserve.transport": "native",
        "convserve.model.name": "m",
        "convserve.model.version": "3",
        "convserve.batch.rows": 5,
        "convserve.batch.bucket": 8,
        "convserve.batch.padding_ratio": 0.375,
        "convserve.batch.release_reason": "idle",
        "convserve.instance": 1,
    }
    assert server.status.status_code is StatusCode.UNSET
    assert server.resource.attributes["service.name"] == "convserve"
    times = {}
    for name, span in spans.items():
        assert span.parent == server.context
        assert span.kind is SpanKind.INTERNAL
        assert span.start_time is not None
        assert span.end_time is not None
        times[name] = ((span.start_time - EPOCH_NS) / SECOND, (span.end_time - EPOCH_NS) / SECOND)
    assert times == {"prepare": (0, 0.25), "queue": (0.25, 0.5), "assemble": (0.5, 0.75), "infer": (0.75, 1.25)}


def test_an_answer_from_the_cache_went_through_no_phase(
    trace: Callable[..., Tracing], exporter: InMemorySpanExporter
) -> None:
    tracing = trace()
    begun = tracing.begin(METHOD, [SAMPLED], 100.0)
    assert begun is not None
    begun.end(ended(record=CallRecord(False, begun, request(), cached_facts(2, 100.5))))
    (server,) = exported(tracing, exporter).values()
    told = {name: value for name, value in (server.attributes or {}).items() if not name.startswith("rpc.")}
    assert told == {
        "convserve.cached": True,
        "convserve.request.id": "id-1",
        "convserve.request.rows": 2,
        "convserve.transport": "native",
    }


def test_what_needed_no_preparation_has_no_span_of_it() -> None:
    assert [name for name, _, _ in phases(request(queued=100.0), FACTS)] == ["queue", "assemble", "infer"]


@pytest.mark.parametrize(
    ("metadata", "rate", "traced"),
    [
        ([SAMPLED], 0.0, True),
        ([NOT_SAMPLED], 1.0, False),
        ([("traceparent", f"00-{TRACE_ID}-{PARENT}-02")], 1.0, False),
        ([("traceparent", f"00-{TRACE_ID}-{PARENT}-03")], 0.0, True),
        ([("traceparent", f"01-{TRACE_ID}-{PARENT}-01-more")], 0.0, True),
        ([], 0.51, True),
        ([], 0.5, False),
        ([("traceparent", "nonsense")], 0.5, False),
        ([("traceparent", "nonsense")], 0.51, True),
        ([("traceparent", f"00-{'0' * 32}-{PARENT}-01")], 0.5, False),
        ([("traceparent", f"00-{TRACE_ID}-{PARENT}-01" + "x" * 9)], 0.5, False),
        ([("traceparent", b"\x00")], 0.5, False),
    ],
    ids=str,
)
def test_the_caller_decides_and_without_its_decision_chance(
    trace: Callable[..., Tracing],
    metadata: list[tuple[str, str | bytes]],
    rate: float,
    traced: bool,
) -> None:
    tracing = trace(rate)
    assert (tracing.begin(METHOD, metadata, 100.0) is not None) is traced
    tracing.close(10)


@pytest.mark.parametrize(
    ("code", "number", "status"),
    [
        ("INTERNAL", 13, StatusCode.ERROR),
        ("UNAVAILABLE", 14, StatusCode.ERROR),
        ("DEADLINE_EXCEEDED", 4, StatusCode.ERROR),
        ("INVALID_ARGUMENT", 3, StatusCode.UNSET),
        ("RESOURCE_EXHAUSTED", 8, StatusCode.UNSET),
    ],
)
def test_a_failure_says_so_and_why(
    trace: Callable[..., Tracing], exporter: InMemorySpanExporter, code: str, number: int, status: StatusCode
) -> None:
    tracing = trace(1.0)
    begun = tracing.begin(METHOD, [], 100.0)
    assert begun is not None
    begun.end(ended(code, CallRecord(False, begun), reason="QUEUE_FULL"))
    ((_, span),) = exported(tracing, exporter).items()
    assert span.parent is None
    assert span.attributes is not None
    assert (span.attributes["rpc.grpc.status_code"], span.attributes["error.type"]) == (number, "QUEUE_FULL")
    assert span.status.status_code is status


def test_spans_that_nobody_takes_are_dropped_and_closing_does_not_wait_for_ever() -> None:
    """The exporter hangs, as one does whose collector is gone, until it is told to stop."""
    import threading

    class Hanging(InMemorySpanExporter):
        def __init__(self) -> None:
            super().__init__()
            self.stopped = threading.Event()

        def export(self, spans: object) -> SpanExportResult:
            assert self.stopped.wait(60)
            return SpanExportResult.FAILURE

        def shutdown(self) -> None:
            self.stopped.set()

    exporter = Hanging()
    tracing = Tracing(exporter, 1.0, clock=lambda: 0.0, wall_clock_ns=lambda: 0, random=lambda: 0.0)
    for _ in range(_MAX_WAITING_SPANS + 1000):
        begun = tracing.begin(METHOD, [], 0.0)
        assert begun is not None
        begun.end(ended())
    processor = tracing._provider._active_span_processor._span_processors[0]
    assert len(processor._batch_processor._queue) <= _MAX_WAITING_SPANS  # type: ignore[attr-defined]
    tracing.close(0.01)
    assert exporter.stopped.is_set()
