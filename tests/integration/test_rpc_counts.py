"""grpc_server_… on /metrics: every RPC once, whichever door it came by, and however it ended."""

from __future__ import annotations

from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2

from service.pb.inference import grpc_service_pb2 as pb
from tests.integration.harness import ADD_SUB, DEADLINE_SECONDS, ServerProcess, eventually, failure


def test_every_rpc_is_counted_once(small_repository: Path, transport: str):
    with ServerProcess(small_repository, transport) as server:

        def count(state: str, method: str, **labels: str) -> float:
            return server.metric(f"grpc_server_{state}_total", grpc_method=method, **labels)

        for _ in range(3):
            server.client.infer(ADD_SUB)
        failure(server.client.infer, pb.ModelInferRequest(model_name="none"))
        assert count("started", "ModelInfer") == 4
        assert count("handled", "ModelInfer", grpc_code="OK", grpc_type="unary") == 3
        assert count("handled", "ModelInfer", grpc_code="NotFound") == 1

        before = count("started", "ModelMetadata")
        server.client.inference.ModelMetadata(pb.ModelMetadataRequest(name="add-sub"), timeout=DEADLINE_SECONDS)
        assert count("started", "ModelMetadata") == count("handled", "ModelMetadata") == before + 1

        list(server.client.inference.ModelStreamInfer(iter([ADD_SUB] * 5), timeout=DEADLINE_SECONDS))
        assert count("handled", "ModelStreamInfer", grpc_code="OK", grpc_type="bidi_stream") == 1
        assert count("started", "ModelInfer") == 4, "a request on a stream is no RPC"

        # The harness has watched until the server was ready.
        eventually(lambda: count("handled", "Watch", grpc_code="Canceled") == 1, "the harness's watch has ended")
        watch = server.client.health.Watch(health_pb2.HealthCheckRequest(), timeout=DEADLINE_SECONDS)
        next(iter(watch))
        assert (count("started", "Watch", grpc_type="server_stream"), count("handled", "Watch")) == (2, 1)
        watch.cancel()
        eventually(lambda: count("handled", "Watch", grpc_code="Canceled") == 2, "the watch has ended")
        checked = count("handled", "Check", grpc_code="OK")
        server.client.health.Check(health_pb2.HealthCheckRequest(), timeout=DEADLINE_SECONDS)
        assert count("handled", "Check", grpc_code="OK") == checked + 1
        unknown = failure(server.client.health.Check, health_pb2.HealthCheckRequest(service="none"))
        assert unknown.code is grpc.StatusCode.NOT_FOUND
        assert count("handled", "Check", grpc_code="NotFound") == 1
