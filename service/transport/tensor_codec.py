"""Turns protocol messages into arrays and back. Byte counts are checked before anything is allocated.

Raw contents become arrays without a copy: little-endian, row-major, as the protocol has it (Open
Inference Protocol v2, "Tensor Data"). Answers are raw, since that is what tritonclient reads.

It has more than 300 lines because each encoding stands beside its decoding.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from service.errors import InvalidInput
from service.fields import write_varint
from service.pb.inference import grpc_service_pb2 as pb
from service.preprocessing.scores import top_k
from service.tensors import DTYPES, Form, TensorSpec, as_numbers
from service.transport.shared_memory import SharedMemory

# Typed contents by datatype (Open Inference Protocol v2, InferTensorContents); 16-bit floats travel raw only.
_CONTENTS = {
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
_WIDE = {"int_contents": np.dtype(np.int32), "uint_contents": np.dtype(np.uint32)}  # fields of several datatypes
_ID_TAG = b"\x1a"  # ModelInferResponse.id, field 3, length-delimited
_RAW_TAG = b"\x32"  # ModelInferResponse.raw_output_contents, field 6, length-delimited
_MAX_DIMENSIONS = 32
_MAX_TENSORS = 1024  # no graph has as many inputs; each costs time before it is known whether the model has it
_MAX_ELEMENTS = 2**31 - 1  # no message holds more bytes


def decode_inputs(
    request: pb.ModelInferRequest,
    shared_memory: SharedMemory,
    check: Callable[[Mapping[str, Form]], None],
) -> dict[str, np.ndarray]:
    """Turn a request's tensors into arrays by name.

    Args:
        request: Its inputs lie in raw contents, in typed contents, or in registered shared memory,
            which take no entry of the raw contents.
        shared_memory: The registered regions.
        check: Gets what the request states of its inputs, by name, before any contents are read, and raises for what
            the model does not take. What is left is as large as the model allows.

    Returns:
        Read-only views of raw contents where possible; BYTES become arrays of bytes objects.

    Raises:
        InvalidInput: Raw and typed contents together, an unknown datatype, a negative dimension, too many of them or
            of inputs, a count of bytes or elements that does not fit the shape, an element that does not fit the
            datatype, a tensor given twice, a part of shared memory that does not exist (INVALID_ARGUMENT).
    """
    if len(request.inputs) > _MAX_TENSORS:
        raise InvalidInput(f"{len(request.inputs)} inputs, expected at most {_MAX_TENSORS}")
    raw = request.raw_input_contents
    regions = [region_of(tensor.parameters) if tensor.parameters else None for tensor in request.inputs]
    by_value = regions.count(None)
    if raw and len(raw) != by_value:
        raise InvalidInput(f"{by_value} inputs by value but {len(raw)} raw contents, expected one for each")
    forms: dict[str, Form] = {}
    for tensor in request.inputs:
        name = tensor.name
        if name in forms:
            raise InvalidInput(f"input '{name}' is given twice")
        datatype = tensor.datatype
        if datatype not in DTYPES:
            raise InvalidInput(f"input '{name}': datatype {datatype!r} is not one of {', '.join(DTYPES)}")
        if len(tensor.shape) > _MAX_DIMENSIONS:  # a message may hold millions
            raise InvalidInput(
                f"input '{name}': shape of {len(tensor.shape)} dimensions, expected at most {_MAX_DIMENSIONS}"
            )
        shape = tuple(tensor.shape)
        if not _is_possible(shape):
            raise InvalidInput(f"input '{name}': shape {list(shape)} has a negative dimension, or too many elements")
        forms[name] = datatype, shape
    check(forms)
    contents = iter(raw)
    arrays: dict[str, np.ndarray] = {}
    for tensor, region in zip(request.inputs, regions, strict=True):
        name = tensor.name
        datatype, shape = forms[name]
        if tensor.HasField("contents") and (raw or region):
            other = "lies in shared memory" if region else "has raw contents"
            raise InvalidInput(f"input '{name}' has typed contents and {other}, expected one of them")
        if region is not None:
            _check_part(name, region, shared_memory, datatype, shape)
            data = shared_memory.read(region.name, region.offset, region.byte_size)
            arrays[name] = _from_raw(name, data, datatype, shape)
        elif raw:
            arrays[name] = _from_raw(name, next(contents), datatype, shape)
        else:
            arrays[name] = _from_typed(tensor, datatype, shape)
    return arrays


def _is_possible(shape: tuple[int, ...]) -> bool:
    """Return whether NumPy can make an array of this shape, even if a dimension is zero."""
    return min(shape, default=0) >= 0 and math.prod(max(size, 1) for size in shape) <= _MAX_ELEMENTS


def _check_part(
    name: str, part: RegionPart, shared_memory: SharedMemory, datatype: str, shape: tuple[int, ...]
) -> None:
    """Refuse a part of shared memory that the tensor does not fill, before it is copied."""
    if datatype != "BYTES":
        _check_size(name, part.byte_size, datatype, shape)
    elif part.byte_size > shared_memory.max_text_bytes:
        raise InvalidInput(
            f"input '{name}': {part.byte_size} bytes of BYTES, expected at most {shared_memory.max_text_bytes}"
        )


def _check_size(name: str, size: int, datatype: str, shape: tuple[int, ...]) -> None:
    if size != (expected := math.prod(shape) * DTYPES[datatype].itemsize):
        raise InvalidInput(f"input '{name}': {size} bytes, expected {expected} for {datatype} {list(shape)}")


def _from_raw(name: str, data: bytes, datatype: str, shape: tuple[int, ...]) -> np.ndarray:
    if datatype == "BYTES":
        return _object_array(split_bytes(name, data, math.prod(shape)), shape)
    _check_size(name, len(data), datatype, shape)
    array = np.frombuffer(data, DTYPES[datatype]).reshape(shape)
    # Other bytes would be true or false as each kernel of the runtime takes them: Not makes 3 of 2.
    if datatype == "BOOL" and array.size and array.view(np.uint8).max() > 1:
        raise InvalidInput(f"input '{name}': an element does not fit BOOL, whose bytes are 0 or 1")
    return array


def _from_typed(tensor: pb.ModelInferRequest.InferInputTensor, datatype: str, shape: tuple[int, ...]) -> np.ndarray:
    name = tensor.name
    field = _CONTENTS.get(datatype)
    if field is None:
        raise InvalidInput(f"input '{name}': {datatype} is possible only in raw contents")
    values = getattr(tensor.contents, field)
    filled = [descriptor.name for descriptor, _ in tensor.contents.ListFields()]
    if filled and filled != [field]:
        raise InvalidInput(f"input '{name}': expected {datatype} only in {field}, got {', '.join(filled)}")
    count = math.prod(shape)
    if len(values) != count:
        raise InvalidInput(f"input '{name}': {len(values)} elements, expected {count} for shape {list(shape)}")
    if datatype == "BYTES":
        return _object_array(list(values), shape)
    # As the field has them, and then narrower: which of the two NumPy does not wrap depends on protobuf's release.
    wide = np.array(values, dtype=_WIDE.get(field, DTYPES[datatype]))
    array = wide.astype(DTYPES[datatype], copy=False)
    if array is not wide and not np.array_equal(array, wide):
        raise InvalidInput(f"input '{name}': an element does not fit {datatype}")
    return array.reshape(shape)


def _object_array(elements: Sequence[bytes], shape: tuple[int, ...]) -> np.ndarray:
    array = np.empty(len(elements), dtype=object)
    array[:] = elements
    return array.reshape(shape)


def split_bytes(name: str, data: bytes, count: int, offset: int = 0) -> list[bytes]:
    """Split raw BYTES: each element is its length as four little-endian bytes, then its bytes.

    Args:
        name: Of the input.
        data: Ends with the contents.
        count: Elements.
        offset: Where the contents begin.

    Raises:
        InvalidInput: The lengths do not add up (INVALID_ARGUMENT).
    """
    if (size := len(data) - offset) < 4 * count:
        raise InvalidInput(f"input '{name}': {size} bytes of raw contents cannot hold {count} BYTES elements")
    elements = []
    for number in range(count):
        if offset + 4 > len(data):
            raise InvalidInput(f"input '{name}': raw contents end before the length of element {number}")
        (size,) = struct.unpack_from("<I", data, offset)
        offset += 4
        if offset + size > len(data):
            raise InvalidInput(f"input '{name}': element {number} claims {size} bytes, {len(data) - offset} are left")
        elements.append(data[offset : offset + size])
        offset += size
    if offset != len(data):
        raise InvalidInput(f"input '{name}': {len(data) - offset} bytes are left after {count} elements")
    return elements


def encode_raw(array: np.ndarray) -> bytes:
    """Return an array's raw contents; the inverse of decoding."""
    if array.dtype != object:
        return array.tobytes()
    elements = [element.encode() if isinstance(element, str) else bytes(element) for element in array.ravel()]
    return b"".join(struct.pack("<I", len(element)) + element for element in elements)


