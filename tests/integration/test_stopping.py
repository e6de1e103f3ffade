"""SIGTERM: not ready at once, answering in lame duck, finishing what is queued, exit 0."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import signal
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2

from service.pb.inference import grpc_service_pb2 as pb
from service.pb.inference import grpc_service_pb2_grpc
from service.transport.calls import MODEL_INFER
from service.transport.streaming import MODEL_STREAM_INFER
from tests.integration import graphs, http2
from tests.integration.harness import (
    ADD_SUB,
    DEADLINE_SECONDS,
    Client,
    ServerProcess,
    arrays_of,
    eventually,
    failure,
    failure_of,
    infer_request,
)

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def watch(client: Client, name: str = "") -> grpc.Call:
    return client.health.Watch(health_pb2.HealthCheckRequest(service=name), timeout=DEADLINE_SECONDS)


def loop_request(iterations: int) -> pb.ModelInferRequest:
    return infer_request("loop", {"iterations": np.array([[iterations]])})


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_lame_duck_answers_and_a_second_signal_ends_it(small_repository: Path, transport: str, number: signal.Signals):
    with ServerProcess(small_repository, transport, "--lame-duck-seconds", "600") as server:
        first, second = watch(server.client), watch(server.client)
        assert next(first).status == next(second).status == SERVING
        first.cancel()  # one watcher leaves; the other must still be told
        with pytest.raises(grpc.RpcError):
            next(first)
        models = [watch(server.client, name) for name in ("add-sub", "add-sub/1")]
        assert [next(model).status for model in models] == [SERVING, SERVING]
        server.signal(number)
        assert next(second).status == NOT_SERVING
        assert [next(model).status for model in models] == [NOT_SERVING, NOT_SERVING]
        assert server.get("/readyz") == (503, "not ready\n")
        assert server.get("/livez") == (200, "live\n")
        assert not server.client.inference.ServerReady(pb.ServerReadyRequest()).ready
        assert server.client.infer(ADD_SUB).model_name == "add-sub"  # lame duck
        started = time.monotonic()
        server.signal(number)
        assert server.wait_exit() == 0
        assert time.monotonic() - started < 30  # not 600


def test_what_is_queued_is_finished_and_what_comes_later_is_refused(
    small_repository: Path, transport: str, loop_iterations: int
):
    """By the native door with our reason; the grpcio door tells its callers to go and no longer listens."""
    flags = ("--lame-duck-seconds", "0", "--drain-seconds", "600", "--instances", "1", "--max-batch-size", "1")
    half_a_second = loop_iterations // 2
    with ServerProcess(small_repository, transport, *flags) as server:
        calls = [server.client.inference.ModelInfer.future(loop_request(half_a_second)) for _ in range(6)]
        eventually(lambda: server.metric("convserve_queue_depth", model="loop") >= 1, "one runs, others are queued")
        server.signal(signal.SIGTERM)
        server.wait_log("draining")

        def refused() -> bool:
            try:
                server.client.infer(ADD_SUB)
            except grpc.RpcError as error:
                failed = failure_of(error)
                assert failed.code is grpc.StatusCode.UNAVAILABLE
                assert (failed.info.reason if failed.info else "") == ("DRAINING" if transport == "native" else "")
                assert failed.retry_seconds == (1.0 if transport == "native" else None)
                return True
            return False

        eventually(refused, "new calls are refused")
        assert [arrays_of(call.result())["done"].tolist() for call in calls] == [[[half_a_second]]] * 6
        assert server.wait_exit() == 0
        assert server.logged("stopped")[0]["in_flight"] == 0


@contextlib.contextmanager
def sighup(disposition: signal.Handlers) -> Iterator[None]:
    """Let processes that are started inherit what SIGHUP does, whether the tests themselves run under nohup or not."""
    before = signal.signal(signal.SIGHUP, disposition)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_terminal_that_closes_drains_the_server(small_repository: Path, transport: str, loop_iterations: int):
    """It sends SIGHUP, often twice, the shell's and the kernel's: nobody is in a hurry."""
    flags = ("--lame-duck-seconds", "0", "--drain-seconds", "600", "--instances", "1", "--max-batch-size", "1")
    with sighup(signal.SIG_DFL):
        server = ServerProcess(small_repository, transport, *flags)
    with server:
        calls = [server.client.inference.ModelInfer.future(loop_request(loop_iterations // 2)) for _ in range(3)]
        eventually(lambda: server.metric("convserve_queue_depth", model="loop") >= 1, "one runs, others are queued")
        server.signal(signal.SIGHUP)
        server.wait_log("draining")
        server.signal(signal.SIGHUP)
        assert [arrays_of(call.result())["done"].tolist() for call in calls] == [[[loop_iterations // 2]]] * 3
        assert server.wait_exit() == 0


def test_nohup_is_heeded(small_repository: Path, transport: str):
    with sighup(signal.SIG_IGN):
        server = ServerProcess(small_repository, transport, "--lame-duck-seconds", "600")
    with server:
        server.signal(signal.SIGHUP)
        server.signal(signal.SIGTERM)  # the first that counts, so there is a lame duck
        server.wait_log("draining")
        assert server.client.infer(ADD_SUB).model_name == "add-sub"
        server.signal(signal.SIGTERM)
        assert server.wait_exit() == 0


def test_a_second_signal_gives_up_what_runs(small_repository: Path, transport: str, loop_iterations: int):
    flags = ("--lame-duck-seconds", "0", "--drain-seconds", "3600", "--instances", "1")
    with ServerProcess(small_repository, transport, *flags) as server:
        call = server.client.inference.ModelInfer.future(loop_request(600 * loop_iterations))
        eventually(lambda: server.metric("convserve_inflight_requests") == 1, "it runs")
        server.signal(signal.SIGTERM)
        server.wait_log("draining")
        server.signal(signal.SIGTERM)
        started = time.monotonic()
        assert server.wait_exit() == 0
        assert time.monotonic() - started < 30  # not 600
        assert failure(call.result).code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


def test_drain_seconds_bound_the_waiting(small_repository: Path, transport: str, loop_iterations: int):
    flags = ("--lame-duck-seconds", "0", "--drain-seconds", "0.2", "--instances", "1", "--max-batch-size", "1")
    with ServerProcess(small_repository, transport, *flags) as server:
        calls = [server.client.inference.ModelInfer.future(loop_request(600 * loop_iterations)) for _ in range(2)]
        eventually(lambda: server.metric("convserve_queue_depth", model="loop") == 1, "one runs, one is queued")
        server.signal(signal.SIGTERM)
        assert server.wait_exit() == 0
        codes = {failure(call.result).code for call in calls}
        assert codes <= {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}


def test_a_stream_is_answered_what_is_in_flight_and_refused_what_comes_later(
    small_repository: Path, transport: str, loop_iterations: int
):
    flags = ("--lame-duck-seconds", "0", "--drain-seconds", "600", "--instances", "1", "--max-batch-size", "1")
    outbox: queue.SimpleQueue[pb.ModelInferRequest | None] = queue.SimpleQueue()
    with ServerProcess(small_repository, transport, *flags) as server:
        call = server.client.inference.ModelStreamInfer(iter(outbox.get, None), timeout=DEADLINE_SECONDS)
        for number in range(6):
            outbox.put(infer_request("loop", {"iterations": np.array([[loop_iterations // 2]])}, id=str(number)))
        eventually(lambda: server.metric("convserve_queue_depth", model="loop") >= 1, "one runs, others are queued")
        server.signal(signal.SIGTERM)
        server.wait_log("draining")
        assert [next(call).infer_response.id for _ in range(4)] == ["0", "1", "2", "3"]
        outbox.put(infer_request("loop", {"iterations": np.array([[1]])}, id="late"))
        errors = {answer.infer_response.id: answer.error_message for answer in (next(call) for _ in range(3))}
        assert errors == {"4": "", "5": "", "late": "UNAVAILABLE: the server is stopping"}
        assert server.wait_exit() == 0
        outbox.put(None)
        assert failure(next, call).code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


def ask_for_much(connection: http2.Connection, method: str) -> int:
    """Ask for an answer of 4 MB, so that the rest waits until this caller has room for it; return what came at once."""
    request = infer_request("wide", {"x": np.ones((1, 1), np.float32)}).SerializeToString()
    connection.send(http2.call_headers(1, method) + http2.message(1, request))
    while (frame := connection.read()) is not None and frame.kind != http2.DATA:
        assert frame.kind != http2.RST_STREAM
    return len(frame.body) if frame else 0


def room(count: int) -> bytes:
    """Return the frames that make room for so many bytes more."""
    more = count.to_bytes(4, "big")
    return b"".join(http2.frame(http2.WINDOW_UPDATE, 0, stream, more) for stream in (0, 1))


def test_an_answer_on_its_way_is_sent_to_its_end(tmp_path: Path, transport: str):
    read_slowly_from_a_server_that_stops(tmp_path, transport, MODEL_INFER)


def test_so_is_one_of_a_stream(tmp_path: Path):
    """The native door's library takes 4 MB of a stream and does not tell when they have gone out."""
    read_slowly_from_a_server_that_stops(tmp_path, "grpcio", MODEL_STREAM_INFER)


