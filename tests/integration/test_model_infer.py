"""ModelInfer: tensors in every form that the protocol has, outputs as asked for, versions, ids."""

from __future__ import annotations

import grpc
import numpy as np
import pytest

from service.golden import read_golden
from service.pb.inference import grpc_service_pb2 as pb
from service.tensors import BF16, DTYPES
from tests.integration.harness import ADD_SUB, MODELS, ServerProcess, arrays_of, failure, infer_request

LENET = MODELS / "lenet5-mnist" / "1"
TEXTCNN = MODELS / "textcnn-mr" / "1"
A = np.arange(8, dtype=np.float32).reshape(2, 4)
B = np.ones((2, 4), dtype=np.float32)


def test_raw_tensors_give_torchs_answers(server: ServerProcess):
    golden = read_golden(LENET / "golden.npz")
    pictures = golden.inputs[0]
    response = server.client.infer(infer_request("lenet5-mnist", {"images": pictures[:8]}))
    np.testing.assert_allclose(arrays_of(response)["probabilities"], golden.outputs[0][:8], atol=1e-5)
    assert (response.model_name, response.model_version) == ("lenet5-mnist", "1")
    assert [(output.name, output.datatype, list(output.shape)) for output in response.outputs] == [
        ("probabilities", "FP32", [8, 10])
    ]


@pytest.mark.parametrize(("model", "folder"), [("lenet5-mnist", LENET), ("textcnn-mr", TEXTCNN)])
def test_bytes_are_decoded_as_pictures_or_sentences(server: ServerProcess, model: str, folder):
    golden = read_golden(folder / "golden.npz")
    count = min(golden.count, 16)
    name = {"lenet5-mnist": "images", "textcnn-mr": "ids"}[model]
    response = server.client.infer(infer_request(model, {name: golden.raw[:count]}))
    np.testing.assert_allclose(arrays_of(response)["probabilities"], golden.outputs[0][:count], atol=1e-5)


def test_bytes_may_be_typed_contents_and_a_column(server: ServerProcess):
    golden = read_golden(TEXTCNN / "golden.npz")
    request = pb.ModelInferRequest(model_name="textcnn-mr")
    tensor = request.inputs.add(name="ids", datatype="BYTES", shape=[3, 1])
    tensor.contents.bytes_contents.extend(golden.raw[:3])
    response = server.client.infer(request)
    np.testing.assert_allclose(arrays_of(response)["probabilities"], golden.outputs[0][:3], atol=1e-5)


def test_ids_as_a_tensor(server: ServerProcess):
    golden = read_golden(TEXTCNN / "golden.npz")
    response = server.client.infer(infer_request("textcnn-mr", {"ids": golden.inputs[0][:5]}))
    np.testing.assert_allclose(arrays_of(response)["probabilities"], golden.outputs[0][:5], atol=1e-5)


SAMPLES = {
    "BOOL": [True, False],
    "UINT8": [0, 255],
    "UINT16": [0, 65535],
    "UINT32": [0, 2**32 - 1],
    "UINT64": [0, 2**64 - 1],
    "INT8": [-128, 127],
    "INT16": [-32768, 32767],
    "INT32": [-(2**31), 2**31 - 1],
    "INT64": [-(2**63), 2**63 - 1],
    "FP16": [-1.5, 65504],
    "FP32": [-1.5, np.inf],
    "FP64": [-1e300, 1e-300],
    "BYTES": ["naïve".encode(), b"with\x00nul"],
}
FIELDS = {
    "BOOL": "bool_contents", "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents",
    "UINT64": "uint64_contents", "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents",
    "INT64": "int64_contents", "FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents",
}  # fmt: skip


def test_every_datatype_travels_raw(server: ServerProcess):
    inputs = {f"x_{name}": np.array([sample], dtype=DTYPES[name]) for name, sample in SAMPLES.items()}
    outputs = arrays_of(server.client.infer(infer_request("datatypes", inputs)))
    assert outputs.keys() == {f"y_{name}" for name in SAMPLES}
    for name in SAMPLES:
        np.testing.assert_array_equal(outputs[f"y_{name}"], inputs[f"x_{name}"], err_msg=name)


