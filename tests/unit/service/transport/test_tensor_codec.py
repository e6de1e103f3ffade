from __future__ import annotations

import math
import struct
import tracemalloc
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

from service.errors import InvalidInput
from service.pb.inference import grpc_service_pb2 as pb
from service.tensors import DTYPES, TensorSpec
from service.transport import tensor_codec
from service.transport.shared_memory import SharedMemory
from service.transport.tensor_codec import (
    classification,
    encode_raw,
    encode_response,
    requested_outputs,
)


def decode_inputs(request: pb.ModelInferRequest) -> dict[str, np.ndarray]:
    """Decode where no shared memory is registered."""
    return tensor_codec.decode_inputs(request, SharedMemory(), lambda forms: None)


# Open Inference Protocol v2, InferTensorContents.
FIELDS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
_shapes = nps.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)


def objects(elements: list[bytes], shape: tuple[int, ...]) -> np.ndarray:
    array = np.empty(len(elements), dtype=object)
    array[:] = elements
    return array.reshape(shape)


@st.composite
def tensors(draw: st.DrawFn, names: list[str]) -> tuple[str, np.ndarray]:
    name, shape = draw(st.sampled_from(names)), draw(_shapes)
    if name == "BYTES":
        count = math.prod(shape)
        return name, objects(draw(st.lists(st.binary(max_size=6), min_size=count, max_size=count)), shape)
    return name, draw(nps.arrays(DTYPES[name], shape))


def request(*inputs: tuple[str, str, tuple[int, ...]], raw: list[bytes] | None = None) -> pb.ModelInferRequest:
    message = pb.ModelInferRequest(raw_input_contents=raw or [])
    for name, datatype, shape in inputs:
        message.inputs.add(name=name, datatype=datatype, shape=shape)
    return message


def refusal(message: pb.ModelInferRequest) -> str:
    with pytest.raises(InvalidInput) as caught:
        decode_inputs(message)
    return caught.value.message


def raw_refusal(datatype: str, shape: tuple[int, ...], data: bytes) -> str:
    return refusal(request(("x", datatype, shape), raw=[data]))


@given(tensors(list(DTYPES)))
def test_raw_contents_are_the_inverse_of_encoding(tensor: tuple[str, np.ndarray]) -> None:
    datatype, array = tensor
    (decoded,) = decode_inputs(request(("x", datatype, array.shape), raw=[encode_raw(array)])).values()
    np.testing.assert_array_equal(decoded, array, strict=True)


@given(tensors(list(FIELDS)))
def test_typed_contents_say_the_same_as_raw_ones(tensor: tuple[str, np.ndarray]) -> None:
    datatype, array = tensor
    message = request(("x", datatype, array.shape))
    getattr(message.inputs[0].contents, FIELDS[datatype]).extend(array.ravel().tolist())
    decoded = decode_inputs(pb.ModelInferRequest.FromString(message.SerializeToString()))["x"]
    np.testing.assert_array_equal(decoded, array, strict=True)


def test_raw_contents_are_not_copied() -> None:
    data = np.arange(6, dtype=np.float32)
    array = decode_inputs(request(("x", "FP32", (2, 3)), raw=[data.tobytes()]))["x"]
    assert not array.flags.owndata
    assert not array.flags.writeable


def test_raw_contents_are_little_endian_and_row_major() -> None:
    array = decode_inputs(request(("x", "INT32", (2, 2)), raw=[struct.pack("<4i", 1, 2, 3, 4)]))["x"]
    assert array.tolist() == [[1, 2], [3, 4]]
    elements = decode_inputs(request(("x", "BYTES", (2,)), raw=[b"\x02\0\0\0ab\0\0\0\0"]))["x"]
    assert elements.tolist() == [b"ab", b""]


@pytest.mark.parametrize("byte", [2, 3, 255])
def test_a_bool_in_raw_contents_is_0_or_1(byte: int) -> None:
    """A runtime takes other bytes for true or for false as each of its kernels likes."""
    assert decode_inputs(request(("x", "BOOL", (0,)), raw=[b""]))["x"].tolist() == []
    with pytest.raises(InvalidInput, match="an element does not fit BOOL, whose bytes are 0 or 1"):
        decode_inputs(request(("x", "BOOL", (2,)), raw=[bytes([1, byte])]))


