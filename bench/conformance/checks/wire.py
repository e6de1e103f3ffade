"""unknown-fields and large-messages: what goes beyond this version of the protocol, or beyond usual sizes."""

from __future__ import annotations

from typing import Any

import grpc
import numpy as np

from bench.conformance.model import Model, outputs_of
from bench.conformance.outcome import CallFailed, NotApplicable, Unsupported, expect
from bench.conformance.registry import model_check
from service.pb.inference import grpc_service_pb2 as pb

_UNKNOWN = "Protocol Buffers, Unknown Fields: a newer client must be understood"
_LARGE = "no text says so; tritonclient sends up to 2 GB"
_MEGABYTE = 2**20
# Fields 9999 (varint 7), 9998 ("new") and 9997 (eight bytes), as a later version of a message might have them.
_FIELDS = b"\xf8\xf0\x04\x07" + b"\xf2\xf0\x04\x03new" + b"\xe9\xf0\x04" + b"\x00" * 8


@model_check("unknown-fields", "fields of the request that a server does not know are ignored", _UNKNOWN)
def in_the_request(suite: Any, model: Model) -> None:
    request = model.valid_request(seed=12)
    expected = outputs_of(suite.target.infer(request))
    came = outputs_of(suite.target.infer(request.SerializeToString() + _FIELDS))
    model.check_same(expected, came, "with unknown fields")


@model_check("unknown-fields", "fields of an input that a server does not know are ignored", _UNKNOWN)
def in_an_input(suite: Any, model: Model) -> None:
    request = model.valid_request(seed=12)
    expected = outputs_of(suite.target.infer(request))
    request.inputs[0].MergeFromString(_FIELDS)
    model.check_same(expected, outputs_of(suite.target.infer(request)), "with unknown fields of an input")


@model_check("unknown-fields", "fields of ModelMetadataRequest that a server does not know are ignored", _UNKNOWN)
def in_metadata(suite: Any, model: Model) -> None:
    suite.target.call("ModelMetadata", pb.ModelMetadataRequest(name=model.name).SerializeToString() + _FIELDS)


def _padded(model: Model, megabytes: int) -> pb.ModelInferRequest:
    """Return a valid request, made large by an unknown parameter, so that it suits any model."""
    request = model.valid_request(seed=13)
    request.parameters["conformance_padding"].string_param = "x" * (megabytes * _MEGABYTE)
    return request


@model_check("large-messages", "a request of 5 MB, more than gRPC takes by itself, is answered", _LARGE)
def five_megabytes(suite: Any, model: Model) -> None:
    expected = outputs_of(suite.target.infer(model.valid_request(seed=13)))
    model.check_same(expected, outputs_of(_answer(suite, _padded(model, 5))), "a large request")


@model_check("large-messages", "an answer of 5 MB comes back whole", _LARGE)
def large_answer(suite: Any, model: Model) -> None:
    tensor = next((t for t in model.inputs if t.datatype == "BYTES" and t.name in model.mirrors.values()), None)
    if tensor is None:
        raise NotApplicable("no output gives a BYTES input back")
    arrays = model.arrays()
    arrays[tensor.name] = _one_large(arrays[tensor.name].shape)
    model.check_mirrors(arrays, outputs_of(_answer(suite, model.request(arrays))))


def _answer(suite: Any, request: pb.ModelInferRequest) -> pb.ModelInferResponse:
    """Return the answer to a large request; a server that takes less says so."""
    try:
        answer: pb.ModelInferResponse = suite.target.infer(request)
    except CallFailed as failed:
        if failed.code is grpc.StatusCode.RESOURCE_EXHAUSTED:
            raise Unsupported(f"the server takes less: {failed}") from None
        raise
    return answer


def _one_large(shape: tuple[int, ...]) -> np.ndarray:
    flat = np.empty(int(np.prod(shape)), dtype=object)
    flat[:] = [b"0123456789abcdef" * (5 * _MEGABYTE // 16)] + [b""] * (len(flat) - 1)
    return flat.reshape(shape)


@model_check("large-messages", "80 MB are answered, or RESOURCE_EXHAUSTED and the server goes on", "gRPC, Status Codes")
def eighty_megabytes(suite: Any, model: Model) -> None:
    if model is not suite.models[0]:
        raise NotApplicable("asked of the first model only")
    try:
        suite.target.infer(_padded(model, 80))
    except CallFailed as failed:
        expect(failed.code is grpc.StatusCode.RESOURCE_EXHAUSTED, "an answer or RESOURCE_EXHAUSTED", failed)
    suite.target.infer(model.valid_request())
