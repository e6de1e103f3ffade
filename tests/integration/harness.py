"""Real servers, and what the tests ask of them. Every wait is for a condition and has a deadline."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

from service.manifest import file_digest
from service.pb.convserve.classification.v1 import classification_pb2_grpc
from service.pb.inference import grpc_service_pb2 as pb
from service.pb.inference import grpc_service_pb2_grpc
from service.tensors import DTYPES

ROOT = Path(__file__).resolve().parents[2]
MODELS = ROOT / "models"
TRANSPORTS = ("grpcio", "native")
DEADLINE_SECONDS = 60.0  # a guard that turns a hang into a failure, on a loaded machine too


def eventually(condition: Callable[[], Any], what: str, seconds: float = DEADLINE_SECONDS) -> Any:
    """Ask until the answer is true, and return it."""
    give_up = time.monotonic() + seconds
    while not (answer := condition()):
        assert time.monotonic() < give_up, f"never came about: {what}"
        time.sleep(0.02)
    return answer


def reseal(version: Path) -> None:
    """Have a manifest mean the files as they are now, as one who publishes wrong ones would."""
    path = version / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["digests"] = {name: file_digest(version / name) for name in manifest["digests"]}
    path.write_text(json.dumps(manifest))


class Client:
    """One channel with a stub of every service, to the first of some ports at which a server answers."""

    def __init__(self, *ports: int) -> None:
        options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
        # A subchannel of another test must not be shared: some tests break their connection.
        options.append(("grpc.use_local_subchannel_pool", 1))
        target = "ipv4:" + ",".join(f"127.0.0.1:{port}" for port in ports)
        self.channel = grpc.insecure_channel(target, options)
        self.inference: Any = grpc_service_pb2_grpc.GRPCInferenceServiceStub(self.channel)
        self.classification: Any = classification_pb2_grpc.ClassificationServiceStub(self.channel)
        self.health: Any = health_pb2_grpc.HealthStub(self.channel)

    def infer(self, request: pb.ModelInferRequest, timeout: float | None = DEADLINE_SECONDS, **options: Any) -> Any:
        return self.inference.ModelInfer(request, timeout=timeout, **options)

    def wait_ready(self, name: str = "") -> None:
        watch = self.health.Watch(health_pb2.HealthCheckRequest(service=name), timeout=DEADLINE_SECONDS)
        for answer in watch:
            if answer.status == health_pb2.HealthCheckResponse.SERVING:
                watch.cancel()
                return

    def close(self) -> None:
        self.channel.close()


def environment() -> dict[str, str]:
    """Return this process's environment without what would set up a server."""
    return {key: value for key, value in os.environ.items() if not key.startswith("CONVSERVE_")}


class ServerProcess:
    """``python -m service serve`` on free ports. Use as a context manager."""

    def __init__(self, models: Path, transport: str, *flags: str, wait_ready: bool = True) -> None:
        command = [sys.executable, "-m", "service", "serve", "--models", str(models), "--transport", transport]
        command += ["--grpc-port", "0", "--http-port", "0", *flags]
        self.transport = transport
        self.process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, env=environment())
        self.lines: list[str] = []
        self.log_is_read = threading.Event()  # while it is set
        self.log_is_read.set()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            listening = self.wait_log("listening")
            self.grpc_port, self.http_port = int(listening["grpc_port"]), int(listening["http_port"])
            self.client = Client(self.grpc_port)
            if wait_ready:
                self.client.wait_ready()
        except BaseException:
            self._end()
            raise

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)
            self.log_is_read.wait()

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self._end()

    def _end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(DEADLINE_SECONDS)
        self.log_is_read.set()
        self._reader.join(DEADLINE_SECONDS)
        assert self.process.stderr is not None
        self.process.stderr.close()

    def logged(self, message: str) -> list[dict[str, Any]]:
        entries = [json.loads(line) for line in list(self.lines) if line.startswith("{")]
        return [entry for entry in entries if entry["message"].startswith(message)]

    def wait_log(self, message: str) -> dict[str, Any]:
        def found() -> list[dict[str, Any]]:
            entries = self.logged(message)
            assert entries or self.process.poll() is None, f"the server ended: {''.join(self.lines)}"
            return entries

        return eventually(found, f"log line {message!r}")[0]

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def wait_exit(self) -> int:
        code = self.process.wait(DEADLINE_SECONDS)
        self._reader.join(DEADLINE_SECONDS)
        return code

    def get(self, path: str) -> tuple[int, str]:
        return http_get(self.http_port, path)

    def metric(self, name: str, **labels: str) -> float:
        return metric(self.http_port, name, **labels)