@dataclass(frozen=True, slots=True)
class RegionPart:
    """Where a tensor lies in shared memory: a region's name, and bytes within the region."""

    name: str
    offset: int
    byte_size: int


def region_of(parameters: Mapping[str, pb.InferParameter]) -> RegionPart | None:
    """Return where a tensor lies by its parameters; None for one that travels by value.

    Raises:
        InvalidInput: The parameters are of other types, or the size is missing (INVALID_ARGUMENT).
    """
    if "shared_memory_region" not in parameters:
        return None
    name = parameters["shared_memory_region"].string_param
    if not name:
        raise InvalidInput("parameter 'shared_memory_region': expected a string_param with the region's name")
    if "shared_memory_byte_size" not in parameters:
        raise InvalidInput("parameter 'shared_memory_byte_size' is missing, expected it beside 'shared_memory_region'")
    size, offset = integer(parameters, "shared_memory_byte_size"), integer(parameters, "shared_memory_offset")
    if min(size, offset) < 0:
        raise InvalidInput(
            f"shared_memory_byte_size and _offset: expected numbers of at least 0, got {size} and {offset}"
        )
    return RegionPart(name, offset, size)


def integer(parameters: Mapping[str, pb.InferParameter], name: str) -> int:
    """Read a whole number, which some clients send as int64 and some as uint64; 0 without it.

    Raises:
        InvalidInput: The parameter is of another type (INVALID_ARGUMENT).
    """
    if name not in parameters:
        return 0
    choice = parameters[name].WhichOneof("parameter_choice")
    if choice not in ("int64_param", "uint64_param"):
        raise InvalidInput(f"parameter '{name}': expected int64_param or uint64_param, got {choice or 'no value'}")
    number: int = getattr(parameters[name], choice)
    return number


