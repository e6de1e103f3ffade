"""Every status that a caller can meet, with its google.rpc details; no text of an exception, no path."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2

from service.logs import _BOUNDS
from service.pb.inference import grpc_service_pb2 as pb
from service.transport.calls import MODEL_INFER
from tests.integration.conftest import Embed
from tests.integration.harness import (
    ADD_SUB,
    DEADLINE_SECONDS,
    Client,
    ServerProcess,
    eventually,
    failure,
    infer_request,
)

INVALID = grpc.StatusCode.INVALID_ARGUMENT
NOT_FOUND = grpc.StatusCode.NOT_FOUND
FLOATS = np.zeros((1, 4), dtype=np.float32)
PICTURES = np.zeros((1, 28, 28, 1), dtype=np.uint8)


def broken(**changes) -> pb.ModelInferRequest:
    """A request for ``add-sub`` whose first input is changed."""
    request = pb.ModelInferRequest()
    request.CopyFrom(ADD_SUB)
    raw = changes.pop("raw", None)
    if raw is not None:
        request.raw_input_contents[0] = raw
    shape = changes.pop("shape", None)
    if shape is not None:
        request.inputs[0].shape[:] = shape
    for name, value in changes.items():
        setattr(request.inputs[0], name, value)
    return request


def both_contents() -> pb.ModelInferRequest:
    request = broken()
    request.inputs[0].contents.fp32_contents.extend([1, 2, 3, 4])
    return request


def typed(datatype: str, shape: list[int], **contents: list) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name="scores")
    tensor = request.inputs.add(name="x", datatype=datatype, shape=shape)
    for field, values in contents.items():
        getattr(tensor.contents, field).extend(values)
    return request


def classes(model: str, inputs: dict, output: str, **parameter) -> pb.ModelInferRequest:
    request = infer_request(model, inputs, [output])
    name, value = next(iter(parameter.items()))
    setattr(request.outputs[0].parameters["classification"], name, value)
    return request


def without_raw() -> pb.ModelInferRequest:
    request = broken()
    del request.raw_input_contents[1]
    return request


REFUSED = {
    "unknown model": (infer_request("nothing", {"x": FLOATS}), NOT_FOUND, "no model 'nothing'"),
    "empty name": (infer_request("", {"x": FLOATS}), NOT_FOUND, "no model ''"),
    "unknown version": (infer_request("add-sub", {}, model_version="9"), NOT_FOUND, "no model 'add-sub' version 9"),
    "version of text": (infer_request("add-sub", {}, model_version="one"), INVALID, "must be a number, got 'one'"),
    "negative version": (infer_request("add-sub", {}, model_version="-1"), INVALID, "got '-1'"),
    "no inputs": (infer_request("add-sub", {}), INVALID, "expected inputs a, b, got none"),
    "an input too few": (infer_request("add-sub", {"a": FLOATS}), INVALID, "expected inputs a, b, got a"),
    "a wrong name": (infer_request("add-sub", {"a": FLOATS, "c": FLOATS}), INVALID, "expected inputs a, b, got a, c"),
    "the same twice": (broken(name="b"), INVALID, "'b' is given twice"),
    "wrong dtype": (broken(datatype="INT32"), INVALID, "input 'a': expected datatype FP32, got INT32"),
    "unknown dtype": (broken(datatype="FLOAT"), INVALID, "datatype 'FLOAT' is not one of BOOL, UINT8"),
    "wrong shape": (broken(shape=[4, 1]), INVALID, "input 'a': expected shape [-1, 4], got [4, 1]"),
    "wrong rank": (broken(shape=[4]), INVALID, "expected shape [-1, 4], got [4]"),
    "negative dimension": (broken(shape=[-1, 4]), INVALID, "negative dimension"),
    "impossible shape": (broken(shape=[0, 2**62, 2**62], raw=b""), INVALID, "shape [0, "),
    "too many dimensions": (broken(shape=[1] * 64), INVALID, "64 dimensions, expected at most 32"),
    "no rows": (
        infer_request("add-sub", {"a": FLOATS[:0], "b": FLOATS[:0]}), INVALID, "batch of 0, expected 1 to 32",
    ),
    "too many rows": (
        infer_request("add-sub", {name: np.zeros((33, 4), np.float32) for name in "ab"}), INVALID, "batch of 33",
    ),
    "different batch sizes": (
        infer_request("add-sub", {"a": FLOATS, "b": np.zeros((2, 4), np.float32)}), INVALID, "batch sizes [1, 2]",
    ),
    "a byte too few": (broken(raw=bytes(15)), INVALID, "15 bytes, expected 16 for FP32 [1, 4]"),
    "a byte too many": (broken(raw=bytes(17)), INVALID, "17 bytes, expected"),
    "raw and typed": (both_contents(), INVALID, "has typed contents and has raw"),
    "a raw content too few": (without_raw(), INVALID, "2 inputs by value but 1 raw contents"),
    "typed, too few": (typed("UINT8", [1, 3], uint_contents=[1, 2]), INVALID, "2 elements, expected 3"),
    "typed, too large": (typed("UINT8", [1, 3], uint_contents=[1, 2, 256]), INVALID, "does not fit UINT8"),
    "typed, wrong field": (typed("UINT8", [1, 3], int_contents=[1, 2, 3]), INVALID, "only in uint_contents"),
    "typed half floats": (typed("FP16", [1, 3], fp32_contents=[1, 2, 3]), INVALID, "expected datatype UINT8, got FP16"),
    "unknown output": (infer_request("add-sub", {}, ["product"]), INVALID, "no output 'product', expected sum, diff"),
    "output twice": (infer_request("add-sub", {}, ["sum", "sum"]), INVALID, "output 'sum' is requested twice"),
    "no classes": (classes("scores", {}, "y", int64_param=0), INVALID, "positive int64_param"),
    "classes of text": (classes("scores", {}, "y", string_param="3"), INVALID, "positive int64_param"),
    "classes of strings": (classes("strings", {}, "y", int64_param=1), INVALID, "BYTES, whose values cannot be ranked"),
    "fixed axis": (
        infer_request("fixed", {"x": np.zeros((3, 3), np.float32)}), INVALID, "expected shape [2, 3], got [3, 3]",
    ),
    "strings not UTF-8": (
        infer_request("strings", {"x": np.array([[b"\xff"]], object)}), INVALID, "input 'x': an element is not UTF-8",
    ),
    "strings cut off": (
        pb.ModelInferRequest(
            model_name="strings", inputs=[{"name": "x", "datatype": "BYTES", "shape": [1, 1]}],
            raw_input_contents=[b"\x05\0\0\0abc"],
        ), INVALID, "element 0 claims 5 bytes, 3 are left",
    ),
    "picture of another size": (
        infer_request("lenet5-mnist", {"images": PICTURES[:, 1:]}), INVALID, "expected shape [-1, 28, 28, 1]",
    ),
    "damaged picture": (infer_request("lenet5-mnist", {"images": [b"no picture"]}), INVALID, "item 0: picture"),
    "sentence not UTF-8": (infer_request("textcnn-mr", {"ids": [b"ok", b"\xff"]}), INVALID, "item 1: sentence"),
    "empty sentence": (infer_request("textcnn-mr", {"ids": [b""]}), INVALID, "at least one word"),
    "too many sentences": (infer_request("textcnn-mr", {"ids": [b"a"] * 33}), INVALID, "got shape [33]"),
    "ids out of range": (
        infer_request("textcnn-mr", {"ids": np.full((1, 3), 2**40)}), INVALID, "ids run from 1099511627776",
    ),
    "no ids": (infer_request("textcnn-mr", {"ids": np.zeros((1, 0), np.int64)}), INVALID, "ids have length 0"),
}  # fmt: skip


@pytest.mark.parametrize("situation", REFUSED)
def test_what_came_and_what_was_expected(server: ServerProcess, situation: str):
    request, code, words = REFUSED[situation]
    failed = failure(server.client.infer, request, metadata=[("x-request-id", "mine-17")])
    assert (failed.code, words in failed.message) == (code, True), failed
    assert failed.info is not None
    assert failed.info.domain == "convserve"
    assert failed.info.reason == {INVALID: "INVALID_INPUT", NOT_FOUND: "MODEL_NOT_FOUND"}[code]
    assert failed.info.metadata["request_id"] == "mine-17"
    assert failed.retry_seconds is None  # the same request fails again


def test_a_damaged_message(server: ServerProcess):
    call = server.client.channel.unary_unary(MODEL_INFER)
    failed = failure(call, b"\xff\xff\xff", timeout=DEADLINE_SECONDS)
    assert failed.code is INVALID
    assert "damaged" in failed.message
    metadata = server.client.channel.unary_unary("/inference.GRPCInferenceService/ModelMetadata")
    assert failure(metadata, b"\xff\xff\xff", timeout=DEADLINE_SECONDS).code is INVALID


@pytest.mark.parametrize("kind", ["unary_unary", "unary_stream", "stream_stream"])
def test_a_damaged_message_to_a_service_of_grpc_itself(server: ServerProcess, kind: str):
    method, message = {
        "unary_unary": ("/grpc.health.v1.Health/Check", b"\xff\xff\xff"),
        "unary_stream": ("/grpc.health.v1.Health/Watch", b"\xff\xff\xff"),
        "stream_stream": ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", iter([b"\xff\xff\xff"])),
    }[kind]
    call = getattr(server.client.channel, kind)(method)

    def answered() -> Any:
        answer = call(message, timeout=DEADLINE_SECONDS)
        return answer if kind == "unary_unary" else list(answer)

    failed = failure(answered)
    assert (failed.code, failed.message) == (INVALID, "the request message is damaged")
    assert not [line for line in server.lines if "DecodeError" in line]


def test_a_name_without_end_is_not_repeated(server: ServerProcess):
    request = health_pb2.HealthCheckRequest(service="x" * 1_000_000)
    failed = failure(server.client.health.Check, request, timeout=DEADLINE_SECONDS)
    assert failed.code is NOT_FOUND
    assert len(failed.message) < 300


def test_a_failing_graph_is_internal_and_spares_the_next(server: ServerProcess):
    request = infer_request("look-up", {"index": np.array([[99]])})
    failed = failure(server.client.infer, request, metadata=[("x-request-id", "mine-18")])
    assert failed.code is grpc.StatusCode.INTERNAL
    assert "request id mine-18" in failed.message
    assert failed.info is not None
    assert failed.info.reason == "BACKEND_FAILED"
    answer = server.client.infer(infer_request("look-up", {"index": np.array([[3]])}))
    assert np.frombuffer(answer.raw_output_contents[0], np.float32).tolist() == [3.0]
    eventually(lambda: server.logged("a batch failed"), "the exception is in the log")


def test_failing_graphs_fill_no_log(server: ServerProcess):
    """A traceback for each call would; callers bring them about."""
    request = infer_request("look-up", {"index": np.array([[99]])})
    calls = [server.client.inference.ModelInfer.future(request) for _ in range(500)]
    assert {failure(call.result).code for call in calls} == {grpc.StatusCode.INTERNAL}
    seconds = Counter(line["time"].partition(".")[0] for line in server.logged("a batch failed"))
    assert max(seconds.values()) <= 10


def test_an_error_of_ours_in_a_method_that_answers_at_once_is_internal_and_fills_no_log(
    embed: Embed, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr("service.transport.describe.PLATFORM", 1)
    with embed() as running:
        told = failure(running.client.inference.ModelMetadata, pb.ModelMetadataRequest(name="add-sub"))
    assert told.code is grpc.StatusCode.INTERNAL
    assert told.message.startswith("internal error (request id ")
    (record,) = [record for record in caplog.records if record.exc_info]
    assert record.name in _BOUNDS


def test_an_id_is_made_for_a_caller_who_brings_none(server: ServerProcess):
    failed = [failure(server.client.infer, infer_request("nothing", {})) for _ in range(2)]
    first, second = (each.info.metadata["request_id"] for each in failed if each.info)
    assert first != second


def test_an_id_without_end_hides_no_status(server: ServerProcess):
    """Clients take 8 KiB of metadata; with more, the status itself is lost."""
    metadata = [("x-request-id", "i" * 7000)]
    for call, request in (
        (server.client.inference.ModelInfer, infer_request("nothing", {})),
        (server.client.inference.ModelMetadata, pb.ModelMetadataRequest(name="nothing")),
    ):
        failed = failure(call, request, metadata=metadata, timeout=DEADLINE_SECONDS)
        assert (failed.code, failed.message) == (NOT_FOUND, "no model 'nothing'")
        assert failed.info is not None
        assert failed.info.metadata["request_id"] == "i" * 128


@pytest.mark.parametrize("field", ["int64_param", "uint64_param"])
def test_a_deadline_that_has_passed(server: ServerProcess, field: str):
    request = infer_request("add-sub", {"a": FLOATS, "b": FLOATS})
    setattr(request.parameters["timeout"], field, 1)  # microsecond: decoding alone takes longer
    failed = failure(server.client.infer, request)
    assert failed.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert failed.info is not None
    assert failed.info.reason == "DEADLINE_EXCEEDED"


def test_a_message_over_the_limit(server: ServerProcess):
    pictures = np.zeros((32, 28, 28, 1), dtype=np.uint8)
    request = infer_request("lenet5-mnist", {"images": pictures}, id="x" * (5 * 1024 * 1024))
    failed = failure(server.client.infer, request)
    assert failed.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    if server.transport == "native":  # grpcio refuses by itself, before our code runs
        assert failed.info is not None
        assert failed.info.reason == "MESSAGE_TOO_LARGE"
        assert failed.retry_seconds is None
    assert server.client.infer(ADD_SUB).model_name == "add-sub"


@pytest.mark.parametrize("method", ["/inference.GRPCInferenceService/Nothing", "/nothing.Service/ModelInfer", "/x"])
def test_what_is_not_there_is_unimplemented(server: ServerProcess, method: str):
    call = server.client.channel.unary_unary(method)
    assert failure(call, b"", timeout=DEADLINE_SECONDS).code is grpc.StatusCode.UNIMPLEMENTED


def test_failures_are_counted(server: ServerProcess):
    def count(**labels: str) -> float:
        return server.metric("convserve_requests_total", method="ModelInfer", **labels)

    def fails() -> int:
        asked = pb.ModelStatisticsRequest(name="look-up")
        return int(server.client.inference.ModelStatistics(asked).model_stats[0].inference_stats.fail.count)

    labels = {"model": "look-up", "version": "1", "code": "INTERNAL"}
    before, failed_before = count(**labels), fails()
    failure(server.client.infer, infer_request("look-up", {"index": np.array([[99]])}))
    assert (count(**labels), fails()) == (before + 1, failed_before + 1)
    unknown = {"model": "", "version": "", "code": "NOT_FOUND"}  # a caller's text is no label
    before = count(**unknown)
    failure(server.client.infer, infer_request("nothing", {}))
    assert count(**unknown) == before + 1


def test_who_calls_before_anything_is_loaded_is_to_try_again(
    small_repository: Path, transport: str, monkeypatch: pytest.MonkeyPatch
):
    """NOT_FOUND would be final to a client that retries what is UNAVAILABLE while a server starts."""
    from service.repository.reconciler import Reconciler
    from service.server import Server
    from service.settings import Settings

    may_load, hurry = threading.Event(), threading.Event()
    load_all = Reconciler.load_all

    def held(self: Reconciler) -> None:
        assert may_load.wait(DEADLINE_SECONDS)
        load_all(self)

    monkeypatch.setattr(Reconciler, "load_all", held)
    server = Server(Settings(models=str(small_repository), transport=transport, grpc_port=0, http_port=0))
    server.start()
    client = Client(server.grpc_port)
    try:
        failed = failure(client.infer, ADD_SUB)
        assert (failed.code, failed.message, failed.retry_seconds) == (
            grpc.StatusCode.UNAVAILABLE,
            "model 'add-sub' version 1 is LOADING: try again",
            1.0,
        )
        assert not client.inference.ModelReady(pb.ModelReadyRequest(name="add-sub")).ready
        may_load.set()
        client.wait_ready()
        assert client.infer(ADD_SUB).model_name == "add-sub"
    finally:
        may_load.set()
        hurry.set()
        client.close()
        server.drain(hurry)