def http_get(port: int, path: str, host: str = "127.0.0.1") -> tuple[int, str]:
    """Return status and body."""
    try:
        with urllib.request.urlopen(f"http://{host}:{port}{path}", timeout=DEADLINE_SECONDS) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def metric(port: int, name: str, **labels: str) -> float:
    """Return the sum of the series of that name that have these labels."""
    lines = http_get(port, "/metrics")[1].splitlines(keepends=True)
    named = "".join(line for line in lines if line.startswith(name))  # to read all takes longer than to serve them
    samples = (sample for family in text_string_to_metric_families(named) for sample in family.samples)
    wanted = labels.items()
    return sum(sample.value for sample in samples if sample.name == name and wanted <= sample.labels.items())


@dataclass(frozen=True)
class Failure:
    """How a call failed, its google.rpc details read."""

    code: grpc.StatusCode
    message: str
    info: error_details_pb2.ErrorInfo | None
    retry_seconds: float | None


_NEVER_TOLD = ("Traceback", "Exception", "site-packages", "onnxruntime", ".py", "/tmp", str(ROOT))


def failure_of(error: Any) -> Failure:
    """Read a failed call. No failure may tell of exceptions or paths, so that is checked here."""
    message = error.details() or ""
    info, retry_seconds = None, None
    for key, value in error.trailing_metadata() or ():
        if key != "grpc-status-details-bin":
            continue
        status = status_pb2.Status.FromString(value)
        assert (status.code, status.message) == (error.code().value[0], message)
        for detail in status.details:
            if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
                info = error_details_pb2.ErrorInfo()
                detail.Unpack(info)
            elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
                retry = error_details_pb2.RetryInfo()
                detail.Unpack(retry)
                retry_seconds = retry.retry_delay.ToNanoseconds() / 1e9
    told = f"{message} {info}"
    assert not [word for word in _NEVER_TOLD if word in told], told
    return Failure(error.code(), message, info, retry_seconds)


def failure(call: Callable[..., Any], *arguments: Any, **options: Any) -> Failure:
    """Make a call that must fail, and return how it did."""
    try:
        answer = call(*arguments, **options)
        if isinstance(answer, grpc.Future):
            answer = answer.result()
    except grpc.RpcError as error:
        return failure_of(error)
    raise AssertionError(f"the call succeeded: {answer}")


def infer_request(
    model: str,
    inputs: Mapping[str, np.ndarray | Sequence[bytes]],
    outputs: Sequence[str] = (),
    *,
    classes: int = 0,
    **fields: Any,
) -> pb.ModelInferRequest:
    """Build a ModelInferRequest with raw contents; a list of bytes becomes BYTES [N]."""
    request = pb.ModelInferRequest(model_name=model, **fields)
    for name, given in inputs.items():
        array = given if isinstance(given, np.ndarray) else np.array([*given, None], dtype=object)[:-1]
        datatype = next(datatype for datatype, dtype in DTYPES.items() if dtype == array.dtype)
        request.inputs.add(name=name, datatype=datatype, shape=array.shape)
        request.raw_input_contents.append(encode_raw(array))
    for name in outputs:
        output = request.outputs.add(name=name)
        if classes:
            output.parameters["classification"].int64_param = classes
    return request


