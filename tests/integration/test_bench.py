"""``convserve-bench load`` and ``slo`` against a server of known behaviour, and against convserve.

Latencies of the stub have lower bounds that hold however busy the machine is; upper bounds are left wide.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from bench.cli import main
from bench.load.histogram import Histogram
from service.pb.inference import grpc_service_pb2 as pb
from tests.histograms import decoded
from tests.integration.harness import DEADLINE_SECONDS, ROOT, ServerProcess, eventually

Behave = Callable[[int, Any], Awaitable[None]]
# Whether the machine lets the generator be punctual is none of these tests' business.
CALM = ("--max-lag-seconds", "60", "--warm-up-seconds", "0")


async def at_once(number: int, context: Any) -> None:
    """Answer."""


async def alone(number: int, context: Any) -> None:
    """Answer the call that is made before the load, and no other."""
    if number:
        await asyncio.sleep(20)


@dataclass
class Stub:
    """A server in a thread whose model ``stub`` gives one number; ``behave`` is awaited before each answer.

    Attributes:
        behave: Told the number of the call, from 0 on, and its context.
        answer: The number given, by call.
        calls: How many came.
        left: Seconds that each call had left.
    """

    behave: Behave = at_once
    answer: Callable[[int], float] = lambda number: 1.5
    calls: int = 0
    left: list[float | None] = field(default_factory=list)
    port: int = 0

    def begin(self, behave: Behave = at_once, answer: Callable[[int], float] = lambda number: 1.5) -> str:
        """Forget what was; the call that ``convserve-bench`` makes alone is number 0. Return the address."""
        self.behave, self.answer, self.calls, self.left = behave, answer, 0, []
        return f"127.0.0.1:{self.port}"

    async def infer(self, request: pb.ModelInferRequest, context: Any) -> pb.ModelInferResponse:
        number, self.calls = self.calls, self.calls + 1
        self.left.append(context.time_remaining())
        await self.behave(number, context)
        response = pb.ModelInferResponse(model_name="stub", model_version="1")
        response.outputs.add(name="y", datatype="FP32", shape=[1, 1])
        response.raw_output_contents.append(np.float32(self.answer(number)).tobytes())
        return response

    async def about(self, request: pb.ServerMetadataRequest, context: Any) -> pb.ServerMetadataResponse:
        return pb.ServerMetadataResponse(name="stub", version="7")

    async def metadata(self, request: pb.ModelMetadataRequest, context: Any) -> pb.ModelMetadataResponse:
        response = pb.ModelMetadataResponse(name="stub", versions=["1"], platform="none")
        response.inputs.add(name="x", datatype="FP32", shape=[-1, 4])
        response.outputs.add(name="y", datatype="FP32", shape=[-1, 1])
        return response

    def serve(self, started: threading.Event, stop: threading.Event) -> None:
        async def run() -> None:
            server = grpc.aio.server()
            methods = {
                "ServerMetadata": (self.about, pb.ServerMetadataRequest),
                "ModelMetadata": (self.metadata, pb.ModelMetadataRequest),
                "ModelInfer": (self.infer, pb.ModelInferRequest),
            }
            handlers = {
                name: grpc.unary_unary_rpc_method_handler(call, kind.FromString, lambda made: made.SerializeToString())
                for name, (call, kind) in methods.items()
            }
            server.add_generic_rpc_handlers(
                (grpc.method_handlers_generic_handler("inference.GRPCInferenceService", handlers),)
            )
            self.port = server.add_insecure_port("127.0.0.1:0")
            await server.start()
            started.set()
            while not stop.is_set():
                await asyncio.sleep(0.02)
            await server.stop(
                DEADLINE_SECONDS
            )  # gRPC prints a traceback for a call that it cuts before its handler began

        asyncio.run(run())


@contextlib.contextmanager
def served() -> Iterator[tuple[Stub, threading.Event]]:
    """Yield a stub that serves, and what stops it."""
    made, started, stop = Stub(), threading.Event(), threading.Event()
    thread = threading.Thread(target=made.serve, args=(started, stop))
    thread.start()
    assert started.wait(DEADLINE_SECONDS)
    try:
        yield made, stop
    finally:
        stop.set()
        thread.join(DEADLINE_SECONDS)


@pytest.fixture(scope="module")
def stub() -> Iterator[Stub]:
    with served() as (made, _):
        yield made


def bench(path: Path, *arguments: str) -> tuple[int, dict[str, Any]]:
    """Run a command; return its exit code and what it wrote."""
    code = main([*arguments, *CALM, "--json", str(path / "result.json")])
    return code, json.loads((path / "result.json").read_text())


def open_loop(address: str, rate: int, seconds: float) -> list[str]:
    return ["load", address, "--model", "stub", "--arrivals", "constant", f"--rate={rate}", f"--seconds={seconds}"]


def latencies(summary: dict[str, Any]) -> Histogram:
    return decoded(summary["histograms_microseconds"]["latency"])


def at_least(histogram: Histogram, seconds: float) -> int:
    """Return how many latencies are at least so long, up to the histogram's three digits."""
    return histogram.total - int(
        sum(histogram.counts[: int(np.flatnonzero(Histogram.of(np.array([seconds])).counts)[0])])
    )