def test_text_is_encoded_as_utf8() -> None:
    array = np.array(["ä", b"\xff"], dtype=object)
    assert encode_raw(array) == b"\x02\0\0\0\xc3\xa4\x01\0\0\0\xff"


def test_several_inputs_are_told_apart_by_name() -> None:
    message = request(("a", "UINT8", (1,)), ("b", "INT64", (1,)), raw=[b"\x07", struct.pack("<q", -1)])
    assert {name: array.tolist() for name, array in decode_inputs(message).items()} == {"a": [7], "b": [-1]}


def test_no_inputs_are_no_arrays() -> None:
    assert decode_inputs(pb.ModelInferRequest()) == {}


@given(
    shape=st.lists(st.integers(0, 3), max_size=3).map(tuple),
    data=st.binary(max_size=40) | st.lists(st.binary(max_size=4), max_size=4).map(
        lambda elements: b"".join(struct.pack("<I", len(element)) + element for element in elements)
    ),
)  # fmt: skip
def test_any_bytes_are_elements_or_refused(shape: tuple[int, ...], data: bytes) -> None:
    try:
        (array,) = decode_inputs(request(("x", "BYTES", shape), raw=[data])).values()
    except InvalidInput:
        return
    assert array.shape == shape
    assert encode_raw(array) == data


@given(
    datatype=st.sampled_from([*DTYPES, "FP8", ""]),
    shape=st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(0, 3), max_size=5),
    data=st.binary(max_size=30),
)
def test_any_message_is_decoded_or_refused(datatype: str, shape: list[int], data: bytes) -> None:
    message = request(("x", datatype, tuple(shape)), raw=[data])
    try:
        (array,) = decode_inputs(message).values()
    except InvalidInput:
        return
    assert array.shape == tuple(shape)


@pytest.mark.parametrize("datatype", ["UINT8", "FP64", "BYTES"])
@pytest.mark.parametrize(
    "shape", [(2**40,), (2**62, 2), (2**31, 2**31, 2**31), (0, 2**62), (2**62, 0, 2**62), (1,) * 33, (2**63 - 1,) * 32]
)
@pytest.mark.parametrize("typed", [False, True])
def test_huge_shapes_with_tiny_payloads_allocate_nothing(datatype: str, shape: tuple[int, ...], typed: bool) -> None:
    message = request(("x", datatype, shape), raw=None if typed else [b"12345678"])
    if typed:
        message.inputs[0].contents.bytes_contents.append(b"x")
    tracemalloc.start()
    try:
        refusal(message)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 100_000


def test_dimensions_without_end_are_counted_and_not_listed() -> None:
    message = request(("x", "UINT8", (1,) * 1_000_000), raw=[b"1"])
    tracemalloc.start()
    try:
        assert refusal(message) == "input 'x': shape of 1000000 dimensions, expected at most 32"
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 100_000


def test_inputs_without_end_are_counted_and_not_looked_at() -> None:
    message = pb.ModelInferRequest(inputs=[pb.ModelInferRequest.InferInputTensor()] * 1025)
    assert refusal(message) == "1025 inputs, expected at most 1024"


@pytest.mark.parametrize("datatype", ["UINT8", "FP64", "BYTES"])
def test_without_elements_a_shape_is_one_that_numpy_can_make(datatype: str) -> None:
    for shape in ((0, 2**31 - 1), (0,), (1,) * 31 + (0,)):
        (array,) = decode_inputs(request(("x", datatype, shape), raw=[b""])).values()
        assert array.shape == shape
    for shape in ((0, 2**31), (0, 2**16, 2**16), (0,) * 33):
        assert raw_refusal(datatype, shape, b"").startswith("input 'x': shape ")