def encode_raw(array: np.ndarray) -> bytes:
    """Return raw contents as the protocol has them, written independently of the server's code."""
    if array.dtype != object:
        return array.astype(array.dtype.newbyteorder("<")).tobytes()
    elements = [element.encode() if isinstance(element, str) else element for element in array.ravel()]
    return b"".join(struct.pack("<I", len(element)) + element for element in elements)


def arrays_of(response: pb.ModelInferResponse) -> dict[str, np.ndarray]:
    """Return the outputs by name; BYTES as arrays of bytes objects."""
    arrays = {}
    for output, raw in zip(response.outputs, response.raw_output_contents, strict=True):
        if output.datatype == "BYTES":
            elements, rest = [], raw
            while rest:
                end = 4 + struct.unpack_from("<I", rest)[0]
                elements.append(rest[4:end])
                rest = rest[end:]
            array = np.array([*elements, None], dtype=object)[:-1]
        else:
            array = np.frombuffer(raw, DTYPES[output.datatype])
        arrays[output.name] = array.reshape(output.shape)
    return arrays


class Gate:
    """Holds the runs of one model back while it is shut; counts those that wait."""

    def __init__(self) -> None:
        self._state = threading.Condition()
        self._shut = False
        self._permits = 0
        self.waiting = 0

    def shut(self) -> None:
        self._shut = True

    def open(self) -> None:
        with self._state:
            self._shut = False
            self._state.notify_all()

    def let_one_pass(self) -> None:
        with self._state:
            self._permits += 1
            self._state.notify_all()

    def wait(self) -> None:
        with self._state:
            self.waiting += 1
            passed = self._state.wait_for(lambda: self._permits or not self._shut, DEADLINE_SECONDS)
            self._permits = max(0, self._permits - 1)
            self.waiting -= 1
        assert passed


class EmbeddedServer:
    """A server in this process whose model ``add-sub`` runs through a gate. Use :func:`embedded`."""

    def __init__(self, server: Any, gate: Gate) -> None:
        self.server = server
        self.gate = gate
        self.client = Client(server.grpc_port)

    def metric(self, name: str, **labels: str) -> float:
        return metric(self.server.http_port, name, **labels)

    @property
    def in_flight(self) -> int:
        return int(self.metric("convserve_inflight_requests"))

    @property
    def queued(self) -> int:
        return int(self.metric("convserve_queue_depth", model="add-sub"))

    def occupy(self) -> grpc.Future:
        """Shut the gate and keep the only instance busy with one request; return its call."""
        self.gate.shut()
        call = self.client.inference.ModelInfer.future(ADD_SUB)
        eventually(lambda: self.gate.waiting == 1, "the instance is busy")
        return call


@contextmanager
def embedded(models: Path, transport: str, monkeypatch: Any, **settings: Any) -> Iterator[EmbeddedServer]:
    """Run a server in this process, with one instance and a gate before ``add-sub``."""
    from service.backend.onnx import OnnxBackend
    from service.server import Server
    from service.settings import Settings

    gate = Gate()
    run = OnnxBackend.run

    def gated(self: OnnxBackend, *batch: Any) -> list[np.ndarray]:
        if self.outputs[0].name == "sum":
            gate.wait()
        return run(self, *batch)

    monkeypatch.setattr(OnnxBackend, "run", gated)
    defaults = {"instances": 1, "lame_duck_seconds": 0.0, "grpc_port": 0, "http_port": 0, "device": "cpu"}
    server = Server(Settings(models=str(models), transport=transport, **{**defaults, **settings}))
    server.start()
    running = EmbeddedServer(server, gate)
    hurry = threading.Event()
    try:
        running.client.wait_ready()
        yield running
    finally:
        gate.open()
        hurry.set()
        running.client.close()
        server.drain(hurry)


ADD_SUB = infer_request(
    "add-sub",
    {"a": np.array([[1, 2, 3, 4]], dtype=np.float32), "b": np.array([[4, 3, 2, 1]], dtype=np.float32)},
)
