"""errors: each mistake is refused with its code, and the server goes on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc

from bench.conformance.model import Model
from bench.conformance.outcome import NotApplicable
from bench.conformance.registry import model_check, server_check
from bench.conformance.tensors import DTYPES, FIELDS, Tensor, make_array, to_raw
from service.pb.inference import grpc_service_pb2 as pb

_REQUEST = "OIP, ModelInferRequest; the code: Triton"
# A datatype of the same size, so that only the datatype is wrong.
_OTHER = {
    "BOOL": "INT8", "UINT8": "INT8", "INT8": "UINT8", "UINT16": "INT16", "INT16": "UINT16", "UINT32": "INT32",
    "INT32": "FP32", "FP32": "INT32", "UINT64": "INT64", "INT64": "FP64", "FP64": "INT64", "FP16": "INT16",
    "BF16": "INT16", "BYTES": "INT32",
}  # fmt: skip
_Mistake = Callable[[Model, pb.ModelInferRequest], None]


def _mistake(demand: str, source: str = _REQUEST) -> Callable[[_Mistake], _Mistake]:
    """Register a function that spoils a valid request; the server must then answer INVALID_ARGUMENT."""

    def add(spoil: _Mistake) -> _Mistake:
        def run(suite: Any, model: Model) -> None:
            request = model.valid_request(seed=11)
            spoil(model, request)
            suite.target.refused("ModelInfer", request, grpc.StatusCode.INVALID_ARGUMENT)

        model_check("errors", f"{demand} is INVALID_ARGUMENT", source)(run)
        return spoil

    return add


@server_check("errors", "an unknown model is NOT_FOUND", _REQUEST)
def unknown_model(suite: Any) -> None:
    request = pb.ModelInferRequest(model_name="no-such-model")
    suite.target.refused("ModelInfer", request, grpc.StatusCode.NOT_FOUND)


@server_check("errors", "no model name is INVALID_ARGUMENT or NOT_FOUND", _REQUEST)
def no_model_name(suite: Any) -> None:
    suite.target.refused(
        "ModelInfer", pb.ModelInferRequest(), grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
    )


@_mistake("a wrong name of an input")
def wrong_name(_: Model, request: pb.ModelInferRequest) -> None:
    request.inputs[0].name = "no-such-input"


@_mistake("a wrong datatype")
def wrong_datatype(model: Model, request: pb.ModelInferRequest) -> None:
    tensor = request.inputs[0]
    other = Tensor(tensor.name, _OTHER[tensor.datatype], tuple(tensor.shape))
    request.raw_input_contents[0] = to_raw(make_array(other, other.shape, 0, any_value=False))
    tensor.datatype = other.datatype


@_mistake("a datatype that does not exist")
def no_datatype(_: Model, request: pb.ModelInferRequest) -> None:
    request.inputs[0].datatype = "FLOAT"


@_mistake("a wrong size of a fixed axis")
def wrong_size(model: Model, request: pb.ModelInferRequest) -> None:
    for place, tensor in enumerate(model.inputs):
        for axis, size in enumerate(tensor.shape):
            if size > 0:
                shape = list(model.shape(tensor, 1))
                shape[axis] += 1
                request.inputs[place].shape[:] = shape
                request.raw_input_contents[place] = to_raw(make_array(tensor, shape, 0, any_value=False))
                return
    raise NotApplicable("the model has no fixed axis")


@_mistake("one axis too many")
def wrong_rank(_: Model, request: pb.ModelInferRequest) -> None:
    request.inputs[0].shape.append(1)


@_mistake("one axis too few")
def no_axis(_: Model, request: pb.ModelInferRequest) -> None:
    del request.inputs[0].shape[:]


@_mistake("a negative size")
def negative_size(_: Model, request: pb.ModelInferRequest) -> None:
    request.inputs[0].shape[0] = -1


@_mistake("a size that does not fit into memory")
def enormous_size(_: Model, request: pb.ModelInferRequest) -> None:
    request.inputs[0].shape[0] = 2**60


@_mistake("a byte too few in raw contents")
def byte_too_few(_: Model, request: pb.ModelInferRequest) -> None:
    request.raw_input_contents[0] = request.raw_input_contents[0][:-1]


@_mistake("a byte too many in raw contents")
def byte_too_many(_: Model, request: pb.ModelInferRequest) -> None:
    request.raw_input_contents[0] += b"\0"


@_mistake("a raw content too few", "OIP, raw_input_contents (one for each input)")
def raw_too_few(_: Model, request: pb.ModelInferRequest) -> None:
    del request.raw_input_contents[-1]


@_mistake("a raw content too many", "OIP, raw_input_contents (one for each input)")
def raw_too_many(_: Model, request: pb.ModelInferRequest) -> None:
    request.raw_input_contents.append(request.raw_input_contents[-1])


def _typed_place(model: Model) -> int:
    for place, tensor in enumerate(model.inputs):
        if tensor.datatype in FIELDS:
            return place
    raise NotApplicable("every input can be sent raw only")


def _make_typed(model: Model, request: pb.ModelInferRequest) -> int:
    """Turn raw contents into typed ones; return the place of an input that has a field."""
    place = _typed_place(model)
    if any(tensor.datatype not in FIELDS for tensor in model.inputs):
        raise NotApplicable("an input can be sent raw only")
    request.CopyFrom(model.request(model.arrays(seed=11), typed=True))
    return place


@_mistake("raw and typed contents together", "OIP, raw_input_contents; the code: Triton")
def raw_and_typed(model: Model, request: pb.ModelInferRequest) -> None:
    place = _typed_place(model)
    values = model.arrays(seed=11)[model.inputs[place].name].ravel().tolist()
    getattr(request.inputs[place].contents, FIELDS[model.inputs[place].datatype]).extend(values)


@_mistake("an element too few in typed contents", "OIP, InferTensorContents; the code: Triton")
def element_too_few(model: Model, request: pb.ModelInferRequest) -> None:
    place = _make_typed(model, request)
    getattr(request.inputs[place].contents, FIELDS[model.inputs[place].datatype]).pop()


@_mistake("typed contents in the field of another datatype", "OIP, InferTensorContents; the code: Triton")
def wrong_field(model: Model, request: pb.ModelInferRequest) -> None:
    place = _make_typed(model, request)
    contents, own = request.inputs[place].contents, FIELDS[model.inputs[place].datatype]
    count = len(getattr(contents, own))
    contents.ClearField(own)
    other = "fp64_contents" if own != "fp64_contents" else "fp32_contents"
    getattr(contents, other).extend([1.0] * count)


@_mistake("a typed element that does not fit its datatype", "no text says so")
def does_not_fit(model: Model, request: pb.ModelInferRequest) -> None:
    narrow = [
        place for place, tensor in enumerate(model.inputs) if tensor.datatype in ("INT8", "INT16", "UINT8", "UINT16")
    ]
    if not narrow:
        raise NotApplicable("the model has no integers of 8 or 16 bits")
    _make_typed(model, request)
    getattr(request.inputs[narrow[0]].contents, FIELDS[model.inputs[narrow[0]].datatype])[0] = 2**20


@_mistake("an input missing")
def missing_input(model: Model, request: pb.ModelInferRequest) -> None:
    needed = [place for place, tensor in enumerate(model.inputs) if tensor.name not in model.optional]
    if not needed:
        raise NotApplicable("every input may be left out")
    del request.inputs[needed[-1]]
    del request.raw_input_contents[needed[-1]]


@_mistake("an input too many")
def extra_input(_: Model, request: pb.ModelInferRequest) -> None:
    request.inputs.add(name="no-such-input", datatype="FP32", shape=request.inputs[0].shape[:1] or [1])
    request.raw_input_contents.append(b"\0" * 4)


@_mistake("an input given twice")
def duplicate_input(_: Model, request: pb.ModelInferRequest) -> None:
    request.inputs.add().CopyFrom(request.inputs[0])
    request.raw_input_contents.append(request.raw_input_contents[0])


@_mistake("inputs of different numbers of rows", "Triton, model_configuration.md (the batch is one axis of all inputs)")
def different_rows(model: Model, request: pb.ModelInferRequest) -> None:
    if len(model.inputs) < 2 or model.max_rows < 2 or not model.batched:
        raise NotApplicable("the model has one input, or takes one row")
    last = model.inputs[-1]
    array = make_array(last, model.shape(last, 2), 0, any_value=False)
    request.inputs[-1].shape[:] = array.shape
    request.raw_input_contents[-1] = to_raw(array)


@model_check("errors", "after all these errors, a valid request is answered", _REQUEST)
def goes_on(suite: Any, model: Model) -> None:
    suite.target.infer(model.valid_request())


assert set(_OTHER) == set(DTYPES)