@pytest.mark.parametrize(
    ("datatype", "shape", "data", "message"),
    [
        ("FP32", (2,), b"1234", "input 'x': 4 bytes, expected 8 for FP32 [2]"),
        ("FP32", (1,), b"12345678", "input 'x': 8 bytes, expected 4 for FP32 [1]"),
        ("UINT8", (), b"", "input 'x': 0 bytes, expected 1 for UINT8 []"),
        ("BYTES", (2,), b"\0\0\0\0", "input 'x': 4 bytes of raw contents cannot hold 2 BYTES elements"),
        ("BYTES", (2,), b"\1\0\0\0a\0\0\0", "input 'x': raw contents end before the length of element 1"),
        ("BYTES", (1,), b"\5\0\0\0ab", "input 'x': element 0 claims 5 bytes, 2 are left"),
        ("BYTES", (1,), b"\1\0\0\0ab", "input 'x': 1 bytes are left after 1 elements"),
        ("BYTES", (0,), b"ab", "input 'x': 2 bytes are left after 0 elements"),
    ],
)
def test_a_byte_count_that_does_not_fit_is_refused(
    datatype: str, shape: tuple[int, ...], data: bytes, message: str
) -> None:
    assert raw_refusal(datatype, shape, data) == message


def test_what_a_request_states_is_checked_before_any_contents() -> None:
    message = request(("a", "FP32", (2, 1)), ("b", "BYTES", (3,)), raw=[b"too few", b"neither"])
    stated: list[object] = []

    def refuse(forms: object) -> None:
        stated.append(forms)
        raise InvalidInput("too large")

    with pytest.raises(InvalidInput, match="too large"):
        tensor_codec.decode_inputs(message, SharedMemory(), refuse)
    assert stated == [{"a": ("FP32", (2, 1)), "b": ("BYTES", (3,))}]


def test_an_unknown_datatype_is_refused() -> None:
    assert raw_refusal("STRING", (1,), b"").startswith("input 'x': datatype 'STRING' is not one of BOOL, UINT8")


def test_a_negative_dimension_is_refused() -> None:
    assert raw_refusal("UINT8", (-1,), b"").startswith("input 'x': shape [-1] has a negative dimension")


def test_an_input_given_twice_is_refused() -> None:
    message = request(("x", "UINT8", (1,)), ("x", "UINT8", (1,)), raw=[b"1", b"2"])
    assert refusal(message) == "input 'x' is given twice"


def test_raw_contents_must_be_as_many_as_inputs() -> None:
    message = request(("x", "UINT8", (1,)), ("y", "UINT8", (1,)), raw=[b"1"])
    assert refusal(message) == "2 inputs by value but 1 raw contents, expected one for each"
    assert refusal(request(raw=[b"1"])) == "0 inputs by value but 1 raw contents, expected one for each"


def test_raw_and_typed_contents_together_are_refused() -> None:
    message = request(("x", "UINT8", (1,)), raw=[b"1"])
    message.inputs[0].contents.uint_contents.append(1)
    assert refusal(message) == "input 'x' has typed contents and has raw contents, expected one of them"


@pytest.mark.parametrize(
    ("datatype", "value"),
    [("INT8", 128), ("INT8", -129), ("INT16", 2**15), ("UINT8", 256), ("UINT16", 2**16), ("INT16", -(2**31))],
)
def test_an_element_that_does_not_fit_is_refused_not_wrapped(datatype: str, value: int) -> None:
    message = request(("x", datatype, (1,)))
    getattr(message.inputs[0].contents, FIELDS[datatype]).append(value)
    assert refusal(message) == f"input 'x': an element does not fit {datatype}"


class RepeatedOfProtobuf7(list[int]):
    """A repeated field that hands NumPy an array of its own, which NumPy narrows without a word."""

    def __init__(self, elements: Sequence[int], field: str) -> None:
        super().__init__(elements)
        self._dtype = np.int32 if field == "int_contents" else np.uint32

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        return np.array(list(self), dtype=self._dtype).astype(dtype or self._dtype)


@pytest.mark.parametrize(
    ("datatype", "values", "fits"),
    [
        ("UINT8", [255, 256], False),
        ("UINT8", [0, 255], True),
        ("INT8", [-129], False),
        ("INT8", [-128, 127], True),
        ("UINT16", [2**32 - 1], False),
        ("INT16", [-(2**31)], False),
        ("INT32", [-(2**31), 2**31 - 1], True),
        ("UINT32", [2**32 - 1], True),
    ],
)
def test_nor_is_it_wrapped_where_protobuf_hands_out_arrays(datatype: str, values: list[int], fits: bool) -> None:
    field = FIELDS[datatype]
    contents = SimpleNamespace(
        **{field: RepeatedOfProtobuf7(values, field)}, ListFields=lambda: [(SimpleNamespace(name=field), values)]
    )
    tensor: Any = SimpleNamespace(name="x", contents=contents)
    if fits:
        decoded = tensor_codec._from_typed(tensor, datatype, (len(values),))
        assert decoded.tolist() == values
        assert decoded.dtype == DTYPES[datatype]
    else:
        with pytest.raises(InvalidInput, match=f"an element does not fit {datatype}"):
            tensor_codec._from_typed(tensor, datatype, (len(values),))


