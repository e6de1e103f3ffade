"""More than the server can do: refused at the door, late in the queue, thousands at once."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from service.backend.onnx import OnnxBackend
from service.pb.inference import grpc_service_pb2 as pb
from service.transport.calls import MODEL_INFER
from tests.integration.conftest import Embed
from tests.integration.harness import (
    ADD_SUB,
    DEADLINE_SECONDS,
    EmbeddedServer,
    Failure,
    eventually,
    failure,
    infer_request,
)


def fill(running: EmbeddedServer, count: int) -> list[grpc.Future]:
    """Keep the instance busy, then let so many wait behind it."""
    calls = [running.occupy()]
    calls += [running.client.inference.ModelInfer.future(ADD_SUB) for _ in range(count)]
    eventually(lambda: running.queued == count, "the queue is full")
    return calls


@pytest.mark.parametrize("status", ["RESOURCE_EXHAUSTED", "UNAVAILABLE"])
def test_a_full_queue_refuses_at_once(embed: Embed, status: str):
    with embed(max_queued_requests=3, overload_status=status) as running:
        calls = fill(running, 3)
        refused = failure(running.client.infer, ADD_SUB)  # at once: the gate is still shut
        assert refused.code is grpc.StatusCode[status]
        assert "3 requests wait, the limit is 3" in refused.message
        assert refused.info is not None
        assert refused.info.reason == "QUEUE_FULL"
        assert dict(refused.info.metadata) | {"queued": "3", "limit": "3"} == dict(refused.info.metadata)
        assert refused.retry_seconds is not None
        assert refused.retry_seconds > 0
        assert running.metric("convserve_rejected_total", model="add-sub", reason="queue_full") == 1
        running.gate.open()
        assert [call.result().model_name for call in calls] == ["add-sub"] * 4
        assert running.client.infer(ADD_SUB).model_name == "add-sub"
        assert running.metric("convserve_requests_total", code=status) == 1
        assert running.metric("convserve_requests_total", code="OK") == 5


def test_who_asks_for_more_overtakes_who_waits(embed: Embed):
    with embed(priority_levels=2, default_priority_level=2, instances=1, max_batch_size=1) as running:
        calls = fill(running, 3)
        urgent = infer_request("add-sub", {"a": np.ones((1, 4), np.float32), "b": np.ones((1, 4), np.float32)})
        urgent.parameters["priority"].uint64_param = 1
        first = running.client.inference.ModelInfer.future(urgent)
        eventually(lambda: running.queued == 4, "the urgent call waits too")
        running.gate.let_one_pass()
        calls[0].result(DEADLINE_SECONDS)
        running.gate.let_one_pass()
        first.result(DEADLINE_SECONDS)
        assert not any(call.done() for call in calls[1:])
        running.gate.open()
        assert [call.result().model_name for call in calls] == ["add-sub"] * 4


def test_a_message_over_the_limit_is_no_overload(embed: Embed):
    with embed(max_message_bytes=65536, overload_status="UNAVAILABLE") as running:
        request = infer_request("add-sub", {}, id="x" * 100_000)
        assert failure(running.client.infer, request).code is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_deadline_that_cannot_be_met_is_refused_at_once(embed: Embed, loop_iterations: int):
    """The cost of a batch is learned, so a queue of seconds tells that its end is seconds away."""
    with embed() as running:
        infer = running.client.inference.ModelInfer
        tenth = infer_request("loop", {"iterations": np.full((32, 1), loop_iterations // 10)})
        for _ in range(16):
            running.client.infer(tenth)
        behind = [infer.future(tenth) for _ in range(20)]
        eventually(lambda: running.metric("convserve_queue_depth", model="loop") >= 8, "seconds of work are queued")
        one = infer_request("loop", {"iterations": np.array([[1]])})
        one.parameters["timeout"].int64_param = 100_000  # ours: gRPC does not know of it
        refused = failure(running.client.infer, one)
        assert refused.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert refused.info is not None
        assert refused.info.reason == "DEADLINE_UNMEETABLE"
        assert refused.retry_seconds is not None
        assert refused.retry_seconds > 0
        assert not all(call.done() for call in behind)  # it did not wait for them
        for call in behind:
            call.cancel()


def test_a_deadline_that_passes_in_the_queue(embed: Embed):
    with embed() as running:
        first = running.occupy()
        request = pb.ModelInferRequest()
        request.CopyFrom(ADD_SUB)
        request.parameters["timeout"].int64_param = 300_000  # ours: gRPC does not know, so we must answer
        waits = running.client.inference.ModelInfer.future(request)
        eventually(lambda: running.queued == 1, "it is queued")
        passed = threading.Event()
        threading.Timer(0.3, passed.set).start()  # the deadline itself, counted from after its arrival
        assert passed.wait(30)
        running.gate.open()
        late: Failure = failure(waits.result)
        assert late.code is grpc.StatusCode.DEADLINE_EXCEEDED
        assert late.info is not None
        assert late.info.reason == "DEADLINE_EXCEEDED"
        assert first.result().model_name == "add-sub"
        assert running.in_flight == 0
        assert running.metric("convserve_rejected_total", model="add-sub", reason="deadline_exceeded") == 1


def test_grpcs_own_deadline_frees_the_place_in_the_queue(embed: Embed):
    with embed() as running:
        first = running.occupy()
        waits = running.client.inference.ModelInfer.future(ADD_SUB, timeout=2.0)
        assert failure(waits.result).code is grpc.StatusCode.DEADLINE_EXCEEDED
        eventually(lambda: running.queued == 0 and running.in_flight == 1, "its place is free")
        # Counted as what the caller was told, though its client hung up before the server looked.
        assert running.metric("convserve_requests_total", code="DEADLINE_EXCEEDED") == 1
        assert running.metric("grpc_server_handled_total", grpc_code="DeadlineExceeded") == 1
        assert running.metric("convserve_cancelled_total", model="add-sub", stage="queued") == 1
        running.gate.open()
        assert first.result().model_name == "add-sub"
        eventually(lambda: running.in_flight == 0, "nothing is in flight")


@pytest.mark.parametrize("max_concurrent_streams", [100, 100_000])
def test_two_thousand_calls_at_once_on_one_channel(embed: Embed, max_concurrent_streams: int):
    """Neither door may end a call because there are many, wherever the limit of streams lies."""

    async def call_all(port: int) -> list[bytes]:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = channel.unary_unary(MODEL_INFER)
            payload = ADD_SUB.SerializeToString()
            return await asyncio.gather(*(call(payload, timeout=DEADLINE_SECONDS) for _ in range(2000)))

    with embed(max_queued_requests=5000, instances=2, max_concurrent_streams=max_concurrent_streams) as running:
        expected = running.client.infer(ADD_SUB).SerializeToString()
        answers = asyncio.run(call_all(running.server.grpc_port))
        assert len(answers) == 2000
        assert set(answers) == {expected}
        assert running.in_flight == 0
        assert running.metric("convserve_requests_total", code="OK") == 2001


def test_costs_of_a_busy_machine_shut_nobody_out_for_good(
    embed: Embed, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """All callers have less time than a batch took at load, so nothing would ever run and correct that."""
    busy, run = threading.Event(), OnnxBackend.run
    busy.set()

    def slowed(self: OnnxBackend, *batch: Any) -> Any:
        if busy.is_set():
            threading.Event().wait(0.1)  # as if others had the cores
        return run(self, *batch)

    monkeypatch.setattr(OnnxBackend, "run", slowed)
    with embed(cost_folder=str(tmp_path)) as running:  # not what others measured, nor for them
        busy.clear()
        request = pb.ModelInferRequest()
        request.CopyFrom(ADD_SUB)
        request.parameters["timeout"].int64_param = 60_000
        refused = failure(running.client.infer, request)
        assert refused.info is not None
        assert refused.info.reason == "DEADLINE_UNMEETABLE"
        assert refused.retry_seconds is not None
        assert refused.retry_seconds > 0.5, "until then it would be refused again"

        def answered() -> bool:
            try:
                return bool(running.client.infer(request).model_name)
            except grpc.RpcError:
                return False

        eventually(answered, "one is let in, and answered")
        eventually(lambda: all(answered() for _ in range(5)), "so are the others")