def test_a_known_service_time_is_what_is_measured(stub: Stub, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    async def behave(number: int, context: Any) -> None:
        await asyncio.sleep(0.03)

    plot = tmp_path / "plot.png"
    code, result = bench(tmp_path, *open_loop(stub.begin(behave), 200, 1), "--processes=2", f"--plot={plot}")
    assert code == 0
    summary = result["summary"]
    assert (summary["offered"], summary["on_time"], stub.calls) == (200, 200, 201)
    assert at_least(latencies(summary), 0.029) == 200
    assert latencies(summary).percentile(0) < 0.09
    assert summary["goodput_per_second"] == 200.0
    assert result["server"] == {"name": "stub", "version": "7"}
    assert set(stub.left) - {stub.left[0]} == {None}  # no deadline was asked for
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert "offered         200.0 /s   200 requests in 1 s" in capsys.readouterr().out


def test_a_stall_shows_in_every_request_that_should_have_been_sent_meanwhile(stub: Stub, tmp_path: Path):
    """A closed loop would see it once for each call in flight: that is coordinated omission."""
    turn = asyncio.Lock()

    async def behave(number: int, context: Any) -> None:
        async with turn:  # one after the other
            if number == 60:
                await asyncio.sleep(0.5)

    code, result = bench(tmp_path, *open_loop(stub.begin(behave), 200, 1))
    assert code == 0
    # Number 60 is answered 0.5 s after its instant at the earliest, and so is whoever is behind it.
    assert at_least(latencies(result["summary"]), 0.1) >= 0.4 * 200 - 1
    assert at_least(latencies(result["summary"]), 0.4) >= 0.1 * 200 - 1
    code, result = bench(tmp_path, "load", stub.begin(behave), "--model=stub", "--concurrency=2", "--seconds=3")
    assert code == 0
    assert result["summary"]["offered"] > 60
    # Both calls in flight see it. A machine of any slowness fits no more such waits into three seconds.
    assert 1 <= at_least(latencies(result["summary"]), 0.45) <= 2 * (3 / 0.45 + 1)


def test_refusals_and_late_answers_are_told_apart(stub: Stub, tmp_path: Path):
    async def behave(number: int, context: Any) -> None:
        if number % 4 == 0 and number:
            await context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED, "the queue is full: 3 requests wait, the limit is 3"
            )
        if number % 4 == 1:
            await asyncio.sleep(0.6)

    code, result = bench(tmp_path, *open_loop(stub.begin(behave), 100, 1), "--objective-seconds=0.5")
    summary = result["summary"]
    assert code == 0
    assert (summary["offered"], summary["refused"], summary["failed"]) == (100, 25, 0)
    assert summary["codes"] == {"OK": 75, "RESOURCE_EXHAUSTED": 25}
    assert summary["late"] >= 25
    assert summary["on_time"] == 75 - summary["late"]
    assert summary["refusal_latency_seconds"]["p50"] < 0.5


