"""Listening on IPv6, alone or beside IPv4."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.integration.harness import DEADLINE_SECONDS, ServerProcess, http_get


def has_ipv6() -> bool:
    with contextlib.suppress(OSError), socket.create_server(("::1", 0), family=socket.AF_INET6):
        return True
    return False


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
@pytest.mark.parametrize(
    ("host", "reached_by"), [("::1", ["[::1]"]), ("[::1]", ["[::1]"]), ("::", ["[::1]", "127.0.0.1"])]
)
def test_both_ports_are_reached_by_ipv6(small_repository: Path, transport: str, host: str, reached_by: list[str]):
    with ServerProcess(small_repository, transport, "--host", host, wait_ready=False) as server:
        for name in reached_by:
            with grpc.insecure_channel(f"{name}:{server.grpc_port}") as channel:
                health_pb2_grpc.HealthStub(channel).Check(
                    health_pb2.HealthCheckRequest(), timeout=DEADLINE_SECONDS, wait_for_ready=True
                )
            assert http_get(server.http_port, "/livez", name) == (200, "live\n")