def test_sixteen_bit_floats_travel_raw_only() -> None:
    message = request(("x", "FP16", (1,)))
    message.inputs[0].contents.fp32_contents.append(1)
    assert refusal(message) == "input 'x': FP16 is possible only in raw contents"


def test_typed_contents_belong_into_their_own_field() -> None:
    message = request(("x", "INT64", (1,)))
    message.inputs[0].contents.int_contents.append(1)
    assert refusal(message) == "input 'x': expected INT64 only in int64_contents, got int_contents"
    message.inputs[0].contents.int64_contents.append(1)
    assert "only in int64_contents, got int_contents, int64_contents" in refusal(message)


def test_typed_contents_must_be_as_many_as_the_shape_says() -> None:
    message = request(("x", "INT64", (3,)))
    assert refusal(message) == "input 'x': 0 elements, expected 3 for shape [3]"


@pytest.mark.parametrize(
    ("datatype", "byte_size", "message"),
    [
        ("FP32", 2**30, "input 'x': 1073741824 bytes, expected 12 for FP32 [3]"),
        ("FP32", 0, "input 'x': 0 bytes, expected 12 for FP32 [3]"),
        ("BYTES", 65, "input 'x': 65 bytes of BYTES, expected at most 64"),
    ],
)
def test_shared_memory_of_another_size_is_refused_unread(datatype: str, byte_size: int, message: str) -> None:
    class NeverRead(SharedMemory):
        def read(self, name: str, offset: int, byte_size: int) -> bytes:
            pytest.fail(f"{byte_size} bytes of {name} at {offset} were read")

    lying = request(("x", datatype, (3,)))
    lying.inputs[0].parameters["shared_memory_region"].string_param = "region"
    lying.inputs[0].parameters["shared_memory_byte_size"].int64_param = byte_size
    with pytest.raises(InvalidInput) as caught:
        tensor_codec.decode_inputs(lying, NeverRead(max_text_bytes=64), lambda forms: None)
    assert caught.value.message == message


@pytest.mark.parametrize(
    ("size", "offset", "message"),
    [
        (None, ("int64_param", 4), "parameter 'shared_memory_byte_size' is missing"),
        (
            ("int64_param", -1),
            ("int64_param", 4),
            "shared_memory_byte_size and _offset: expected numbers of at least 0, got -1 and 4",
        ),
        (
            ("uint64_param", 8),
            ("int64_param", -4),
            "shared_memory_byte_size and _offset: expected numbers of at least 0, got 8 and -4",
        ),
        (
            ("string_param", "8"),
            None,
            "'shared_memory_byte_size': expected int64_param or uint64_param, got string_param",
        ),
    ],
)
def test_a_part_of_shared_memory_is_told_in_numbers(
    size: tuple[str, object] | None, offset: tuple[str, object] | None, message: str
) -> None:
    parameters = pb.ModelInferRequest().parameters
    parameters["shared_memory_region"].string_param = "region"
    for name, value in (("shared_memory_byte_size", size), ("shared_memory_offset", offset)):
        if value is not None:
            setattr(parameters[name], *value)
    with pytest.raises(InvalidInput, match=message):
        tensor_codec.region_of(parameters)


class Region(SharedMemory):
    """Says what is read of it."""

    def read(self, name: str, offset: int, byte_size: int) -> bytes:
        return f"{name}{offset:02}{byte_size:02}".encode()


def in_memory(**parameters: tuple[str, object]) -> pb.ModelInferRequest:
    """Six bytes of shared memory, unless the parameters say something else."""
    message = request(("x", "UINT8", (6,)))
    described = {"region": ("string_param", "in"), "byte_size": ("int64_param", 6), **parameters}
    for name, (field, value) in described.items():
        setattr(message.inputs[0].parameters[f"shared_memory_{name}"], field, value)
    return message