def test_every_datatype_that_has_contents_travels_typed(server: ServerProcess):
    request = pb.ModelInferRequest(model_name="datatypes-typed")
    for name, field in FIELDS.items():
        tensor = request.inputs.add(name=f"x_{name}", datatype=name, shape=[1, 2])
        getattr(tensor.contents, field).extend(SAMPLES[name])
    outputs = arrays_of(server.client.infer(request))
    for name in FIELDS:
        np.testing.assert_array_equal(outputs[f"y_{name}"], np.array([SAMPLES[name]], dtype=DTYPES[name]), name)


def test_bfloat16_travels_raw_and_is_ranked_by_its_value(server: ServerProcess):
    """-2, infinity and 1 as their upper sixteen bits; typed contents have no field for them."""
    bits = np.array([[(0xC000,), (0x7F80,), (0x3F80,)]], dtype=BF16)
    message = infer_request("bfloat16", {"x": bits})
    np.testing.assert_array_equal(arrays_of(server.client.infer(message))["y"], bits)
    ranked = server.client.infer(infer_request("bfloat16", {"x": bits}, ["y"], classes=3))
    assert arrays_of(ranked)["y"].tolist() == [[b"inf:1", b"1.000000:2", b"-2.000000:0"]]
    typed = pb.ModelInferRequest(model_name="bfloat16")
    typed.inputs.add(name="x", datatype="BF16", shape=[1, 3]).contents.fp32_contents.extend([1, 2, 3])
    assert failure(server.client.infer, typed).message == "input 'x': BF16 is possible only in raw contents"


def test_outputs_are_chosen_and_ordered(server: ServerProcess):
    inputs = {"a": A, "b": B}
    both = server.client.infer(infer_request("add-sub", inputs, ["difference", "sum"], model_version="1"))
    assert [output.name for output in both.outputs] == ["difference", "sum"]
    np.testing.assert_array_equal(arrays_of(both)["difference"], A - B)
    np.testing.assert_array_equal(arrays_of(both)["sum"], A + B)
    one = server.client.infer(infer_request("add-sub", inputs, ["difference"], model_version="1"))
    assert [output.name for output in one.outputs] == ["difference"]
    assert len(one.raw_output_contents) == 1
    all_of_them = server.client.infer(infer_request("add-sub", inputs, model_version="1"))
    assert [output.name for output in all_of_them.outputs] == ["sum", "difference"]


def test_inputs_may_come_in_any_order(server: ServerProcess):
    response = server.client.infer(infer_request("add-sub", {"b": B, "a": A}, model_version="1"))
    np.testing.assert_array_equal(arrays_of(response)["difference"], A - B)


@pytest.mark.parametrize("given", ["", "a", "naïve ✓", "x" * 300])
def test_the_id_comes_back(server: ServerProcess, given: str):
    assert server.client.infer(infer_request("add-sub", {"a": A, "b": B}, id=given)).id == given


@pytest.mark.parametrize(("asked", "answered", "offset"), [("", "2", 100), ("1", "1", 0), ("2", "2", 100)])
def test_versions(server: ServerProcess, asked: str, answered: str, offset: float):
    response = server.client.infer(infer_request("add-sub", {"a": A, "b": B}, model_version=asked))
    assert response.model_version == answered
    np.testing.assert_array_equal(arrays_of(response)["sum"], A + B + offset)


def test_strings_go_through_a_graph_unchanged(server: ServerProcess):
    texts = np.array([["plain"], ["naïve ✓"], [""]], dtype=object)
    response = server.client.infer(infer_request("strings", {"x": texts}))
    assert arrays_of(response)["y"].ravel().tolist() == [b"plain", "naïve ✓".encode(), b""]


def test_a_fixed_batch_axis_is_served_without_batching(server: ServerProcess):
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    response = server.client.infer(infer_request("fixed", {"x": x}))
    np.testing.assert_array_equal(arrays_of(response)["y"], x)
    ranked = server.client.infer(infer_request("fixed", {"x": x}, ["y"], classes=2))
    assert list(ranked.outputs[0].shape) == [2]
    assert arrays_of(ranked)["y"].tolist() == [b"5.000000:5", b"4.000000:4"]


@pytest.mark.parametrize(
    ("model", "x"), [("scalar", np.array(2.5, np.float32)), ("scalar-text", np.array(b"two", object))]
)
def test_scalars_are_served(server: ServerProcess, model: str, x: np.ndarray):
    y = arrays_of(server.client.infer(infer_request(model, {"x": x})))["y"]
    assert (y.shape, y.tolist()) == ((), x.tolist())


