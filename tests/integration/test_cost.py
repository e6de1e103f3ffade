"""What a call costs beside the model, guarded against regressions of 15 %.

Two measures, since each misses something. The count of function calls is exact, but blind to what one costs; processor
time sees everything, but only as a ratio to ONNX Runtime's own is it one and the same from day to day.

    python -m tests.integration.test_cost        measures both ten times, for the figures below

A change that makes calls cheaper lowers the figures with it: otherwise the next one may waste what it gained.
"""

from __future__ import annotations

import queue
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from bench.load.hpack import request_block
from bench.load.http2 import Connection, framed
from service.backend.onnx import OnnxBackend
from service.batching.cost import CostModel
from service.server import Server
from service.settings import Settings
from tests.integration.harness import DEADLINE_SECONDS, MODELS, Gate, ServerProcess, eventually, infer_request
from tests.integration.threads import of_each_thread
from tests.unit.service.samples import encoded

MODEL, IN_FLIGHT = "lenet5-mnist", 64
MODEL_INFER = "/inference.GRPCInferenceService/ModelInfer"
ALLOWED = 1.15
# Sixteen starts on two shared cores: 2.03 to 2.49 and once 2.81, half of them below 2.22, one start of the server being
# dearer than another; beside twenty busy processes 2.07 to 2.23.
CPU_RATIO = 2.22
# At commit bb5a6fa, Python 3.11; 101.4 to 101.5 on 2026-12-01, beside thirty busy processes.
FUNCTION_CALLS = 90.6
# The same for a picture as JPEG, with Pillow's own (13.0) to decode it; 260.5 on 2026-12-01.
PICTURE_FUNCTION_CALLS = 246.7

ROWS = np.load(MODELS / MODEL / "1" / "golden.npz")["input_0"]
REQUEST = infer_request(MODEL, {"images": ROWS[:1]}).SerializeToString()
PICTURE = infer_request(
    MODEL, {"images": np.array([encoded(Image.fromarray(ROWS[0, ..., 0]), "JPEG", quality=95)], object)}
).SerializeToString()


def _has_avx512() -> bool:
    information = Path("/proc/cpuinfo")
    return information.exists() and "avx512f" in information.read_text()


@pytest.mark.skipif(
    not _has_avx512(), reason="the ratio is of Linux and AVX-512: elsewhere the model costs another amount"
)
def test_processor_time_of_a_call_over_that_of_the_model() -> None:
    found = cpu_ratio()
    for _ in range(2):
        if found >= CPU_RATIO * ALLOWED:  # a regression shows in other starts as well
            found = min(found, cpu_ratio())
    assert found < CPU_RATIO * ALLOWED, f"a call costs {found:.2f} times the model, {CPU_RATIO} when this was written"


@pytest.mark.parametrize(
    ("request_bytes", "before"),
    [(REQUEST, FUNCTION_CALLS), (PICTURE, PICTURE_FUNCTION_CALLS)],
    ids=["tensor", "picture"],
)
def test_function_calls_of_a_call(request_bytes: bytes, before: float, monkeypatch: pytest.MonkeyPatch) -> None:
    found = function_calls(monkeypatch, request_bytes)
    assert found < before * ALLOWED, f"a call makes {found:.1f} function calls, {before} before"


def cpu_ratio(rounds: int = 7, bursts: int = 40) -> float:
    """Return the processor time of the native door's server for a call over that of ONNX Runtime for a row of 64.

    Bursts of 64 calls on one connection, in turn with bare runs; the least of the rounds, which others on the machine
    disturb least.
    """
    bare = _bare_run()
    with (
        ServerProcess(MODELS, "native", "--model-control-mode", "explicit", "--load-models", MODEL) as server,
        socket.create_connection(("127.0.0.1", server.grpc_port), DEADLINE_SECONDS) as link,
    ):
        send = _burst(server.grpc_port, link)
        for _ in range(bursts):
            send()
        bare()
        ratios = []
        for _ in range(rounds):
            alone = min(bare() for _ in range(3))
            before = _cpu_seconds(server.process.pid)
            for _ in range(bursts):
                send()
            ratios.append((_cpu_seconds(server.process.pid) - before) / (bursts * IN_FLIGHT) / alone)
    return min(ratios)


def _bare_run(runs: int = 40) -> Callable[[], float]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    file = MODELS / MODEL / "1" / "model.onnx"
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    batch = np.resize(ROWS, (IN_FLIGHT, *ROWS.shape[1:]))

    def seconds_a_row() -> float:
        before = time.thread_time()
        for _ in range(runs):
            session.run(None, {"images": batch})
        return (time.thread_time() - before) / (runs * IN_FLIGHT)

    return seconds_a_row


def _burst(port: int, link: socket.socket) -> Callable[[], None]:
    """Return what sends 64 calls in one write and waits for their answers."""
    connection, message = Connection(request_block(f"127.0.0.1:{port}", MODEL_INFER)), framed(REQUEST)

    def send() -> None:
        for tag in range(IN_FLIGHT):
            connection.call(tag, message, 0.0)
        while connection.pending:
            link.sendall(connection.take())
            assert not [answer for answer in connection.receive(link.recv(1 << 18), 0.0) if answer.code]

    return send


def _cpu_seconds(pid: int) -> float:
    def nanoseconds(thread: int) -> int:
        return int(Path(f"/proc/{pid}/task/{thread}/schedstat").read_text().split()[0])

    return sum(of_each_thread(pid, nanoseconds).values()) / 1e9


