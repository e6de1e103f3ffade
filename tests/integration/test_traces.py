"""Traces on both doors, as a collector gets them: a real OTLP/gRPC receiver in this process."""

from __future__ import annotations

import importlib.util
import shutil
import signal
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

pytest.importorskip("opentelemetry.sdk", reason="the extra otel is not installed")

from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as otlp
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc

from service.pb.inference import grpc_service_pb2 as pb
from tests.integration.harness import (
    ADD_SUB,
    DEADLINE_SECONDS,
    MODELS,
    ServerProcess,
    eventually,
    failure,
)

TRACE_ID, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED = (("traceparent", f"00-{TRACE_ID}-{PARENT}-01"),)
NOT_SAMPLED = (("traceparent", f"00-{'ab' * 16}-{PARENT}-00"),)


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps the spans that it gets."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.services: set[str] = set()
        self.server = grpc.server(ThreadPoolExecutor(2))
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(self, self.server)
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        self.server.start()

    def Export(self, request: Any, _: Any) -> Any:
        for resource in request.resource_spans:
            names = {one.key: one.value.string_value for one in resource.resource.attributes}
            self.services.add(names["service.name"])
            self.spans += [span for scope in resource.scope_spans for span in scope.spans]
        return otlp.ExportTraceServiceResponse()

    def flags(self, *more: str) -> list[str]:
        return ["--otlp-endpoint", f"http://127.0.0.1:{self.port}", *more]


@pytest.fixture
def collector() -> Iterator[Collector]:
    running = Collector()
    yield running
    running.server.stop(None).wait(DEADLINE_SECONDS)


def attributes(span: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in span.attributes}


def open_metrics(port: int) -> str:
    asked = urllib.request.Request(
        f"http://127.0.0.1:{port}/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"}
    )
    with urllib.request.urlopen(asked, timeout=DEADLINE_SECONDS) as answer:
        body: str = answer.read().decode()
        return body


def test_a_caller_finds_its_call_in_its_trace(small_repository: Path, transport: str, collector: Collector):
    flags = collector.flags("--trace-sample-rate", "0", "--lame-duck-seconds", "0", "--access-log-sample-rate", "1")
    with ServerProcess(small_repository, transport, *flags) as server:
        before = time.time_ns()
        server.client.infer(ADD_SUB, metadata=SAMPLED)
        server.client.infer(ADD_SUB, metadata=NOT_SAMPLED)
        server.client.infer(ADD_SUB)
        assert f'# {{trace_id="{TRACE_ID}"}}' in open_metrics(server.http_port)
        assert TRACE_ID not in server.get("/metrics")[1]
        failure(server.client.infer, pb.ModelInferRequest(model_name="none"), metadata=SAMPLED)
        list(server.client.inference.ModelStreamInfer(iter([ADD_SUB]), metadata=SAMPLED, timeout=DEADLINE_SECONDS))
        server.client.inference.ModelMetadata(pb.ModelMetadataRequest(name="add-sub"), metadata=SAMPLED)
        after = time.time_ns()
        logged = eventually(lambda: [line for line in server.logged("call") if "trace_id" in line], "a logged trace")
        assert {line["trace_id"] for line in logged} == {TRACE_ID}
        server.signal(signal.SIGTERM)  # what waits is exported at the drain
        assert server.wait_exit() == 0
    assert collector.services == {"convserve"}
    assert {span.trace_id.hex() for span in collector.spans} == {TRACE_ID}
    calls = [span for span in collector.spans if span.parent_span_id.hex() == PARENT]
    about = [(span.name.rpartition("/")[2], attributes(span)) for span in calls]
    assert sorted((name, said["rpc.grpc.status_code"], said["convserve.transport"]) for name, said in about) == [
        ("ModelInfer", 0, transport),
        ("ModelInfer", 0, "stream"),
        ("ModelInfer", 5, transport),
        ("ModelMetadata", 0, "grpcio"),
    ]
    unary = next(span for span, (_, said) in zip(calls, about, strict=True) if said["convserve.transport"] == transport)
    children = sorted(
        (span for span in collector.spans if span.parent_span_id == unary.span_id),
        key=lambda span: (span.start_time_unix_nano, span.end_time_unix_nano),
    )
    assert [span.name for span in children] == ["queue", "assemble", "infer"]
    for span in (unary, *children):
        assert before - 10**6 <= span.start_time_unix_nano <= span.end_time_unix_nano <= after + 10**6


def test_a_sentence_tried_on_the_status_page_is_a_call_like_any_other(tmp_path: Path, collector: Collector):
    shutil.copytree(MODELS / "textcnn-mr", tmp_path / "textcnn-mr")
    with ServerProcess(tmp_path, "grpcio", *collector.flags("--trace-sample-rate", "0")) as server:
        asked = urllib.request.Request(
            f"http://127.0.0.1:{server.http_port}/try?model=textcnn-mr&kind=sentence",
            data=b"A gripping story.",
            headers=dict(SAMPLED),
        )
        with urllib.request.urlopen(asked, timeout=DEADLINE_SECONDS) as answer:
            assert answer.status == 200
        spans = eventually(lambda: len(collector.spans) >= 5 and collector.spans, "its spans")
    (call,) = [span for span in spans if span.parent_span_id.hex() == PARENT]
    assert attributes(call)["convserve.transport"] == "http"
    children = {span.name for span in spans if span.parent_span_id == call.span_id}
    assert children == {"prepare", "queue", "assemble", "infer"}


def test_chance_decides_for_callers_without_a_trace(small_repository: Path, transport: str, collector: Collector):
    with ServerProcess(small_repository, transport, *collector.flags("--trace-sample-rate", "1")) as server:
        for _ in range(3):
            server.client.infer(ADD_SUB)
        eventually(lambda: len(collector.spans) >= 3 * 4, "spans come without a drain")
    assert len({span.trace_id for span in collector.spans}) == 3


def test_a_collector_that_is_gone_holds_nothing_up(small_repository: Path, transport: str, collector: Collector):
    collector.server.stop(None).wait(DEADLINE_SECONDS)
    flags = collector.flags("--trace-sample-rate", "1", "--lame-duck-seconds", "0")
    with ServerProcess(small_repository, transport, *flags) as server:
        threads = [threading.Thread(target=server.client.infer, args=(ADD_SUB,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE_SECONDS)
        assert server.metric("convserve_requests_total", code="OK") == 8
        started = time.monotonic()
        server.signal(signal.SIGTERM)
        assert server.wait_exit() == 0
        assert time.monotonic() - started < 30


def test_without_the_extra_the_server_says_what_to_install(small_repository: Path, monkeypatch: pytest.MonkeyPatch):
    import sys

    from service.errors import SettingsError
    from service.server import Server
    from service.settings import Settings

    assert importlib.util.find_spec("opentelemetry.sdk")
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    monkeypatch.delitem(sys.modules, "service.transport.tracing", raising=False)
    settings = Settings(models=str(small_repository), otlp_endpoint="http://127.0.0.1:4317")
    with pytest.raises(SettingsError, match=r"'\.\[otel\]'"):
        Server(settings)
