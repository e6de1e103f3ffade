"""health: is the server alive, are it and its models ready, and does grpc.health.v1 say the same?"""

from __future__ import annotations

from typing import Any

import grpc

from bench.conformance.model import Model
from bench.conformance.outcome import CallFailed, CheckFailed, expect, expect_equal
from bench.conformance.registry import model_check, server_check
from bench.conformance.target import status_name
from service.pb.inference import grpc_service_pb2 as pb

_OIP = "OIP, Health"
_HEALTH = "gRPC Health Checking Protocol"


@server_check("health", "ServerLive answers live", _OIP)
def server_live(suite: Any) -> None:
    expect_equal(suite.target.call("ServerLive").live, True, "live")


@server_check("health", "ServerReady answers ready", _OIP)
def server_ready(suite: Any) -> None:
    expect_equal(suite.target.call("ServerReady").ready, True, "ready")


@model_check("health", "ModelReady answers ready", _OIP)
def model_ready(suite: Any, model: Model) -> None:
    expect_equal(suite.target.call("ModelReady", pb.ModelReadyRequest(name=model.name)).ready, True, "ready")


@server_check("health", "ModelReady of an unknown model is NOT_FOUND, or not ready", "OIP, Health; the code: Triton")
def unknown_model_ready(suite: Any) -> None:
    not_ready(suite, pb.ModelReadyRequest(name="no-such-model"))


def not_ready(suite: Any, request: pb.ModelReadyRequest) -> None:
    """Check that what does not exist is not ready."""
    try:
        answer = suite.target.call("ModelReady", request)
    except CallFailed as failed:
        expect(failed.code is grpc.StatusCode.NOT_FOUND, "NOT_FOUND", failed)
    else:
        expect(not answer.ready, "NOT_FOUND, or ready: false", answer)


@server_check("health", "Check of the server answers SERVING", _HEALTH)
def check(suite: Any) -> None:
    expect_equal(suite.target.health_check(""), "SERVING", "Check of ''")


@server_check("health", "Check of an unknown service is NOT_FOUND", _HEALTH)
def check_unknown(suite: Any) -> None:
    try:
        answer = suite.target.health_check("no-such-service")
    except CallFailed as failed:
        if failed.code is grpc.StatusCode.UNIMPLEMENTED:
            raise
        expect(failed.code is grpc.StatusCode.NOT_FOUND, "NOT_FOUND", failed)
    else:
        raise CheckFailed(f"expected NOT_FOUND, got {answer}")


@server_check("health", "Watch of the server sends SERVING at once and stays open", _HEALTH)
def watch(suite: Any) -> None:
    _watched(suite, "", "SERVING")


@server_check("health", "Watch of an unknown service sends SERVICE_UNKNOWN and stays open", _HEALTH)
def watch_unknown(suite: Any) -> None:
    _watched(suite, "no-such-service", "SERVICE_UNKNOWN")


def _watched(suite: Any, service: str, expected: str) -> None:
    stream = suite.target.health_watch(service)
    try:
        answer = next(stream, None)
    except grpc.RpcError as error:
        failed = CallFailed.of("grpc.health.v1 Watch", error)
        if failed.code is grpc.StatusCode.UNIMPLEMENTED:
            raise failed from None
        raise CheckFailed(f"expected {expected}, got {failed}") from None
    expect(answer is not None, expected, "the end of the stream")
    expect_equal(status_name(answer), expected, f"Watch of '{service}'")
    expect(stream.is_active(), "a stream that stays open", "its end")
    stream.cancel()