@dataclass(frozen=True, slots=True)
class RequestedOutput:
    """One output that a request asks for.

    Attributes:
        index: Its place in the graph.
        classes: How many classes of it are wanted; 0 asks for the tensor.
        region: Where to put it; None sends it back.
    """

    index: int
    classes: int = 0
    region: RegionPart | None = None


def requested_outputs(request: pb.ModelInferRequest, specs: Sequence[TensorSpec]) -> Sequence[RequestedOutput]:
    """Return the outputs in the order asked for; all of them, in the graph's order, if none is named.

    Raises:
        InvalidInput: An unknown output, one asked for twice, or a ``classification`` that is not a
            positive integer or is of an output that is no numbers (INVALID_ARGUMENT).
    """
    if not request.outputs:
        return [RequestedOutput(index) for index in range(len(specs))]
    places = {spec.name: index for index, spec in enumerate(specs)}
    wanted: list[RequestedOutput] = []
    taken: set[int] = set()
    for output in request.outputs:
        index = places.get(output.name)
        if index is None:
            raise InvalidInput(f"no output '{output.name}', expected {', '.join(places)}")
        if index in taken:
            raise InvalidInput(f"output '{output.name}' is requested twice")
        taken.add(index)
        classes = _classes(output.parameters)
        if classes and specs[index].datatype in ("BYTES", "BOOL"):
            raise InvalidInput(
                f"output '{output.name}' is {specs[index].datatype}, whose values cannot be ranked as classes"
            )
        wanted.append(RequestedOutput(index, classes, region_of(output.parameters)))
    return wanted


def _classes(parameters: Mapping[str, pb.InferParameter]) -> int:
    if "classification" not in parameters:
        return 0
    parameter = parameters["classification"]
    choice = parameter.WhichOneof("parameter_choice")
    if choice != "int64_param" or parameter.int64_param < 1:
        came = parameter.int64_param if choice == "int64_param" else choice or "no value"
        raise InvalidInput(f"parameter 'classification': expected a positive int64_param, got {came}")
    return int(parameter.int64_param)


def classification(scores: np.ndarray, classes: int, labels: Sequence[str]) -> np.ndarray:
    """Return the best classes as Triton's classification extension writes them.

    Args:
        scores: (N, ...) numbers; a row of several dimensions is ranked flat, as Triton does.
        classes: How many, cut to K.
        labels: By class; empty without labels.

    Returns:
        Objects (N, min(classes, K)), K elements a row, each ``value:index`` or ``value:index:label`` as bytes.
    """
    rows = as_numbers(scores).reshape(len(scores), -1)
    table = [[_scored(row[i], i, labels) for i in top_k(row, classes).tolist()] for row in rows]
    return np.array(table, dtype=object)


def _scored(value: np.number, index: int, labels: Sequence[str]) -> bytes:
    label = f":{labels[index]}" if index < len(labels) else ""
    # Formatting makes a float of a whole number, which would change a large one.
    shown = f"{value}.000000" if isinstance(value, np.integer) else f"{value:f}"
    return f"{shown}:{index}{label}".encode()


def encode_response(head: bytes, request_id: str, raw: Sequence[bytes]) -> bytes:
    """Put a serialised ModelInferResponse together from a head that many responses share.

    Serialised messages may be concatenated (protobuf encoding, "Last One Wins"), so only id and raw
    contents are written anew.
    """
    parts = [head]
    if request_id:
        encoded = request_id.encode()
        parts += (_ID_TAG, write_varint(len(encoded)), encoded)
    for contents in raw:
        parts += (raw_tag(len(contents)), contents)
    return b"".join(parts)


def raw_tag(size: int) -> bytes:
    """Return what precedes raw contents of that many bytes."""
    return _RAW_TAG + write_varint(size)