def read_slowly_from_a_server_that_stops(tmp_path: Path, transport: str, method: str) -> None:
    """Read an answer to its end, in small parts, which takes seconds."""
    width, part = 1_000_000, 200
    graphs.write(tmp_path, "wide", graphs.widened(width))
    flags = ("--lame-duck-seconds", "0", "--drain-seconds", "600")
    with ServerProcess(tmp_path, transport, *flags) as server, http2.Connection(server.grpc_port) as connection:
        came = ask_for_much(connection, method)
        server.signal(signal.SIGTERM)
        server.wait_log("draining")
        connection.send(room(part))
        ended = False
        while not ended and (frame := connection.read()) is not None:
            ended = frame.kind == http2.HEADERS
            if frame.kind == http2.DATA:
                came += len(frame.body)
                with contextlib.suppress(ConnectionError):
                    connection.send(room(part))
        assert ended, "the server hung up"
        assert came > 4 * width
        assert server.wait_exit() == 0


@pytest.mark.parametrize("method", [MODEL_INFER, MODEL_STREAM_INFER])
@pytest.mark.parametrize("seconds", ["0.2", "600"])
def test_who_does_not_read_holds_nobody_up_for_longer_than_the_drain(
    tmp_path: Path, transport: str, seconds: str, method: str
):
    graphs.write(tmp_path, "wide", graphs.widened(1_000_000))
    flags = ("--lame-duck-seconds", "0", "--drain-seconds", seconds)
    with ServerProcess(tmp_path, transport, *flags) as server, http2.Connection(server.grpc_port) as connection:
        ask_for_much(connection, method)
        server.signal(signal.SIGTERM)
        server.wait_log("draining")
        if seconds == "600":
            server.signal(signal.SIGTERM)
        assert server.wait_exit() == 0


