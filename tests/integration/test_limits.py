"""What a caller cannot make the doors do: hold boundless messages, metadata or connections."""

from __future__ import annotations

import functools
import time
from pathlib import Path

import grpc
import pytest

from service.transport.limits import DoorLimits
from tests.integration import http2
from tests.integration.conftest import Embed
from tests.integration.endless import send_endlessly
from tests.integration.harness import ADD_SUB, Client, ServerProcess, eventually, failure, infer_request

MODEL_INFER = "/inference.GRPCInferenceService/ModelInfer"
MODEL_STREAM_INFER = "/inference.GRPCInferenceService/ModelStreamInfer"
MEBIBYTE = 2**20


def limit(monkeypatch: pytest.MonkeyPatch, **limits: float) -> None:
    """Give servers of this test other limits of their doors."""
    monkeypatch.setattr("service.server.DoorLimits", functools.partial(DoorLimits, **limits))


@pytest.mark.parametrize("method", [MODEL_INFER, MODEL_STREAM_INFER])
def test_two_gibibytes_are_refused_before_they_are_held(server: ServerProcess, method: str):
    if server.transport == "native" and method == MODEL_INFER:
        pytest.skip("the native door holds a message whole, which is why it faces loopback or a proxy only")
    before = server.metric("process_resident_memory_bytes")
    stopped = send_endlessly(server.grpc_port, method, most=512 * MEBIBYTE)
    assert stopped.by in ("trailers", "reset")
    assert stopped.sent < 32 * MEBIBYTE  # what the windows of HTTP/2 let through
    assert server.metric("process_resident_memory_bytes") - before < 64 * MEBIBYTE
    assert server.client.infer(ADD_SUB).model_name == "add-sub"


def test_a_message_counts_as_what_it_becomes(server: ServerProcess):
    """64 MiB of zeros are 64 KiB when compressed; the limit is 4 MiB."""
    request = infer_request("add-sub", {}, id="0" * (64 * MEBIBYTE))
    failed = failure(server.client.infer, request, compression=grpc.Compression.Gzip)
    assert failed.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert server.client.infer(ADD_SUB, compression=grpc.Compression.Gzip).model_name == "add-sub"


@pytest.mark.parametrize("size", [20_000, 200_000])
def test_metadata_has_a_limit(server: ServerProcess, size: int):
    client = Client(server.grpc_port)
    with pytest.raises(grpc.RpcError):
        client.infer(ADD_SUB, metadata=(("x-large", "x" * size),))
    assert client.infer(ADD_SUB, metadata=(("x-large", "x" * 7_000),)).model_name == "add-sub"
    client.close()


def test_connections_have_a_limit(small_repository: Path, embed: Embed, monkeypatch: pytest.MonkeyPatch):
    limit(monkeypatch, max_connections=4)
    with embed() as running:
        if running.server.transport == "native":
            pytest.skip("the native door has no limit but that on open files")
        port = running.server.grpc_port
        held = [http2.Connection(port) for _ in range(3)]  # the client's own is the fourth
        assert all(connection.read() is not None for connection in held)
        with http2.Connection(port) as one_too_many:
            assert one_too_many.read() is None
        assert running.client.infer(ADD_SUB).model_name == "add-sub"
        for connection in held:
            connection.close()

        def admitted() -> bool:
            with http2.Connection(port) as another:
                return another.read() is not None

        eventually(admitted, "a place is free again")


def test_a_caller_connects_anew_when_its_connection_is_old(embed: Embed):
    with embed(max_connection_age_seconds=0.3) as running:
        if running.server.transport == "native":
            pytest.skip("the native door's library cannot tell callers to go")
        with http2.Connection(running.server.grpc_port) as old:
            frames = iter(old.read, None)
            assert any(frame.kind == http2.GOAWAY for frame in frames)
        call = running.occupy()
        with http2.Connection(running.server.grpc_port) as younger:  # gone when that call's connection is too old
            assert any(frame.kind == http2.GOAWAY for frame in iter(younger.read, None))
        running.gate.open()
        assert call.result().model_name == "add-sub"  # what is in flight is finished


def test_a_caller_may_ask_now_and_then_whether_the_server_is_there(embed: Embed, monkeypatch: pytest.MonkeyPatch):
    assert DoorLimits(1, 1).least_ping_seconds < 10  # which is what clients choose; without calls too
    limit(monkeypatch, least_ping_seconds=0.02)
    with embed() as running, http2.Connection(running.server.grpc_port) as idle:
        for _ in range(8):  # gRPC goes away after the third that comes too soon
            idle.send(http2.frame(http2.PING, 0, 0, bytes(8)))
            answers = (frame for frame in iter(idle.read, None) if frame.kind in (http2.PING, http2.GOAWAY))
            assert next(answers).kind == http2.PING
            time.sleep(0.05)


def test_a_connection_whose_other_end_vanished_is_closed(embed: Embed, monkeypatch: pytest.MonkeyPatch):
    limit(monkeypatch, keepalive_seconds=0.2, keepalive_timeout_seconds=3.0)
    with embed() as running, http2.Connection(running.server.grpc_port) as mute:
        frames = iter(mute.read, None)  # reads, but answers no ping
        kinds = {frame.kind for frame in frames if frame is not None}
        assert http2.PING in kinds
        assert running.client.infer(ADD_SUB).model_name == "add-sub"  # and who answers pings stays
