"""Bare graphs that few exporters write, and what their callers see of them."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import numpy as np
import pytest
from onnx import TensorProto

from service.pb.inference import grpc_service_pb2 as pb
from tests.integration import graphs
from tests.integration.harness import Failure, ServerProcess, arrays_of, eventually, failure, infer_request

INVALID_ARGUMENT = grpc.StatusCode.INVALID_ARGUMENT


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory, transport: str) -> Iterator[ServerProcess]:
    root = tmp_path_factory.mktemp("odd")
    for kind, datatype in (("numbers", TensorProto.FLOAT), ("texts", TensorProto.STRING)):
        graphs.write(root, f"{kind}-of-no-width", graphs.identity(datatype, ("N", 0)))
        graphs.write(root, f"no-{kind}", graphs.identity(datatype, (0, 3)))
    graphs.write(root, "words", graphs.words({"word": [b"no", b"yes"], "other": [b"\xc3\xa9", b"\xff\xfe"]}))
    for kind in ("numbers", "texts"):
        datatype = TensorProto.FLOAT if kind == "numbers" else TensorProto.STRING
        graphs.write(root, f"{kind}-of-any-rank", graphs.identity(datatype, None))
        graphs.write(root, f"{kind}-of-no-rank", graphs.identity(datatype, ()))
    with ServerProcess(root, transport, "--instances", "1") as running:
        yield running


@pytest.mark.parametrize(("kind", "dtype"), [("numbers", np.float32), ("texts", object)])
@pytest.mark.parametrize(("model", "shape"), [("{}-of-no-width", (2, 0)), ("no-{}", (0, 3))])
def test_an_axis_of_no_length_is_served_empty(
    odd: ServerProcess, model: str, shape: tuple[int, ...], kind: str, dtype: type
):
    y = arrays_of(odd.client.infer(infer_request(model.format(kind), {"x": np.empty(shape, dtype)})))["y"]
    assert (y.shape, y.dtype) == (shape, dtype)


@pytest.mark.parametrize("kind", ["numbers", "texts"])
def test_what_is_longer_is_refused(odd: ServerProcess, kind: str):
    one = np.full((1, 3), "a", object) if kind == "texts" else np.ones((1, 3), np.float32)
    failed = failure(odd.client.infer, infer_request(f"{kind}-of-no-width", {"x": one}))
    assert (failed.code, failed.message) == (INVALID_ARGUMENT, "input 'x': expected shape [-1, 0], got [1, 3]")
    failed = failure(odd.client.infer, infer_request(f"no-{kind}", {"x": one}))
    assert (failed.code, failed.message) == (INVALID_ARGUMENT, "input 'x': expected shape [0, 3], got [1, 3]")


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (1, 0, 2)])
def test_a_tensor_without_a_shape_may_have_any(odd: ServerProcess, shape: tuple[int, ...]):
    for model, x in (("numbers", np.full(shape, 2, np.float32)), ("texts", np.full(shape, b"two", object))):
        y = arrays_of(odd.client.infer(infer_request(f"{model}-of-any-rank", {"x": x})))["y"]
        assert (y.shape, y.tolist()) == (shape, x.tolist())


def test_it_is_described_as_of_variable_length_and_a_scalar_as_what_it_is(odd: ServerProcess):
    """The protocol has no word for a rank that is not known; a scalar would be the one that does not fit."""
    for rank, shape in (("any", [-1]), ("no", [])):
        name = f"numbers-of-{rank}-rank"
        metadata = odd.client.inference.ModelMetadata(pb.ModelMetadataRequest(name=name))
        config = odd.client.inference.ModelConfig(pb.ModelConfigRequest(name=name)).config
        assert [list(tensor.shape) for tensor in (*metadata.inputs, *metadata.outputs)] == [shape, shape]
        assert [list(tensor.dims) for tensor in (*config.input, *config.output)] == [shape, shape]
    failed = failure(odd.client.infer, infer_request("numbers-of-no-rank", {"x": np.ones(3, np.float32)}))
    assert (failed.code, failed.message) == (INVALID_ARGUMENT, "input 'x': expected shape [], got [3]")


def of(odd: ServerProcess, index: int) -> Failure | list[bytes]:
    request = infer_request("words", {"index": np.array([[index]])})
    try:
        return [text for array in arrays_of(odd.client.infer(request)).values() for text in array.flat]
    except grpc.RpcError:
        return failure(odd.client.infer, request)


def test_text_that_is_not_utf_8_is_told_with_its_output(odd: ServerProcess):
    """ONNX Runtime's Python API makes str of strings, and has no way to their bytes."""
    assert of(odd, 0) == [b"no", "é".encode()]
    failed = of(odd, 1)
    assert isinstance(failed, Failure)
    assert failed.code is grpc.StatusCode.UNIMPLEMENTED
    assert failed.message == "output 'other' has text that is not UTF-8, which the runtime cannot return"
    assert failed.info is not None
    assert failed.info.reason == "OUTPUT_NOT_UTF8"


def test_who_shares_its_batch_is_answered(odd: ServerProcess):
    """Half of the callers get one, the others get theirs: however they met."""
    calls = [
        odd.client.inference.ModelInfer.future(infer_request("words", {"index": np.array([[number % 2]])}))
        for number in range(64)
    ]
    codes = [eventually(call.done, "it ends") and call.code().name for call in calls]
    assert codes == ["OK", "UNIMPLEMENTED"] * 32