def test_classification_has_value_index_and_label(server: ServerProcess):
    golden = read_golden(LENET / "golden.npz")
    request = infer_request("lenet5-mnist", {"images": golden.inputs[0][:2]}, ["probabilities"], classes=3)
    response = server.client.infer(request)
    assert (response.outputs[0].datatype, list(response.outputs[0].shape)) == ("BYTES", [2, 3])
    for row, probabilities in zip(arrays_of(response)["probabilities"], golden.outputs[0], strict=False):
        for text, index in zip(row, np.argsort(-probabilities), strict=False):
            value, place, label = text.decode().split(":")
            assert (int(place), label) == (index, str(index))
            assert value == f"{float(value):.6f}"
            assert float(value) == pytest.approx(probabilities[index], abs=1e-5)


def test_classification_of_a_graph_without_labels(server: ServerProcess):
    scores = np.array([[1, 200, 3]], dtype=np.uint8)
    response = server.client.infer(infer_request("scores", {"x": scores}, ["y"], classes=99))
    assert arrays_of(response)["y"].tolist() == [[b"200.000000:1", b"3.000000:2", b"1.000000:0"]]


def test_classification_ranks_a_row_of_several_dimensions_flat(server: ServerProcess):
    grid = np.arange(12, dtype=np.float32).reshape(2, 2, 3)
    response = server.client.infer(infer_request("grid", {"x": grid}, ["y"], classes=1))
    assert arrays_of(response)["y"].tolist() == [[b"5.000000:5"], [b"11.000000:5"]]


def test_a_request_explains_itself_when_asked(server: ServerProcess):
    request = infer_request("lenet5-mnist", {"images": np.zeros((3, 28, 28, 1), dtype=np.uint8)})
    assert not server.client.infer(request).parameters
    request.parameters["explain"].bool_param = True
    told = server.client.infer(request).parameters
    assert told["batch_size"].int64_param == 3
    assert told["bucket"].int64_param == 4
    assert told["padding_ratio"].double_param == pytest.approx(0.25)
    assert told["execution_provider"].string_param == "CPUExecutionProvider"
    assert told["model_digest"].string_param.startswith("sha256:")
    assert told["queue_seconds"].double_param >= 0
    assert told["infer_seconds"].double_param > 0


def test_compressed_messages_are_taken(server: ServerProcess):
    response = server.client.infer(ADD_SUB, compression=grpc.Compression.Gzip)
    assert response.model_name == "add-sub"


X = np.array([[1, 2], [3, 4]], np.float32)


def test_an_input_with_a_default_may_be_left_out(server: ServerProcess):
    request = infer_request("scaled", {"x": X})
    assert arrays_of(server.client.infer(request))["y"].tolist() == (X * 2).tolist()


def test_an_input_with_a_default_may_be_given(server: ServerProcess):
    request = infer_request("scaled", {"x": X, "factor": np.array([5], np.float32)})
    assert arrays_of(server.client.infer(request))["y"].tolist() == (X * 5).tolist()


@pytest.mark.parametrize("factor", [np.array([5, 6], np.float32), np.array([5], np.int32)])
def test_an_optional_input_is_checked_like_any_other(server: ServerProcess, factor: np.ndarray):
    failed = failure(server.client.infer, infer_request("scaled", {"x": X, "factor": factor}))
    assert failed.code is grpc.StatusCode.INVALID_ARGUMENT
    assert "input 'factor'" in failed.message


def test_an_optional_input_alone_is_not_enough(server: ServerProcess):
    failed = failure(server.client.infer, infer_request("scaled", {"factor": np.array([5], np.float32)}))
    assert failed.message == "model 'scaled': expected inputs x and perhaps factor, got factor"


def test_an_optional_input_is_described_as_such(server: ServerProcess):
    metadata = server.client.inference.ModelMetadata(pb.ModelMetadataRequest(name="scaled"))
    assert [(tensor.name, list(tensor.shape)) for tensor in metadata.inputs] == [("x", [-1, 2]), ("factor", [1])]
    config = server.client.inference.ModelConfig(pb.ModelConfigRequest(name="scaled")).config
    assert [(tensor.name, tensor.optional, list(tensor.dims)) for tensor in config.input] == [
        ("x", False, [2]),
        ("factor", True, [1]),
    ]
