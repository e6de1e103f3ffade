"""What goes wrong around a server: callers who are idle, slow or gone, a full disk, no memory, no descriptors left."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from types import SimpleNamespace

import grpc
import numpy as np
import pytest

from service.pb.inference import grpc_service_pb2 as pb
from service.repository.watcher import Watcher
from service.repository.widening import Widening
from service.server import Server
from service.settings import Settings
from tests.deploy.conftest import free_ports
from tests.fakes import GUARD_SECONDS
from tests.integration import graphs, http2
from tests.integration.conftest import Embed
from tests.integration.harness import (
    ADD_SUB,
    DEADLINE_SECONDS,
    ROOT,
    Client,
    ServerProcess,
    arrays_of,
    environment,
    eventually,
    failure,
    infer_request,
    metric,
)

MEBIBYTE = 2**20
STREAMS = 64
CONNECTIONS = 10_000
SPARE_DESCRIPTORS = 1_000  # of this process, and of the server
GREETING = http2.PREFACE + http2.settings()


@pytest.fixture(scope="module")
def running(small_repository: Path, transport: str) -> Iterator[ServerProcess]:
    flags = ("--device", "cpu", "--instances", "1", "--max-concurrent-streams", str(STREAMS))
    with ServerProcess(small_repository, transport, *flags) as server:
        yield server


def answers(port: int) -> bool:
    """Tell whether a caller who comes now is answered."""
    client = Client(port)
    try:
        return client.infer(ADD_SUB, timeout=20).model_name == "add-sub"
    except grpc.RpcError:
        return False
    finally:
        client.close()


class TestConnections:
    def test_ten_thousand_idle_ones_keep_nobody_out(self, running: ServerProcess):
        """As many as the limit on open files allows."""
        allowed = min(resource.prlimit(pid, resource.RLIMIT_NOFILE)[0] for pid in (0, running.process.pid))
        count = min(CONNECTIONS, allowed - SPARE_DESCRIPTORS) if allowed > 2 * SPARE_DESCRIPTORS else allowed // 2
        before = running.metric("process_resident_memory_bytes")
        with ExitStack() as held:
            for number in range(count):
                connection = held.enter_context(closing(socket.create_connection(("127.0.0.1", running.grpc_port))))
                connection.sendall(GREETING)
                if number % 100 == 0:  # no faster than they are taken in
                    assert running.client.infer(ADD_SUB).model_name == "add-sub"
            assert answers(running.grpc_port)
            assert running.get("/readyz")[0] == 200
            assert running.metric("process_resident_memory_bytes") - before < count * 32 * 1024 + 64 * MEBIBYTE
        assert answers(running.grpc_port)

    def test_without_descriptors_new_ones_wait_and_old_ones_are_served(self, running: ServerProcess):
        pid = running.process.pid
        held_by_server = len(os.listdir(f"/proc/{pid}/fd"))
        limits = resource.prlimit(
            pid, resource.RLIMIT_NOFILE, (held_by_server + 20, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
        )
        try:
            with ExitStack() as held:
                for _ in range(64):
                    connection = socket.create_connection(("127.0.0.1", running.grpc_port))
                    held.enter_context(closing(connection)).sendall(GREETING)
                assert running.client.infer(ADD_SUB).model_name == "add-sub"
            eventually(lambda: answers(running.grpc_port), "who comes later is served")
        finally:
            resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)

    @pytest.mark.parametrize(
        "sent",
        [
            pytest.param(b"", id="nothing"),
            pytest.param(http2.PREFACE[:9], id="half-a-preface"),
            pytest.param(GREETING + b"\x00\x40", id="half-a-frame"),
            pytest.param(b"GET / HTTP/1.1\r\n\r\n", id="another-protocol"),
        ],
    )
    def test_half_open_ones_keep_nobody_out(self, running: ServerProcess, sent: bytes):
        with ExitStack() as held:
            for _ in range(200):
                connection = held.enter_context(closing(socket.create_connection(("127.0.0.1", running.grpc_port))))
                connection.sendall(sent)
            assert answers(running.grpc_port)

    def test_a_call_that_never_ends_its_message_holds_no_place(self, running: ServerProcess):
        with http2.Connection(running.grpc_port) as connection:
            for stream in range(1, 2 * STREAMS, 2):
                connection.send(http2.call_headers(stream, "/inference.GRPCInferenceService/ModelInfer"))
                connection.send(http2.frame(http2.DATA, 0, stream, b"\x00\x00\x00\x10\x00half"))
            assert answers(running.grpc_port)
            assert running.metric("convserve_inflight_requests") == 0

    def test_a_path_that_is_not_utf_8_ends_nothing(self, running: ServerProcess):
        """grpcio 1.84 and 1.85 stop listening upon it, and whoever asks /readyz hears nothing of that."""
        for _ in range(3):
            with http2.Connection(running.grpc_port) as connection:
                connection.send(http2.call_headers(1, b"/inference.GRPCInferenceService/\xa5"))
                ends = (http2.GOAWAY, http2.HEADERS, http2.RST_STREAM)
                assert any(frame.kind in ends for frame in iter(connection.read, None))
            eventually(lambda: answers(running.grpc_port), "callers are answered again")
        assert running.get("/readyz")[0] == 200


class TestSlowReaders:
    """Who sends requests and never reads: the window for answers is closed from the start.

    For streams see ``test_reads_no_faster_than_the_caller`` of the unit tests.
    """

    def test_at_most_one_answer_waits_for_each_stream_of_the_connection(self, running: ServerProcess):
        before = running.metric("process_resident_memory_bytes")
        answered = running.metric("convserve_requests_total", code="OK")
        payload = ADD_SUB.SerializeToString()
        with http2.Connection(running.grpc_port, initial_window_size=0) as connection:
            for stream in range(1, 2 * STREAMS, 2):
                connection.send(http2.call_headers(stream, "/inference.GRPCInferenceService/ModelInfer"))
                connection.send(http2.message(stream, payload))
            eventually(
                lambda: running.metric("convserve_requests_total", code="OK") - answered == STREAMS, "all are answered"
            )
            assert answers(running.grpc_port)
            assert running.metric("convserve_inflight_requests") == 0  # no place in a queue is held
            assert running.metric("process_resident_memory_bytes") - before < 64 * MEBIBYTE
        assert answers(running.grpc_port)

    def test_a_deadline_that_passes_before_the_answer_is_read_is_no_error_of_the_server(self, running: ServerProcess):
        with http2.Connection(running.grpc_port, initial_window_size=0) as connection:
            connection.send(
                http2.call_headers(1, "/inference.GRPCInferenceService/ServerLive", (b"grpc-timeout", b"200m"))
            )
            connection.send(http2.message(1, b""))
            eventually(
                lambda: running.metric("grpc_server_handled_total", grpc_method="ServerLive") > 0, "it is answered"
            )
            # gRPC ends the call at its deadline, in whose trailers it says so; native passes nothing on.
            if running.transport == "grpcio":
                assert any(frame.flags & http2.END_STREAM for frame in iter(connection.read, None) if frame.stream == 1)
        assert answers(running.grpc_port)
        assert not [line for line in running.lines if "ExecuteBatchError" in line]


class TestMemory:
    def test_a_run_without_memory_fails_its_request_alone(self, tmp_path: Path, transport: str):
        graphs.write(tmp_path, "hungry", graphs.hungry())
        flags = ("--device", "cpu", "--instances", "1", "--max-batch-size", "2", "--max-queue-delay-seconds", "10")
        with ServerProcess(tmp_path, transport, *flags) as server:
            # Full, so they run as one batch: 4 bytes for each of 2**58, which no machine has.
            calls = [
                server.client.inference.ModelInfer.future(
                    infer_request("hungry", {"count": np.array([[count]])}), timeout=DEADLINE_SECONDS
                )
                for count in (2**58, 7)
            ]
            assert failure(calls[0].result).code is grpc.StatusCode.INTERNAL
            assert arrays_of(calls[1].result())["y"].item() == 7
            assert server.metric("convserve_model_state", model="hungry", state="READY") == 1


class TestDisk:
    def test_where_logs_cannot_be_written_calls_are_answered_all_the_same(self, small_repository: Path, transport: str):
        grpc_port, http_port = free_ports(2)
        command = [sys.executable, "-m", "service", "serve", "--models", str(small_repository), "--device", "cpu"]
        command += ["--transport", transport, "--grpc-port", str(grpc_port), "--http-port", str(http_port)]
        command += ["--log-level", "debug", "--lame-duck-seconds", "0"]
        with Path("/dev/full").open("wb") as full:
            process = subprocess.Popen(command, cwd=ROOT, stderr=full, stdout=full, env=environment())
        try:
            eventually(lambda: process.poll() is not None or answers(grpc_port), "it serves")
            eventually(lambda: metric(http_port, "convserve_ready") == 1, "it is ready")
            process.send_signal(signal.SIGTERM)
            assert process.wait(DEADLINE_SECONDS) == 0
        finally:
            process.kill()
            process.wait()


@pytest.mark.parametrize("kind", [Widening, Watcher])
def test_a_server_that_gets_no_thread_after_it_has_loaded_stops_and_says_so(
    small_repository: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Widening | Watcher]
):
    """Otherwise it would seem to follow its repository."""

    def refuse(_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(kind, "start", refuse)
    settings = Settings(models=str(small_repository), grpc_port=0, http_port=0, model_control_mode="poll")
    server, hurry = Server(settings), threading.Event()
    server.start()
    try:
        assert server.loaded.wait(GUARD_SECONDS)
        assert server.failed.is_set()
        assert str(server.fatal).startswith("cannot start: no thread can be started")
    finally:
        hurry.set()
        server.drain(hurry)


def test_a_grpcio_server_that_ends_by_itself_listens_again(embed: Embed):
    async def ended(_seconds: float) -> None:
        raise RuntimeError("ended")

    def answers_again() -> bool:
        try:
            return bool(running.client.inference.ServerReady(pb.ServerReadyRequest(), timeout=DEADLINE_SECONDS).ready)
        except grpc.RpcError:
            return False

    with embed() as running:
        door = running.server._grpcio
        before = door._server
        door._server = SimpleNamespace(wait_for_termination=ended, stop=before.stop)
        eventually(lambda: door._ended and all(task.done() for task in door._ended), "the one that ended is closed")
        eventually(answers_again, "the next one answers")


def test_a_server_that_is_killed_leaves_no_file(
    small_repository: Path, transport: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Nor is there any that a cleaner of temporary files could remove from under it."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with ServerProcess(small_repository, transport) as server:
        assert not list(tmp_path.iterdir())
        server.process.kill()
        server.wait_exit()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("thread", ["grpcio", "changes", "prepare", "loader", "watchdog", "watcher", "http"])
def test_a_server_whose_thread_dies_is_not_ready_and_stops(small_repository: Path, thread: str):
    def die(*_: object) -> None:
        raise SystemExit

    settings = Settings(models=str(small_repository), grpc_port=0, http_port=0, model_control_mode="poll")
    server, hurry = Server(settings), threading.Event()
    kill = {
        "grpcio": lambda: server._grpcio._loop.call_soon_threadsafe(die),
        "changes": lambda: server._grpcio._off_loop._changes.submit(die),
        "prepare": lambda: server._workers.submit(die),
        "loader": lambda: None,
        "watchdog": lambda: setattr(server._watchdog, "look", die),
        "watcher": lambda: setattr(server._watcher, "_every_seconds", "no number"),
        "http": lambda: setattr(server._http._server, "service_actions", die),
    }
    server._watcher._every_seconds = 0.1
    if thread == "loader":
        server.reconciler.load_all = die  # type: ignore[method-assign]
    server.start()
    try:
        assert server.loaded.wait(GUARD_SECONDS)
        assert server.is_ready() is (thread != "loader")
        kill[thread]()
        assert server.failed.wait(GUARD_SECONDS)
        assert not server.is_ready()
        assert str(server.fatal).startswith(f"the thread {thread}")
    finally:
        hurry.set()
        server.drain(hurry)