@pytest.mark.parametrize(
    ("offset", "bytes_read"),
    [({}, b"in0006"), ({"offset": ("int64_param", 7)}, b"in0706"), ({"offset": ("uint64_param", 7)}, b"in0706")],
)
def test_an_input_in_shared_memory_is_read_where_its_parameters_say(
    offset: dict[str, tuple[str, object]], bytes_read: bytes
) -> None:
    (array,) = tensor_codec.decode_inputs(in_memory(**offset), Region(), lambda forms: None).values()
    assert array.tobytes() == bytes_read


def test_inputs_in_shared_memory_take_none_of_the_raw_contents() -> None:
    message = in_memory()
    message.inputs.add(name="y", datatype="UINT8", shape=[2])
    message.raw_input_contents.append(b"ab")
    arrays = tensor_codec.decode_inputs(message, Region(), lambda forms: None)
    assert [array.tobytes() for array in arrays.values()] == [b"in0006", b"ab"]


def test_as_much_text_in_shared_memory_as_is_allowed_is_read() -> None:
    message = in_memory()
    message.inputs[0].datatype = "BYTES"
    with pytest.raises(InvalidInput, match="cannot hold 6 BYTES"):
        tensor_codec.decode_inputs(message, Region(max_text_bytes=6), lambda forms: None)


@pytest.mark.parametrize(
    "parameters",
    [
        {"region": ("string_param", "")},
        {"region": ("int64_param", 1)},
        {"byte_size": ("int64_param", -1)},
        {"byte_size": ("string_param", "6")},
        {"byte_size": ("bool_param", True)},
        {"offset": ("int64_param", -1)},
        {"offset": ("double_param", 1.0)},
    ],
)
def test_where_an_input_lies_is_said_in_the_right_types(parameters: dict[str, tuple[str, object]]) -> None:
    (name,) = parameters
    with pytest.raises(InvalidInput, match=name):
        tensor_codec.decode_inputs(in_memory(**parameters), Region(), lambda forms: None)


def test_an_input_in_shared_memory_brings_no_contents() -> None:
    message = in_memory()
    message.inputs[0].contents.uint_contents.append(1)
    with pytest.raises(InvalidInput) as caught:
        tensor_codec.decode_inputs(message, Region(), lambda forms: None)
    assert caught.value.message == "input 'x' has typed contents and lies in shared memory, expected one of them"


# Outputs.

SPECS = (TensorSpec("p", "FP32", (-1, 3)), TensorSpec("text", "BYTES", (-1,)), TensorSpec("flag", "BOOL", (-1, 1)))


def wanted(*names: str, **parameters: Any) -> list[tuple[int, int]]:
    message = pb.ModelInferRequest()
    for name in names:
        output = message.outputs.add(name=name)
        for key, (field, value) in parameters.items():
            setattr(output.parameters[key], field, value)
    return [(output.index, output.classes) for output in requested_outputs(message, SPECS)]


def test_all_outputs_are_sent_unless_some_are_named() -> None:
    assert wanted() == [(0, 0), (1, 0), (2, 0)]
    assert wanted("text", "p") == [(1, 0), (0, 0)]
    assert wanted("p", classification=("int64_param", 2)) == [(0, 2)]
    assert wanted("p", binary_data=("bool_param", True)) == [(0, 0)]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("q",), "no output 'q', expected p, text, flag"),
        (("p", ""), "no output '', expected p, text, flag"),
        (("p", "text", "p"), "output 'p' is requested twice"),
    ],
)
def test_an_unknown_output_or_one_requested_twice_is_refused(names: tuple[str, ...], message: str) -> None:
    with pytest.raises(InvalidInput, match=f"^{message}$"):
        wanted(*names)


@pytest.mark.parametrize(
    ("value", "came"),
    [
        (("int64_param", 0), "0"),
        (("int64_param", -1), "-1"),
        (("string_param", "3"), "string_param"),
        (("bool_param", True), "bool_param"),
    ],
)
def test_a_number_of_classes_must_be_positive(value: tuple[str, object], came: str) -> None:
    with pytest.raises(InvalidInput, match=f"'classification': expected a positive int64_param, got {came}$"):
        wanted("p", classification=value)