def test_the_deadline_counts_from_the_intended_instant(stub: Stub, tmp_path: Path):
    code, result = bench(tmp_path, *open_loop(stub.begin(alone), 50, 0.4), "--deadline-seconds=0.3")
    assert code == 0
    assert result["summary"]["codes"] == {"DEADLINE_EXCEEDED": 20}
    assert result["summary"]["expired"] == 20
    assert all(left is not None and left <= 0.3 for left in stub.left[1:])


def test_unanswered_requests_are_failures(stub: Stub, tmp_path: Path):
    code, result = bench(tmp_path, *open_loop(stub.begin(alone), 50, 0.2), "--drain-seconds=0.2")
    assert code == 1
    assert result["summary"]["codes"] == {"no answer": 10}


def test_an_empty_window_is_a_failure(stub: Stub, capsys: pytest.CaptureFixture[str]):
    code = main([*open_loop(stub.begin(), 1, 0.2), "--warm-up-seconds=0.1"])
    assert code == 1
    assert "nothing was sent in the window, because it contains no arrival" in capsys.readouterr().out


def test_a_wrong_answer_is_found(stub: Stub, tmp_path: Path):
    """Sixteen references are asked for first; then every fifth answer is wrong, another one rounded differently."""
    address = stub.begin(answer=lambda number: 1.5 if number < 16 or number % 5 else 1.6)
    code, result = bench(tmp_path, *open_loop(address, 100, 0.5), "--check")
    assert code == 1
    assert result["summary"]["wrong"] == len([number for number in range(16, 66) if number % 5 == 0])
    address = stub.begin(answer=lambda number: 1.5 if number < 16 else 1.5 + 1e-6)
    code, result = bench(tmp_path, *open_loop(address, 100, 0.2), "--check")
    assert (code, result["summary"]["wrong"]) == (0, 0)


def test_the_generator_admits_that_it_was_the_limit(stub: Stub, capsys: pytest.CaptureFixture[str]):
    code = main([*open_loop(stub.begin(), 100, 0.2), "--warm-up-seconds=0.1", "--max-lag-seconds=1e-9"])
    assert code == 3
    assert "the generator was the limit, not the server: p99 of its lag is" in capsys.readouterr().out