def test_under_load_no_call_is_lost(small_repository: Path, transport: str):
    """Every call ends OK, or UNAVAILABLE after the drain began; none is left hanging or ends otherwise."""
    with ServerProcess(small_repository, transport, "--lame-duck-seconds", "0.5") as server:
        codes: Counter[str] = Counter()
        refused_before_drain = []
        draining = threading.Event()
        done = threading.Event()

        def call_on() -> None:
            client = Client(server.grpc_port)
            while not done.is_set():
                late = draining.is_set()
                try:
                    client.infer(ADD_SUB)
                    codes["OK"] += 1
                except grpc.RpcError as error:
                    code = failure_of(error).code.name
                    codes[code] += 1
                    if not late and not draining.is_set():
                        refused_before_drain.append(code)
                    if late:
                        break
            client.close()

        threads = [threading.Thread(target=call_on) for _ in range(8)]
        for thread in threads:
            thread.start()
        eventually(lambda: codes["OK"] > 200, "load")
        draining.set()
        server.signal(signal.SIGTERM)
        assert server.wait_exit() == 0
        done.set()
        for thread in threads:
            thread.join(DEADLINE_SECONDS)
            assert not thread.is_alive()
        assert set(codes) <= {"OK", "UNAVAILABLE"}, codes
        assert not refused_before_drain
        assert server.logged("stopped")[0]["in_flight"] == 0


