"""One line a call, written by a real server on both doors."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from service.pb.inference import grpc_service_pb2 as pb
from tests.integration.harness import ADD_SUB, DEADLINE_SECONDS, ServerProcess, eventually, failure, infer_request

SECRET = 987654.0
ONES = np.full((3, 4), SECRET, dtype=np.float32)


def calls_of(server: ServerProcess, **wanted: object) -> list[dict[str, Any]]:
    entries = [entry for entry in server.logged("call") if entry["logger"] == "service.access"]
    return [entry for entry in entries if wanted.items() <= entry.items()]


def test_every_call_when_all_are_asked_for(small_repository: Path, transport: str):
    with ServerProcess(small_repository, transport, "--access-log-sample-rate", "1") as server:
        server.client.infer(infer_request("add-sub", {"a": ONES, "b": ONES}, id="mine"))
        server.client.infer(ADD_SUB, metadata=[("x-request-id", "theirs")])
        list(server.client.inference.ModelStreamInfer(iter([ADD_SUB]), timeout=DEADLINE_SECONDS))
        server.client.inference.ModelMetadata(pb.ModelMetadataRequest(name="add-sub"))
        lines = eventually(lambda: (found := calls_of(server)) and len(found) >= 4 and found, "four lines")
        assert len(lines) == 4
        unary, named, streamed, described = lines
        assert (unary["request_id"], unary["rows"], unary["batch_rows"]) == ("mine", 3, 3)
        assert (unary["model"], unary["version"], unary["status"]) == ("add-sub", "1", "OK")
        assert (unary["transport"], unary["rpc"]) == (transport, "inference.GRPCInferenceService/ModelInfer")
        phases = sum(unary[f"{phase}_seconds"] for phase in ("prepare", "queue", "assemble", "infer"))
        assert 0 < phases <= unary["total_seconds"] + 1e-5
        assert named["request_id"] == "theirs"
        assert streamed["transport"] == "stream"
        assert described["rpc"].endswith("/ModelMetadata")
        assert not [line for line in server.lines if str(int(SECRET)) in line], "a payload is in the log"


def test_by_default_failures_only(small_repository: Path, transport: str):
    with ServerProcess(small_repository, transport) as server:
        server.client.infer(ADD_SUB)
        long_name = "n" * 5000
        unknown = failure(server.client.infer, pb.ModelInferRequest(model_name=long_name, id="i" * 5000))
        assert unknown.code is grpc.StatusCode.NOT_FOUND
        lines = eventually(lambda: calls_of(server), "a line")
        assert [line["reason"] for line in lines] == ["MODEL_NOT_FOUND"]
        assert unknown.info is not None
        assert lines[0]["request_id"] == "i" * 128 == unknown.info.metadata["request_id"]
        assert max(len(line) for line in server.lines if '"call"' in line) < 1000


def test_a_log_that_nobody_reads_holds_up_neither_calls_nor_the_drain(small_repository: Path, transport: str):
    """As where a log collector hangs. A pipe and a reader's buffer hold less than 500 lines."""
    with ServerProcess(small_repository, transport, "--access-log-sample-rate", "1") as server:

        def call_unread() -> None:
            server.log_is_read.clear()
            for _ in range(500):
                server.client.infer(ADD_SUB)

        call_unread()
        server.log_is_read.set()
        eventually(lambda: server.client.infer(ADD_SUB) and server.logged("log lines were lost"), "the loss is told")
        call_unread()
        server.signal(signal.SIGTERM)
        assert server.process.wait(DEADLINE_SECONDS) == 0