@pytest.mark.parametrize("name", ["text", "flag"])
def test_what_is_no_number_has_no_classes(name: str) -> None:
    with pytest.raises(InvalidInput, match=f"output '{name}' is "):
        wanted(name, classification=("int64_param", 1))


def test_classes_are_written_as_triton_does() -> None:
    scores = np.array([[0.25, 0.5, 0.25], [1.0, 0.0, 0.0]], np.float32)
    assert classification(scores, 2, ("cat", "dog", "a:b")).tolist() == [
        [b"0.500000:1:dog", b"0.250000:0:cat"],
        [b"1.000000:0:cat", b"0.000000:1:dog"],
    ]


def test_without_labels_value_and_index_suffice() -> None:
    assert classification(np.array([[0.5, 0.25]]), 9, ()).tolist() == [[b"0.500000:0", b"0.250000:1"]]
    assert classification(np.array([[0.5, 0.25]]), 9, ("ä",)).tolist() == [["0.500000:0:ä".encode(), b"0.250000:1"]]


def test_rows_of_several_dimensions_are_ranked_flat() -> None:
    scores = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    assert classification(scores, 1, ()).tolist() == [[b"5.000000:5"], [b"11.000000:5"]]
    assert classification(np.array([3, 7]), 1, ()).tolist() == [[b"3.000000:0"], [b"7.000000:0"]]


@pytest.mark.parametrize("dtype", [np.int64, np.uint64])
def test_whole_numbers_of_64_bits_are_ranked_and_written_exactly(dtype: type[np.integer]) -> None:
    least, greatest = np.iinfo(dtype).min, np.iinfo(dtype).max
    scores = np.array([[2**60, 2**60 + 1, least, greatest - 1, greatest]], dtype)
    assert classification(scores, 5, ()).tolist() == [
        [
            f"{value}.000000:{index}".encode()
            for value, index in ((greatest, 4), (greatest - 1, 3), (2**60 + 1, 1), (2**60, 0), (least, 2))
        ]
    ]


def test_whole_numbers_are_ranked_by_their_value() -> None:
    assert classification(np.array([[0, 255, 7]], np.uint8), 3, ()).tolist() == [
        [b"255.000000:1", b"7.000000:2", b"0.000000:0"]
    ]
    assert classification(np.array([[-128, 127]], np.int8), 2, ()).tolist() == [[b"127.000000:1", b"-128.000000:0"]]


@given(
    scores=nps.arrays(np.float32, st.tuples(st.integers(1, 3), st.integers(1, 5)), elements=st.floats(0, 1, width=32)),
    classes=st.integers(1, 7),
)
def test_classes_come_greatest_first(scores: np.ndarray, classes: int) -> None:
    table = classification(scores, classes, ())
    assert table.shape == (len(scores), min(classes, scores.shape[1]))
    for row, cells in zip(scores, table.tolist(), strict=True):
        indices = [int(cell.split(b":")[1]) for cell in cells]
        assert len(set(indices)) == len(indices)
        assert row[indices].tolist() == sorted(row.tolist(), reverse=True)[: len(indices)]


_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)


@given(name=_text, request_id=_text, raw=st.lists(st.binary(max_size=300), max_size=3), explained=st.booleans())
def test_a_response_put_together_equals_the_official_serialisation(
    name: str, request_id: str, raw: list[bytes], explained: bool
) -> None:
    head = pb.ModelInferResponse(model_name=name, model_version="1")
    head.outputs.add(name="p", datatype="FP32", shape=[1, 2])
    whole = pb.ModelInferResponse()
    whole.CopyFrom(head)
    parameters = pb.ModelInferResponse()
    if explained:
        parameters.parameters["bucket"].int64_param = 4
        whole.parameters["bucket"].int64_param = 4
    whole.id = request_id
    whole.raw_output_contents.extend(raw)
    ours = encode_response(head.SerializeToString() + parameters.SerializeToString(), request_id, raw)
    assert pb.ModelInferResponse.FromString(ours) == whole


@pytest.mark.parametrize("size", [0, 1, 127, 128, 16383, 16384, 2**21])
def test_lengths_are_varints(size: int) -> None:
    assert (
        pb.ModelInferResponse.FromString(encode_response(b"", "", [b"x" * size])).raw_output_contents[0] == b"x" * size
    )