def test_the_greatest_rate_is_found_and_the_curve_drawn(stub: Stub, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """One request in 20 ms makes 50 a second; at twice that most wait longer than the objective within the trial."""
    turn = asyncio.Lock()

    async def behave(number: int, context: Any) -> None:
        async with turn:
            await asyncio.sleep(0.02)

    plot = tmp_path / "curve.png"
    search = ["--percentile=50", "--confidence=0.5", "--precision=0.5", "--start-rate=24", "--trial-seconds=0.6"]
    curve = ["--curve", "--factors=0.5,3", "--seconds=0.5", "--repeats=2", f"--plot={plot}", "--costs=1:0.02"]
    arguments = ["slo", stub.begin(behave), "--model=stub", "--objective-seconds=0.1", "--arrivals=constant"]
    code, result = bench(tmp_path, *arguments, *search, *curve)
    assert code == 0
    assert 0 < result["capacity"] < 100
    assert result["search"]["passed"] == result["capacity"]
    low, high = result["curve"]
    assert low["factor"] == 0.5
    assert len(low["runs"]) == 2
    assert low["goodput_half_width_95"] is not None
    assert high["offered_per_second"] > 2 * result["capacity"]
    assert sum(run["on_time"] for run in low["runs"]) <= low["optimum"] == sum(run["offered"] for run in low["runs"])
    assert result["settings"]["costs"] == "1:0.02"
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert "p50 is within the objective at" in capsys.readouterr().out


def test_a_search_that_can_find_nothing_ends(stub: Stub, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    async def behave(number: int, context: Any) -> None:
        await asyncio.sleep(0.1)

    search = ["--percentile=50", "--confidence=0.5", "--start-rate=99", "--trial-seconds=0.2", "--arrivals=constant"]
    code, result = bench(tmp_path, "slo", stub.begin(behave), "--model=stub", "--objective-seconds=0.01", *search)
    assert code == 1
    assert result["search"]["passed"] is None
    assert "although they hardly overlapped" in result["search"]["why"]
    assert f"no rate passed; the lowest that was tried was 99.00 /s: {result['search']['why']}" in (
        capsys.readouterr().out
    )


@pytest.mark.parametrize("search", [True, False], ids=["search", "curve"])
def test_a_server_that_goes_away_ends_slo(search: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """A search would otherwise go on to ever lower rates, which takes ever longer."""
    arguments = ["--trial-seconds=0.3", "--start-rate=100"] if search else ["--curve", "--capacity=100"]
    file = tmp_path / "result.json"
    with served() as (stub, stop):

        async def behave(number: int, context: Any) -> None:
            if number == (10 if search else 40):  # on the way to the second point
                stop.set()

        what = ["slo", stub.begin(behave), "--model=stub", "--objective-seconds=1", "--arrivals=constant"]
        more = ["--factors=0.5,1,2", "--seconds=0.6", "--percentile=50", "--confidence=0.5", f"--json={file}"]
        assert main([*what, *arguments, *more, *CALM]) == 2
    said = capsys.readouterr().err
    assert "no gRPC server answers at this address" in said
    assert said.count("\n") == 1
    if not search:
        kept = [point["factor"] for point in json.loads(file.read_text())["curve"]]
        assert kept[0] == 0.5
        assert 2.0 not in kept


@pytest.mark.parametrize("model", ["lenet5-mnist", "textcnn-mr", "add-sub"])
def test_convserve_answers_rightly_under_load(server: ServerProcess, model: str, tmp_path: Path):
    inputs = {"lenet5-mnist": ROOT / "examples" / "pictures", "textcnn-mr": ROOT / "examples" / "sentences.txt"}
    given = [f"--input={inputs[model]}"] if model in inputs else ["--rows=3", "--distinct=4"]
    address = f"127.0.0.1:{server.grpc_port}"
    arguments = ["load", address, f"--model={model}", "--check", "--deadline-seconds=30", *given]
    code, result = bench(tmp_path, *arguments, "--arrivals=gamma", "--rate=100", "--seconds=0.5", "--processes=2")
    summary = result["summary"]
    assert (code, summary["wrong"], summary["failed"]) == (0, 0, 0)
    assert summary["on_time"] == summary["offered"] > 0
    code, result = bench(tmp_path, *arguments, "--concurrency=8", "--seconds=0.5")
    assert (code, result["summary"]["wrong"]) == (0, 0)
    assert result["summary"]["on_time"] == result["summary"]["offered"] >= 8


def test_mistakes_are_one_line(server: ServerProcess, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    here = f"127.0.0.1:{server.grpc_port}"
    cases = [
        (["127.0.0.1:1", "--model=add-sub"], "no gRPC server answers at this address"),
        ([f"127.0.0.1:{server.http_port}", "--model=add-sub"], "the server at this address does not speak gRPC"),
        ([here, "--model=absent"], "NOT_FOUND"),
        ([here, "--model=add-sub", "--rows=1000000"], "takes at most 32"),
        ([here, "--model=add-sub", f"--input={ROOT}/examples/pictures"], "models with one input"),
        ([here, "--model=lenet5-mnist", f"--input={tmp_path}"], "expected a folder with pictures"),
    ]
    for arguments, message in cases:
        assert main(["load", *arguments, "--rate=1"]) == 2, arguments
        said = capsys.readouterr().err
        assert message in said
        assert said.startswith("convserve-bench: ")
        assert said.count("\n") == 1


def test_who_is_told_to_end_takes_the_client_processes_along(stub: Stub):
    command = [sys.executable, "-m", "bench", "load", stub.begin(), "--model", "stub", "--seconds", "60", "--rate", "9"]
    with subprocess.Popen([*command, *CALM], cwd=ROOT, stdout=subprocess.DEVNULL) as load:
        eventually(lambda: stub.calls > 10, "it sends")
        children = Path(f"/proc/{load.pid}/task/{load.pid}/children").read_text().split()
        load.terminate()
        assert load.wait(DEADLINE_SECONDS) == 128 + signal.SIGTERM
    eventually(lambda: not any(Path("/proc", child).exists() for child in children), "nobody sends any more")
