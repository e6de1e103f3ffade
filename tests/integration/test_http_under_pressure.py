"""The HTTP endpoint where connections come in bursts, hang, or find no descriptor."""

from __future__ import annotations

import os
import resource
import socket
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from service.transport import http_endpoint
from tests.integration.conftest import Embed
from tests.integration.harness import ADD_SUB, DEADLINE_SECONDS, Client, ServerProcess, eventually, http_get


def is_live(port: int) -> bool:
    try:
        return http_get(port, "/livez") == (200, "live\n")
    except OSError:
        return False


def is_scraped(port: int) -> bool:
    try:
        return http_get(port, "/metrics")[0] == 200
    except OSError:
        return False


def test_a_burst_that_hangs_is_taken_at_once_and_gone_soon(embed: Embed, monkeypatch: pytest.MonkeyPatch):
    """With the five places that a listener has by default the last would be connected after ten seconds.

    More hang than the endpoint takes; after a while of silence it lets them go, without their doing.
    """
    assert http_endpoint._Handler.timeout == 10  # seconds: longer than this test has
    monkeypatch.setattr(http_endpoint._Handler, "timeout", 1)
    with embed() as running, ExitStack() as many:
        port, started = running.server.http_port, time.monotonic()
        for number in range(http_endpoint._MAX_CONNECTIONS + 8):
            hanging = many.enter_context(socket.create_connection(("127.0.0.1", port), timeout=60))
            with suppress(OSError):  # one too many is closed at once
                hanging.sendall(b"GET /metr" if number else b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 100)
        assert time.monotonic() - started < 5
        newcomer = Client(running.server.grpc_port)
        many.callback(newcomer.close)
        assert newcomer.infer(ADD_SUB).model_name == "add-sub"
        eventually(lambda: is_live(port), "the next is answered")
        eventually(lambda: is_scraped(port), "so is the next scrape")


def test_those_who_trickle_shut_nobody_out(embed: Embed, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(http_endpoint._Handler, "timeout", 1)
    with embed() as running, ExitStack() as many:
        port = running.server.http_port
        trickling = [
            many.enter_context(socket.create_connection(("127.0.0.1", port), timeout=60))
            for _ in range(http_endpoint._MAX_CONNECTIONS)
        ]
        started = time.monotonic()
        while not is_live(port):
            assert time.monotonic() - started < DEADLINE_SECONDS
            for connection in trickling:
                with suppress(OSError):
                    connection.sendall(b"G")
            time.sleep(0.2)


def test_those_who_ask_again_and_again_shut_nobody_out(embed: Embed):
    with embed() as running, ExitStack() as many:
        port = running.server.http_port
        asking = [
            many.enter_context(socket.create_connection(("127.0.0.1", port), timeout=60))
            for _ in range(http_endpoint._MAX_CONNECTIONS)
        ]

        def is_live_while_all_ask() -> bool:
            for connection in asking:
                with suppress(OSError):
                    connection.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
                    connection.recv(4096)
            return is_live(port)

        eventually(is_live_while_all_ask, "somebody else is answered")


def test_without_descriptors_no_core_is_burnt(small_repository: Path, transport: str):
    with ServerProcess(small_repository, transport) as server:
        pid, port = server.process.pid, server.http_port
        descriptors = os.listdir(f"/proc/{pid}/fd")
        limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (max(map(int, descriptors)) + 1, limits[1]))

        def cpu_seconds() -> float:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

        with ExitStack() as waiting:
            for _ in range(http_endpoint._MAX_CONNECTIONS):  # some find a gap among the descriptors
                waiting.enter_context(socket.create_connection(("127.0.0.1", port), timeout=60))
            cpu, started = cpu_seconds(), time.monotonic()
            while time.monotonic() - started < 2.0:  # with the first calls of all
                assert server.client.infer(ADD_SUB).model_name == "add-sub"
                time.sleep(0.1)
            # Were it to spin, it would take half of a core and more.
            assert cpu_seconds() - cpu < 0.25 * (time.monotonic() - started)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
        eventually(lambda: is_live(port), "scrapers are answered again")