class FakeFront:
    """Takes the place of the native listener: calls come when the test puts them, answers are counted."""

    def __init__(self, _target: str, methods: list[tuple[str, bool]], **_options: Any) -> None:
        self.bound_port = 0
        self.answered = 0
        self.trips = 0  # of the intake thread
        self._method = [name for name, _ in methods].index(MODEL_INFER)
        self._waiting: queue.SimpleQueue[list[Any] | None] = queue.SimpleQueue()
        self._next = 0

    def set_fallback(self, _socket: str) -> None:
        pass

    def start(self) -> None:
        pass

    def metrics(self) -> None:
        return None

    def close(self) -> None:
        self._waiting.put(None)

    def put(self, count: int, request: bytes) -> None:
        """Let so many calls come in one trip."""
        from pygrpc_native import EVENT_CALL

        numbers = range(self._next, self._next + count)
        self._next += count
        details = ((), "", None)
        self._waiting.put([(EVENT_CALL, number, self._method, request, None, details) for number in numbers])

    def recv_batch_details(self, _most: int, _milliseconds: int) -> list[Any] | None:
        self.trips += 1
        return self._waiting.get()

    def respond(self, _call_id: int, _payload: bytes) -> None:
        self.answered += 1

    def fail(self, _call_id: int, _code: int, message: str, _trailers: Any) -> None:
        raise AssertionError(message)


class KnownCost(CostModel):
    """Says that full batches are worth it; what a busy machine says makes more and smaller ones."""

    def __init__(self, _measured: object, buckets: Sequence[int]) -> None:
        super().__init__(buckets, {None: [[self._known(bucket)] for bucket in buckets]})

    def observe(self, rows: int, group: Hashable, _seconds: float) -> None:
        super().observe(rows, group, self._known(rows))

    def _known(self, rows: int) -> float:
        return 0.001 + 0.00001 * rows


class CallCounter:
    """Counts function calls, Python's and C's, of the threads that begin while it is entered."""

    def __init__(self) -> None:
        self.by_thread: Counter[str] = Counter()
        self.counting = False

    def _saw(self, _frame: Any, event: str, _argument: Any) -> None:
        if self.counting and event in ("call", "c_call"):
            self.by_thread[threading.current_thread().name] += 1

    @contextmanager
    def watching(self) -> Iterator[None]:
        threading.setprofile(self._saw)
        try:
            yield
        finally:
            threading.setprofile(None)  # type: ignore[arg-type]


def function_calls(monkeypatch: pytest.MonkeyPatch, request: bytes, cycles: int = 16) -> float:
    """Return the function calls for a call in the threads that serve it, in this process without a socket for it.

    One call keeps the only instance busy at a gate while 64 come in one trip; they make the next two batches. So
    nothing depends on how threads take turns, nor on what the machine's other work makes a batch cost.
    """
    gate, counter = Gate(), CallCounter()
    run = OnnxBackend.run

    def gated(self: OnnxBackend, *batch: Any) -> list[np.ndarray]:
        gate.wait()
        return run(self, *batch)

    monkeypatch.setattr(OnnxBackend, "run", gated)
    monkeypatch.setattr("service.transport.fast_lane.NativeGrpcFront", FakeFront)
    monkeypatch.setattr("service.repository.pricing._cost_model", KnownCost)
    monkeypatch.setattr("service.preparation._BURST_SECONDS", DEADLINE_SECONDS)  # the intake decodes all pictures
    settings = {"model_control_mode": "explicit", "load_models": MODEL, "instances": 1, "lame_duck_seconds": 0.0}
    server = Server(
        Settings(models=str(MODELS), transport="native", grpc_port=0, http_port=0, device="cpu", **settings)
    )
    hurry = threading.Event()
    hurry.set()
    with counter.watching():
        server.start()
        assert server.loaded.wait(DEADLINE_SECONDS)  # its thread begins the instances'
    try:
        _cycle(server, gate, request)  # the first calls of a kind make what later ones use
        counter.counting = True
        for _ in range(cycles):
            _cycle(server, gate, request)
        counter.counting = False
    finally:
        gate.open()
        server.drain(hurry)
    serving = [count for name, count in counter.by_thread.items() if name.startswith(("intake", MODEL))]
    return sum(serving) / (cycles * (IN_FLIGHT + 1))


def _cycle(server: Server, gate: Gate, request: bytes) -> None:
    front: Any = server._fast_lane._front  # type: ignore[union-attr]
    batcher = server.lifecycle.find(MODEL).batcher
    trips, answered = front.trips, front.answered
    gate.shut()
    front.put(1, request)
    eventually(lambda: gate.waiting == 1, "one call is at the gate")
    front.put(IN_FLIGHT, request)
    eventually(lambda: front.trips == trips + 2, "the others are queued")
    gate.open()
    eventually(lambda: front.answered == answered + 1 + IN_FLIGHT and not batcher.running, "all are answered")


if __name__ == "__main__":
    for _ in range(10):
        with pytest.MonkeyPatch.context() as patch:
            calls = [function_calls(patch, request) for request in (REQUEST, PICTURE)]
        print(f"{cpu_ratio():.3f} times the model's processor time, {calls[0]:.3f} and {calls[1]:.3f} function calls")