def test_callers_with_somewhere_else_to_go_lose_no_call(small_repository: Path):
    """They are told to go before anybody is refused; the native door's library cannot tell them."""
    with (
        ServerProcess(small_repository, "grpcio", "--lame-duck-seconds", "0.5") as leaving,
        ServerProcess(small_repository, "grpcio") as staying,
    ):
        endings: Counter[str] = Counter()
        done = threading.Event()

        def call_on() -> None:
            client = Client(leaving.grpc_port, staying.grpc_port)
            while not done.is_set():
                try:
                    client.infer(ADD_SUB)
                    endings["OK"] += 1
                except grpc.RpcError as error:
                    failed = failure_of(error)
                    endings[f"{failed.code.name}: {failed.message}"] += 1
            client.close()

        threads = [threading.Thread(target=call_on) for _ in range(8)]
        for thread in threads:
            thread.start()
        eventually(lambda: endings["OK"] > 200, "load")
        leaving.signal(signal.SIGTERM)
        assert leaving.wait_exit() == 0
        so_far = endings["OK"]
        eventually(lambda: endings["OK"] > so_far + 100, "the other one answers")
        done.set()
        for thread in threads:
            thread.join(DEADLINE_SECONDS)
        assert set(endings) == {"OK"}, endings


def test_hundreds_of_callers_lose_no_call_in_the_doorway(small_repository: Path):
    """All that has come is answered before they are told to go, however many calls the loop has not picked up yet."""
    callers = 200
    with ServerProcess(small_repository, "grpcio", "--lame-duck-seconds", "0.5") as server:
        endings: Counter[str] = Counter()

        async def call_on(infer: Callable[..., Awaitable[object]]) -> None:
            while not endings["UNAVAILABLE"]:  # the server is gone
                try:
                    await infer(ADD_SUB, timeout=DEADLINE_SECONDS)
                    endings["OK"] += 1
                except grpc.aio.AioRpcError as error:
                    endings[error.code().name] += 1

        async def all_call() -> None:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
                infer = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer
                calls = [asyncio.create_task(call_on(infer)) for _ in range(callers)]
                while endings["OK"] < 3 * callers:
                    await asyncio.sleep(0.01)
                server.signal(signal.SIGTERM)
                await asyncio.gather(*calls)

        asyncio.run(all_call())
        assert server.wait_exit() == 0
        assert set(endings) == {"OK", "UNAVAILABLE"}, endings


def test_a_signal_while_loading_stops_the_server(repository: Path, transport: str):
    with ServerProcess(repository, transport, "--lame-duck-seconds", "0", wait_ready=False) as server:
        server.signal(signal.SIGTERM)
        assert server.wait_exit() == 0


@pytest.mark.parametrize("mode", ["poll", "explicit"])
def test_a_signal_while_a_new_version_is_loaded_stops_the_server(tmp_path: Path, transport: str, mode: str):
    """Whoever loads it waits for a runtime that comes back late or never; nobody else does."""
    graphs.write(tmp_path, "add-sub", graphs.add_sub())
    flags = ["--lame-duck-seconds", "0", "--lone-threads", "1", "--model-control-mode", mode]
    flags += ["--repository-poll-seconds", "0.1"] if mode == "poll" else ["--load-models", "add-sub"]
    with ServerProcess(tmp_path, transport, *flags) as server:
        graphs.write(tmp_path, "endless", graphs.endless())
        if mode == "explicit":
            call = server.client.inference.RepositoryModelLoad.future(
                pb.RepositoryModelLoadRequest(model_name="endless")
            )
        eventually(lambda: server.metric("convserve_model_state", model="endless", state="LOADING"), "it is loaded")
        assert server.client.infer(ADD_SUB).model_name == "add-sub"
        server.signal(signal.SIGTERM)
        assert server.wait_exit() == 0
        if mode == "explicit":
            assert failure(call.result).code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
