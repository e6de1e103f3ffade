"""A caller who leaves harms nobody: not its neighbours, not the counts, not the next caller."""

from __future__ import annotations

import subprocess
import sys

import numpy as np

from service.pb.convserve.classification.v1 import classification_pb2
from tests.integration import samples
from tests.integration.conftest import Embed
from tests.integration.harness import (
    ADD_SUB,
    DEADLINE_SECONDS,
    ROOT,
    EmbeddedServer,
    ServerProcess,
    arrays_of,
    eventually,
    infer_request,
)

# Sends calls and never reads an answer, until it is killed.
_CALLER = """
import sys, threading, grpc
port, method, count, payload = sys.argv[1], sys.argv[2], int(sys.argv[3]), bytes.fromhex(sys.argv[4])
call = grpc.insecure_channel("127.0.0.1:" + port).unary_unary(method)
calls = [call.future(payload) for _ in range(count)]
print("sent", flush=True)
threading.Event().wait()
"""


class Caller:
    """Another process with calls in flight."""

    def __init__(self, port: int, method: str, count: int, payload: bytes) -> None:
        command = [sys.executable, "-c", _CALLER, str(port), method, str(count), payload.hex()]
        self._process = subprocess.Popen(command, cwd=ROOT)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(DEADLINE_SECONDS)


def cancelled(running: EmbeddedServer, stage: str) -> float:
    return running.metric("convserve_cancelled_total", model="add-sub", stage=stage)


def test_a_cancelled_call_leaves_the_queue(embed: Embed):
    with embed() as running:
        first = running.occupy()
        second, third = (running.client.inference.ModelInfer.future(ADD_SUB) for _ in range(2))
        eventually(lambda: running.queued == 2, "both are queued")
        second.cancel()
        eventually(lambda: running.queued == 1 and running.in_flight == 2, "one has left")
        assert cancelled(running, "queued") == 1
        running.gate.open()
        assert first.result().model_name == third.result().model_name == "add-sub"
        assert running.in_flight == 0
        assert running.metric("convserve_requests_total", code="CANCELLED") == 1


def test_a_call_cancelled_while_it_runs_is_dropped_afterwards(embed: Embed):
    with embed() as running:
        first = running.occupy()
        first.cancel()
        second = running.client.inference.ModelInfer.future(ADD_SUB)
        eventually(lambda: running.queued == 1, "the next is queued")
        running.gate.open()
        assert second.result().model_name == "add-sub"
        eventually(lambda: running.in_flight == 0, "nothing is in flight")
        assert cancelled(running, "running") == 1
        assert running.metric("convserve_requests_total", code="CANCELLED") == 1
        assert running.metric("convserve_requests_total", code="OK") == 1


def test_a_client_killed_in_the_middle_of_64_requests(embed: Embed):
    with embed() as running:
        mine = running.occupy()
        caller = Caller(
            running.server.grpc_port, "/inference.GRPCInferenceService/ModelInfer", 64, ADD_SUB.SerializeToString()
        )
        try:
            eventually(lambda: running.queued == 64, "its requests are queued")
        finally:
            caller.kill()
        eventually(lambda: running.queued == 0 and running.in_flight == 1, "its requests have left")
        assert cancelled(running, "queued") == 64
        running.gate.open()
        assert mine.result().model_name == "add-sub"
        assert running.client.infer(ADD_SUB).model_name == "add-sub"
        assert running.in_flight == 0
        assert running.metric("convserve_requests_total", code="CANCELLED") == 64
        assert running.metric("convserve_requests_total", code="OK") == 2


def test_a_client_killed_while_its_64_requests_run(embed: Embed):
    with embed() as running:
        running.gate.shut()
        caller = Caller(
            running.server.grpc_port, "/inference.GRPCInferenceService/ModelInfer", 64, ADD_SUB.SerializeToString()
        )
        try:
            eventually(lambda: running.in_flight == 64 and running.gate.waiting == 1, "its requests are here")
        finally:
            caller.kill()
        eventually(lambda: running.queued == 0, "what was queued has left")
        running.gate.open()
        eventually(lambda: running.in_flight == 0, "nothing is in flight")
        assert cancelled(running, "queued") + cancelled(running, "running") == 64
        assert running.metric("convserve_requests_total", code="CANCELLED") == 64
        assert running.client.infer(ADD_SUB).model_name == "add-sub"


def test_a_client_killed_while_its_pictures_are_decoded(server: ServerProcess):
    pictures = [samples.encode(samples.digit_one(2000))] * 8
    request = classification_pb2.ClassifyImagesRequest(model_name="lenet5-mnist", images=pictures)
    caller = Caller(
        server.grpc_port,
        "/convserve.classification.v1.ClassificationService/ClassifyImages",
        64,
        request.SerializeToString(),
    )
    try:
        eventually(lambda: server.metric("convserve_inflight_requests") >= 8, "its requests are here")
    finally:
        caller.kill()
    eventually(lambda: server.metric("convserve_inflight_requests") == 0, "nothing is in flight")
    assert server.metric("convserve_queue_depth") == 0
    assert server.client.infer(ADD_SUB).model_name == "add-sub"


def test_neighbours_in_one_batch_keep_their_rows(embed: Embed):
    """Calls of one batch, every second of which is cancelled while it waits; the rest get their own rows."""

    def request(number: int):
        row = np.full((1, 4), number, dtype=np.float32)
        return infer_request("add-sub", {"a": row, "b": row})

    with embed() as running:
        running.occupy()
        calls = [running.client.inference.ModelInfer.future(request(number)) for number in range(20)]
        eventually(lambda: running.queued == 20, "all are queued")
        for call in calls[::2]:
            call.cancel()
        eventually(lambda: running.queued == 10, "half have left")
        running.gate.open()
        for number, call in list(enumerate(calls))[1::2]:
            assert arrays_of(call.result())["sum"].tolist() == [[2.0 * number] * 4]
